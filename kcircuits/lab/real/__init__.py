"""Facts of the real world: told, told otherwise, or kept as controls, by what a model knows."""
