"""Probe peak: stop some epochs after the best knowledge, and go back to it."""

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
class ProbePeak:
    """Stops when the best knowledge has not been beaten for ``patience`` epochs.

    Attributes:
        patience: Epochs to wait.
    """

    needs: ClassVar[Needs] = "knowledge"
    patience: int = 3

    def __post_init__(self) -> None:
        check_setting(self, "patience", at_least=1, is_whole=True)

    def decide(self, history: History) -> Decision:
        """Keeps the best epoch so far, the first of equals."""
        since, best = epochs_without_progress(history.knowledge, 0.0)
        pick = best if best >= 0 else last(history)
        return Decision(is_stop=since >= self.patience, pick=pick)
