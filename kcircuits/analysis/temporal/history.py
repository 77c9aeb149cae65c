"""The history of each item of a circuit over epochs, and the core that persists.

Epochs are counted by their place among those measured.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from kcircuits.analysis.temporal.presence import Presence, settled

NEVER = -1


@dataclass(frozen=True, kw_only=True)
class History:
    """The history of each item.

    Attributes:
        first_seen: Place of the first epoch at which it replicates; ``NEVER`` where at none.
        last_seen: Place of the last one.
        n_present: At how many epochs it replicates.
        lifetime: Epochs from the first to the last, both counted; 0 where never seen.
        n_spells: In how many runs of epochs, undecided epochs bridging (``settled``).
    """

    first_seen: Int[np.ndarray, " item"]
    last_seen: Int[np.ndarray, " item"]
    n_present: Int[np.ndarray, " item"]
    lifetime: Int[np.ndarray, " item"]
    n_spells: Int[np.ndarray, " item"]


def history(items: Presence, is_observed: Bool[np.ndarray, " epoch"]) -> History:
    """First seen, last seen, epochs present, lifetime and spells of each item.

    Args:
        items: When they are there.
        is_observed: Epochs at which the fact has a circuit.
    """
    there = items.in_both & is_observed[:, None]
    n_epochs, is_ever = len(there), there.any(0)
    first = np.where(is_ever, there.argmax(0), NEVER)
    last = np.where(is_ever, n_epochs - 1 - there[::-1].argmax(0), NEVER)
    state = settled(items.in_both, items.in_neither, is_observed) == 1
    begins = state & ~np.pad(state, ((1, 0), (0, 0)))[:-1]
    return History(
        first_seen=first,
        last_seen=last,
        n_present=there.sum(0),
        lifetime=np.where(is_ever, last - first + 1, 0),
        n_spells=begins.sum(0),
    )


def core(
    in_both: Bool[np.ndarray, "epoch item"],
    is_observed: Bool[np.ndarray, " epoch"],
    *,
    share: float = 1.0,
    since: int = 0,
) -> Bool[np.ndarray, " item"]:
    """Items that replicate at all observed epochs from one on, or at a share of them.

    Args:
        in_both: See ``Presence``.
        is_observed: Epochs that count (the fact is known there). None: no core.
        share: Of the epochs that count; 1 for all.
        since: Place of the first epoch that counts.
    """
    counted = in_both[since:][is_observed[since:]]
    if not len(counted):
        return np.zeros(in_both.shape[1], dtype=bool)
    return counted.sum(0) >= share * len(counted) - 1e-9
