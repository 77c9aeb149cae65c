"""Statistics of change between epochs, on plain numpy arrays: no model, no disk, no torch."""
