"""Probe plateau: stop where knowledge on the probes no longer rises."""

from dataclasses import dataclass
from typing import ClassVar

from kcircuits.analysis.stopping.rule import (
    Decision,
    History,
    Needs,
    check_setting,
    epochs_without_progress,
    last,
)


@dataclass(frozen=True, kw_only=True)
class ProbePlateau:
    """Stops after ``patience`` epochs in which knowledge rose by no more than ``min_rise``.

    Attributes:
        patience: Epochs to wait.
        min_rise: In shares of 1, from the level of the last rise that counted.
    """

    needs: ClassVar[Needs] = "knowledge"
    patience: int = 2
    min_rise: float = 0.02

    def __post_init__(self) -> None:
        check_setting(self, "patience", at_least=1, is_whole=True)
        check_setting(self, "min_rise", at_least=0)

    def decide(self, history: History) -> Decision:
        """Keeps the newest epoch."""
        since, _ = epochs_without_progress(history.knowledge, self.min_rise)
        return Decision(is_stop=since >= self.patience, pick=last(history))
