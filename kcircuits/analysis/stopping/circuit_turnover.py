"""Circuit turnover: stop when the circuits of known facts have come to rest."""

from dataclasses import dataclass
from typing import ClassVar

from kcircuits.analysis.stopping.rule import Decision, History, Needs, check_setting, last


@dataclass(frozen=True, kw_only=True)
class CircuitTurnover:
    """Stops after ``patience`` steps in a row with a turnover of at most ``max_turnover``.

    Attributes:
        patience: Steps in a row.
        max_turnover: Normalised turnover from one epoch to the next (METHODS.md section 6).
    """

    needs: ClassVar[Needs] = "turnover"
    patience: int = 2
    max_turnover: float = 0.1

    def __post_init__(self) -> None:
        check_setting(self, "patience", at_least=1, is_whole=True)
        check_setting(self, "max_turnover", at_least=0)

    def decide(self, history: History) -> Decision:
        """Keeps the newest epoch; a step without a turnover is no rest."""
        recent = history.turnover[-self.patience :]
        is_rest = len(recent) == self.patience and bool((recent <= self.max_turnover).all())
        return Decision(is_stop=is_rest, pick=last(history))
