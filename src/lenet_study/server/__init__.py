"""The team's server."""
