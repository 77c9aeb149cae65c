"""How faithful the circuits of an epoch are."""
