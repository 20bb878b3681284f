"""What `make bench` runs: this project's speed beside other ways to do the same."""
