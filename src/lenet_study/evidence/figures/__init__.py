"""The study's pictures."""
