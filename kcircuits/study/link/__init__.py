"""Turnover of circuits and forgetting."""
