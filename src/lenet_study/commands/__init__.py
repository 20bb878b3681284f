"""One file per entry point: parse, compute, track."""
