"""When an edge or a node is in a fact's circuit, and when it is born and dies.

An item is there if it replicates: it is in the circuits of *both* halves of the prompts, in at
least half of the splits; it is gone if it is in *neither*. What is in one half only is undecided.
It is born (dies) between two neighbouring epochs only if both halves agree: in neither at the one
and in both at the other, in the same split, in at least half of the splits. That is what ``gained``
and ``lost`` mean in ``overlap.turnover``. The plain presence, top n of the mean over all prompts,
stands beside it: it has no guard against noise.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from kcircuits.analysis.overlap.turnover import REPLICATED

UNDECIDED = -1


@dataclass(frozen=True, kw_only=True)
class Presence:
    """When each item is in a fact's circuit.

    Attributes:
        in_both: It replicates.
        in_neither: It is gone.
        born: Born in the step from an epoch to the next.
        died: Died in that step.
        kept: In both halves at either epoch of the step.
        plain: In the circuit of the mean over all prompts.
    """

    in_both: Bool[np.ndarray, "epoch item"]
    in_neither: Bool[np.ndarray, "epoch item"]
    born: Bool[np.ndarray, "step item"]
    died: Bool[np.ndarray, "step item"]
    kept: Bool[np.ndarray, "step item"]
    plain: Bool[np.ndarray, "epoch item"]

    def only(self, items: Int[np.ndarray, " chosen"]) -> "Presence":
        """Of a part of the items."""
        return Presence(**{name: values[:, items] for name, values in vars(self).items()})


def presence(
    a: Bool[np.ndarray, "split epoch item"],
    b: Bool[np.ndarray, "split epoch item"],
    plain: Bool[np.ndarray, "epoch item"],
) -> Presence:
    """When items are there, from the circuits of both halves of every split.

    Args:
        a: Items of the first half.
        b: Items of the second half.
        plain: Items of the circuit of all prompts.
    """
    both, neither = a & b, ~(a | b)
    in_both, in_neither = _replicated(both), _replicated(neither)
    return Presence(
        in_both=in_both,
        in_neither=in_neither & ~in_both,  # an even number of splits may be evenly split
        born=_replicated(both[:, 1:] & neither[:, :-1]),
        died=_replicated(both[:, :-1] & neither[:, 1:]),
        kept=_replicated(both[:, :-1] & both[:, 1:]),
        plain=plain,
    )


def settled(
    in_both: Bool[np.ndarray, "epoch item"],
    in_neither: Bool[np.ndarray, "epoch item"],
    is_observed: Bool[np.ndarray, " epoch"],
) -> Int[np.ndarray, "epoch item"]:
    """1 there, 0 gone, -1 nobody knows: undecided epochs carry on what was last decided.

    An edge that fades passes through epochs at which only one half has it: it dies in no step by
    itself, and yet is gone in the end. Its death is dated to the first epoch at which both halves
    agree. Nothing is carried over epochs that are not observed.

    Args:
        in_both: See ``Presence``.
        in_neither: See ``Presence``.
        is_observed: Epochs at which the circuit counts (the fact is known there).
    """
    state = np.full(in_both.shape, UNDECIDED, dtype=np.int8)
    state[in_neither] = 0
    state[in_both] = 1
    state[~is_observed] = UNDECIDED
    for epoch in range(1, len(state)):
        if is_observed[epoch]:
            undecided = state[epoch] == UNDECIDED
            state[epoch, undecided] = state[epoch - 1, undecided]
    return state


def _replicated(in_split: Bool[np.ndarray, "split *rest"]) -> Bool[np.ndarray, "*rest"]:
    """In at least half of the splits; nowhere without a split."""
    return np.count_nonzero(in_split, axis=0) >= max(REPLICATED * len(in_split), 0.5)
