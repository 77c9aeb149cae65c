"""How long edges and nodes stay in a fact's circuit: their spells, for ``survival.life_table``.

Spells are runs of the settled presence (``presence.settled``) over epochs at which the fact is
known: what is there when the fact is first known, or first known again, is left-truncated; what is
there when it is last known is right-censored. An item that was not decided yet has not been looked
at, so what comes out of the undecided is left-truncated too.
"""

import numpy as np
from jaxtyping import Bool

from kcircuits.analysis.survival import SpellCounts, count_spells
from kcircuits.analysis.temporal.presence import UNDECIDED, settled


def presence_spells(
    in_both: Bool[np.ndarray, "epoch item"],
    in_neither: Bool[np.ndarray, "epoch item"],
    is_known: Bool[np.ndarray, " epoch"],
) -> SpellCounts:
    """Spells of the items of one fact, all as one owner.

    Args:
        in_both: See ``Presence``.
        in_neither: See ``Presence``.
        is_known: Epochs at which the fact is known.
    """
    state = settled(in_both, in_neither, is_known).T
    return count_spells(state == 1, np.zeros(len(state), dtype=np.int64), 1, state != UNDECIDED)


def add_spells(counts: list[SpellCounts]) -> SpellCounts:
    """The spells of several owners, one after the other."""
    return SpellCounts(
        n_spells=np.concatenate([one.n_spells for one in counts]),
        ended=np.concatenate([one.ended for one in counts]),
        at_risk=np.concatenate([one.at_risk for one in counts]),
    )
