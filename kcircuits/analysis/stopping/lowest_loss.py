"""Lowest loss: train to the end, keep the epoch of the lowest training loss."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kcircuits.analysis.stopping.rule import Decision, History, Needs, last


@dataclass(frozen=True, kw_only=True)
class LowestLoss:
    """Never stops; what is done where nothing but the loss is watched."""

    needs: ClassVar[Needs] = "loss"

    def decide(self, history: History) -> Decision:
        """Goes on, keeping the lowest loss so far; the newest epoch before any loss."""
        if not history.has("loss"):
            return Decision(is_stop=False, pick=last(history))
        return Decision(is_stop=False, pick=int(np.nanargmin(history.loss)))
