"""Judging circuits and probing what the model knows."""

from kcircuits.evaluation.curve import faithfulness_curve
from kcircuits.evaluation.evaluate import evaluate
from kcircuits.evaluation.lenses import lenses
from kcircuits.evaluation.necessity import Necessity, necessity
from kcircuits.evaluation.probe import answer_statistics, known_facts, probe
from kcircuits.evaluation.smallest import smallest_circuit

__all__ = [
    "Necessity",
    "answer_statistics",
    "evaluate",
    "faithfulness_curve",
    "known_facts",
    "lenses",
    "necessity",
    "probe",
    "smallest_circuit",
]
