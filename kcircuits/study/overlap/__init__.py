"""How alike circuits are between all epochs of a run."""
