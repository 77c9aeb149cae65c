"""Methods compared on the same facts, and beside each other in a run."""
