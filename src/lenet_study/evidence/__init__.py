"""The worth of a model."""
