"""The study's pictures: arrays in, matplotlib Figure out; the caller saves them."""
