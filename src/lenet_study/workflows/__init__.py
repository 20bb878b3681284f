"""Whole pieces of work as plain functions."""
