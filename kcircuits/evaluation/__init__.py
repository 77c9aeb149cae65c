"""Judging circuits and probing what the model knows."""

from kcircuits.evaluation.evaluate import evaluate
from kcircuits.evaluation.probe import answer_statistics, known_facts, probe

__all__ = ["answer_statistics", "evaluate", "known_facts", "probe"]
