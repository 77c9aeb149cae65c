"""Is a fact's circuit in one set of results its circuit in another, or any of its relation's?

Two runs may agree on a fact only because they agree on its relation. So the overlap of fact i in
the one with fact i in the other stands beside that with other facts of its relation, the *second
floor*; exchanging the facts of each relation in one of the two says whether the first is larger
than it would be if it did not matter which fact it is.

Source: our own; permutation p-values count the observed order (Phipson and Smyth 2010).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from kcircuits.analysis.overlap.between_facts import SharedInterval, jackknife_pairs
from kcircuits.analysis.overlap.contrast import N_PERMUTATIONS, exchanged
from kcircuits.analysis.overlap.corrected import Items
from kcircuits.analysis.overlap.fact_halves import FactHalves, cross_overlaps
from kcircuits.analysis.overlap.turnover import MIN_CEILING


@dataclass(frozen=True, kw_only=True)
class OwnFacts:
    """Facts with themselves and with others of their relation, in two sets of results.

    Attributes:
        own: sum k_ii / sum c_ii: of a fact in the one with itself in the other.
        other: sum k_ij / sum c_ij over different facts of one relation.
        difference: Own minus other, with its interval over entities.
        p: Of the difference, by exchanging facts within their relation.
        n_facts: Facts in relations of two at least; all is NaN where there are none, or where the
            halves of either set reproduce too little.
    """

    own: float = np.nan
    other: float = np.nan
    difference: SharedInterval
    p: float = np.nan
    n_facts: int


def own_facts(
    x: Sequence[FactHalves],
    y: Sequence[FactHalves],
    items: Items,
    relations: Shaped[np.ndarray, " fact"],
    entities: Shaped[np.ndarray, " fact"],
    meets: Bool[np.ndarray, "fact fact"],
    *,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> OwnFacts:
    """Compares every fact in ``x`` with itself and with others of its relation in ``y``.

    Args:
        x: Facts in one set of results.
        y: The same facts in another.
        items: All items in their blocks.
        relations: Relation of each fact.
        entities: The entity of each fact.
        meets: Pairs that do not compare, see ``meet_own_templates``.
        n_permutations: Of the facts, beside the observed order.
        seed: Of the permutations.
    """
    n_facts = len(x)
    tops, bottoms = np.zeros((2, n_facts, n_facts))
    shown = np.zeros(n_facts, dtype=bool)
    reproduced = np.zeros((2, n_facts))
    for relation in np.unique(relations):
        places = np.flatnonzero(relations == relation).tolist()
        if len(places) < 2:
            continue
        shown[places] = True
        inside = np.ix_(places, places)
        sides = [[halves[i] for i in places] for halves in (x, y)]
        (crossed,) = cross_overlaps(sides[0], sides[1], [items])
        own = [cross_overlaps(side, side, [items])[0].own for side in sides]
        reproduced[:, places] = own
        tops[inside] = crossed.corrected
        bottoms[inside] = np.sqrt(np.outer(*np.maximum(own, 0)))
    same = np.eye(n_facts, dtype=bool)
    is_other = (relations[:, None] == relations) & (entities[:, None] != entities) & ~meets
    nothing = OwnFacts(difference=SharedInterval(estimate=np.nan), n_facts=int(shown.sum()))
    if not is_other.any() or (reproduced[:, shown].mean(1) < MIN_CEILING).any():
        return nothing
    groups = [same & shown, is_other]
    own, other = (tops[mask].sum() / bottoms[mask].sum() for mask in groups)
    both = [(table + table.T) / 2 for table in (tops, bottoms)]
    return OwnFacts(
        own=float(own),
        other=float(other),
        difference=jackknife_pairs(both[0], both[1], groups, entities),
        p=_exchange_p(tops, bottoms, groups, relations, n_permutations, seed),
        n_facts=int(shown.sum()),
    )


def _exchange_p(
    tops: Float[np.ndarray, "fact fact"],
    bottoms: Float[np.ndarray, "fact fact"],
    groups: Sequence[Bool[np.ndarray, "fact fact"]],
    relations: Shaped[np.ndarray, " fact"],
    n_permutations: int,
    seed: int,
) -> float:
    """Share of the orders, the observed one among them, in which facts share as much."""
    usable = groups[0] | groups[1]
    tables = [np.where(usable, table, 0) for table in (tops, bottoms)]
    units = np.arange(len(relations))
    donors = np.vstack([units, exchanged(units, relations.tolist(), n_permutations, seed)])
    shared, ceiling = (table[units, donors].sum(1) for table in tables)
    found = np.divide(shared, ceiling, out=np.full(len(donors), np.inf), where=ceiling > 0)
    return float(np.mean(found >= found[0] - 1e-12))
