"""How long knowledge lasts: the life table of windows in which a fact is known.

A window ends by forgetting; those that begin at the first epoch are left out (``survival``).
"""

import numpy as np
from jaxtyping import Bool, Shaped

from kcircuits.analysis.survival import LifeTable, count_spells, life_table
from kcircuits.core.bootstrap import N_DRAWS


def window_table(
    is_known: Bool[np.ndarray, "fact epoch"],
    entities: Shaped[np.ndarray, " fact"],
    *,
    seed: int = 0,
    n_draws: int = N_DRAWS,
) -> LifeTable:
    """The life table of all windows of all facts.

    Args:
        is_known: y_t.
        entities: Entity of each fact, drawn whole in the bootstrap.
        seed: Of the bootstrap.
        n_draws: Of the bootstrap.
    """
    n_facts = len(is_known)
    counts = count_spells(is_known, np.arange(n_facts), n_facts)
    return life_table(counts, entities, seed=seed, n_draws=n_draws)
