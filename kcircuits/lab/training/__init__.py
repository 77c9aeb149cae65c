"""Continual pre-training, watched and written down; and the callback for trainings of others."""
