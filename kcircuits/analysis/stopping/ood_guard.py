"""OOD guard: stop when skills out of domain have fallen too far."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kcircuits.analysis.stopping.rule import Decision, History, Needs, check_setting, last


@dataclass(frozen=True, kw_only=True)
class OodGuard:
    """Stops when mean accuracy out of domain is more than ``max_fall`` below the first epoch's.

    Attributes:
        max_fall: In shares of 1.
    """

    needs: ClassVar[Needs] = "ood"
    max_fall: float = 0.05

    def __post_init__(self) -> None:
        check_setting(self, "max_fall", at_least=0)

    def decide(self, history: History) -> Decision:
        """Keeps the epoch before the fall, or the newest while there was none."""
        there = np.flatnonzero(np.isfinite(history.ood))
        if not len(there):
            return Decision(is_stop=False, pick=last(history))
        fallen = np.flatnonzero(history.ood < history.ood[there[0]] - self.max_fall)
        if not len(fallen):
            return Decision(is_stop=False, pick=last(history))
        return Decision(is_stop=True, pick=int(fallen[0]) - 1)
