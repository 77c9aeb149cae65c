"""What the number at an edge says, in the words that tables and figures use for it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ScoreMeaning:
    """What the number at an edge says.

    Attributes:
        unit: Of the numbers: that of the metric, or ``probability``.
        helps: The side of 0 on which the edge helps the answer; None for numbers without a sign.
    """

    unit: str
    helps: Literal["below 0", "above 0"] | None

    @property
    def name(self) -> str:
        """One of the numbers, e.g. in a hover text."""
        return "probability that the edge is kept" if self.helps is None else "score"

    @property
    def names(self) -> str:
        """Several of them, e.g. in a heading."""
        return "probabilities that edges are kept" if self.helps is None else "signed scores"

    @property
    def note(self) -> str:
        """How to read them, in a few words."""
        return "means of gates" if self.helps is None else f"{self.helps} helps"

    @property
    def axis(self) -> str:
        """Title of an axis."""
        if self.helps is None:
            return "probability that the edge is kept (mean of its gate)"
        return f"edge score ({self.unit}; {self.note})"

    @property
    def sentence(self) -> str:
        """How to read them, for a caption."""
        if self.helps is None:
            return (
                "The number at an edge is the probability that pruning keeps it, the mean of its "
                "gate; it does not tell whether the edge helps or hurts."
            )
        return f"A score {self.helps} helps the answer."


# Means of the gates of a pruning.
GATES = ScoreMeaning(unit="probability", helps=None)
