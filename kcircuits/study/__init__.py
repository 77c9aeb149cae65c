"""What a notebook holds: runs, diffs and their pages. Ties files, statistics and plots together."""

from kcircuits.study.run import Run, open_run

__all__ = ["Run", "open_run"]
