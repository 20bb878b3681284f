"""Models to train, and their training."""
