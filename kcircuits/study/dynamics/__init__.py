"""What models knew from epoch to epoch, when to stop, and training strategies compared."""
