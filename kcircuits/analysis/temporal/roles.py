"""Heads and MLPs that acquire or lose a role by their place in the graph.

A role is to be a hub of a fact's circuit, or to belong to its persistent core. As with edges, a
node becomes (stops being) a hub in a step only if both halves of the prompts agree: not in either
half's circuit before, and in both after. What a head computes is another question.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from kcircuits.analysis.temporal.history import NEVER
from kcircuits.analysis.temporal.presence import Presence, settled


@dataclass(frozen=True, kw_only=True)
class CoreTerms:
    """When each item enters the core for good, or leaves it.

    Attributes:
        entered: Place of the epoch from which it is there to the last; ``NEVER`` where it is not
            there at the last, or has been from the first.
        left: Place of the epoch at which it is gone, having been there from the first; ``NEVER``
            where it was not there at the first, or still is.
    """

    entered: Int[np.ndarray, " item"]
    left: Int[np.ndarray, " item"]


def core_terms(items: Presence, is_observed: Bool[np.ndarray, " epoch"]) -> CoreTerms:
    """When items enter and leave the core, over the observed epochs.

    Args:
        items: When they are there.
        is_observed: Epochs that count.
    """
    places = np.flatnonzero(is_observed)
    if not len(places):
        never = np.full(items.in_both.shape[1], NEVER)
        return CoreTerms(entered=never, left=never)
    there = settled(
        items.in_both[places], items.in_neither[places], np.ones(len(places), dtype=bool)
    ) == 1  # fmt: skip
    n_final = _n_leading(there[::-1])
    n_first = _n_leading(there)
    is_whole = n_first == len(places)
    started = np.append(places, NEVER)[len(places) - n_final]  # nothing final: never
    ended = np.append(places, NEVER)[n_first]
    return CoreTerms(
        entered=np.where(is_whole, NEVER, started),
        left=np.where(n_first > 0, ended, NEVER),
    )


def _n_leading(there: Bool[np.ndarray, "epoch item"]) -> Int[np.ndarray, " item"]:
    """For how many epochs from the first it is there without a gap."""
    return np.logical_and.accumulate(there, axis=0).sum(0)
