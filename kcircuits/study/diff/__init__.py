"""What changed between two epochs."""
