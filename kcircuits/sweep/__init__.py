"""Sweeps: every fact at every checkpoint, resumable. Asking, planning and executing are apart."""
