"""Images in, model out."""
