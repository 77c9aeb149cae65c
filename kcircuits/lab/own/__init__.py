"""Documents and facts of one's own, taken the way that a generated benchmark goes."""
