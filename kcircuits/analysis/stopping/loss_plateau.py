"""Loss plateau: stop where the training loss no longer falls."""

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
class LossPlateau:
    """Stops after ``patience`` epochs in which the loss fell by no more than ``min_drop``.

    Attributes:
        patience: Epochs to wait.
        min_drop: In nats per token, from the loss of the last fall that counted.
    """

    needs: ClassVar[Needs] = "loss"
    patience: int = 2
    min_drop: float = 0.01

    def __post_init__(self) -> None:
        check_setting(self, "patience", at_least=1, is_whole=True)
        check_setting(self, "min_drop", at_least=0)

    def decide(self, history: History) -> Decision:
        """Keeps the newest epoch."""
        since, _ = epochs_without_progress(-history.loss, self.min_drop)
        return Decision(is_stop=since >= self.patience, pick=last(history))
