"""What `make faults` runs: faults injected into real commands on toy images, and what became of the work."""
