"""Overlap between facts, and of the same facts in other runs or by other methods."""
