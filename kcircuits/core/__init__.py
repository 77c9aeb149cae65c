"""Frozen data and pure functions on it. No I/O, no torch."""
