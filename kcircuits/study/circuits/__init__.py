"""A study of circuits over training seeds."""
