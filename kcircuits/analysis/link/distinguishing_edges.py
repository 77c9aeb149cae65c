"""Which edges (or nodes) tell facts that stay from facts that are lost again.

Both kinds are looked at where they are first known, the epoch of acquisition: knowing is then
equal, and what became of the fact lies ahead. An edge is there if it replicates in both halves of
the fact's prompts.

The unit is the entity: y, the share of its facts (in all training runs) that stay, against x, the
share of the same facts whose circuit has the edge. With y centred within the cell (stratum,
exposure, number of facts and runs), D = sum y x, and D / sum y^2 is the difference between the two
kinds (where each entity has one fact, that of Mantel and Haenszel). The y are exchanged between
the entities of a cell, which keeps what the facts of an entity share, and the edges' dependence on
each other. p per edge is two-sided and counts the observed labels; Benjamini and Hochberg over the
edges tested.

What is not equal is the epoch: facts that stay may be acquired earlier or later than others, and
circuits drift. The mean epoch of acquisition of both kinds stands beside the result.

Edges are chosen for the test without a look at the labels: those that enough entities have and
enough lack.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.dynamics.events import NEVER, consolidation, fact_events
from kcircuits.analysis.overlap.swap_test import ALPHA, benjamini_hochberg

MIN_PRESENT = 5
_CHUNK = 500  # permutations at once
_ROUNDING = 1e-6  # of sums in float32


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Facts that stay and facts that are lost again.

    Attributes:
        is_consolidated: Acquired, and known from then to the last epoch, at least k epochs.
        is_transient: Acquired, lost again, and not consolidated later.
        acquisition_idx: First epoch at which the fact is known.
    """

    is_consolidated: Bool[np.ndarray, " fact"]
    is_transient: Bool[np.ndarray, " fact"]
    acquisition_idx: Int[np.ndarray, " fact"]

    @property
    def is_either(self) -> Bool[np.ndarray, " fact"]:
        """Of one of the two kinds."""
        return self.is_consolidated | self.is_transient


@dataclass(frozen=True, kw_only=True)
class EdgeTest:
    """Differences between the two kinds, for the items tested.

    Attributes:
        items: Columns that were tested.
        share_consolidated: Share of the consolidated facts that have each item.
        share_transient: Of the transient ones.
        difference: Consolidated minus transient, within cells.
        p: Of the exchange test.
        q: Adjusted by Benjamini and Hochberg.
        n_consolidated: Facts (in all runs).
        n_transient: Likewise.
        n_entities: Entities that they are about.
        n_entities_consolidated: Entities with consolidated facts.
        n_entities_transient: Entities with transient facts.
        n_distinct: Ways to exchange the labels; infinite where no float holds the number.
        smallest_p: The smallest p that could have come out.
    """

    items: Int[np.ndarray, " tested"]
    share_consolidated: Float[np.ndarray, " tested"]
    share_transient: Float[np.ndarray, " tested"]
    difference: Float[np.ndarray, " tested"]
    p: Float[np.ndarray, " tested"]
    q: Float[np.ndarray, " tested"]
    n_consolidated: int
    n_transient: int
    n_entities: int
    n_entities_consolidated: int
    n_entities_transient: int
    n_distinct: float
    smallest_p: float


def kinds_of(is_known: Bool[np.ndarray, "fact epoch"], k: int) -> Kinds:
    """Which facts stay, and which are lost again.

    Facts known before training were acquired by no step and are of neither kind; nor are facts
    acquired too late to have stayed k epochs, nor those that were lost and learned again for good.

    Args:
        is_known: y_t.
        k: Epochs that a fact must stay known to the end.
    """
    events, kept = fact_events(is_known), consolidation(is_known, k)
    is_acquired = (events.acquisition_idx > 0) & (events.acquisition_idx != NEVER)
    was_lost = events.n_forgotten > 0
    return Kinds(
        is_consolidated=is_acquired & kept.is_consolidated & ~was_lost,
        is_transient=is_acquired & was_lost & ~kept.is_consolidated,
        acquisition_idx=events.acquisition_idx,
    )


def distinguish(
    presence: Bool[np.ndarray, "fact item"],
    is_consolidated: Bool[np.ndarray, " fact"],
    entities: Sequence[str],
    cells: Sequence[str],
    *,
    n_permutations: int,
    seed: int = 0,
    min_present: int = MIN_PRESENT,
) -> EdgeTest:
    """Tests every item that enough entities have and enough lack.

    Args:
        presence: Whether each fact's circuit has each item where the fact is first known; one row
            for each fact and run.
        is_consolidated: Which facts stay; the others are lost again.
        entities: The entity of each row.
        cells: Stratum and exposure of each row; an entity with rows in several forms a cell with
            those like it.
        n_permutations: Exchanges drawn, at least; more where many items are tested, so that one
            alone can be found.
        seed: Of the draws.
        min_present: Entities that must have an item, and that must lack it.
    """
    y, x, cell = _by_entity(presence, is_consolidated, entities, cells)
    is_tested = ((x > 0).sum(0) >= min_present) & ((x < 1).sum(0) >= min_present)
    items = np.flatnonzero(is_tested)
    x = x[:, items].astype(np.float32)
    centred = (y - _cell_means(y, cell)).astype(np.float32)
    observed = np.abs(centred @ x)
    n_reaching = np.zeros(len(items), dtype=np.int64)
    rng = np.random.default_rng(seed)
    n_draws = max(n_permutations, round(len(items) / ALPHA))
    for start in range(0, n_draws, _CHUNK):
        order = _exchanged(cell, min(_CHUNK, n_draws - start), rng)
        drawn = np.abs(centred[order] @ x)
        n_reaching += (drawn >= observed - _ROUNDING * max(len(y), 1)).sum(0)
    p = (1 + n_reaching) / (1 + n_draws)
    total, n_distinct = float(centred @ centred), _n_distinct(y, cell)
    share = [_share(presence[:, items], kind) for kind in (is_consolidated, ~is_consolidated)]
    return EdgeTest(
        items=items,
        share_consolidated=share[0],
        share_transient=share[1],
        difference=(centred @ x) / total if total > 0 else np.full(len(items), np.nan),
        p=p,
        q=benjamini_hochberg(p),
        n_consolidated=int(is_consolidated.sum()),
        n_transient=int((~is_consolidated).sum()),
        n_entities=len(y),
        n_entities_consolidated=int((y > 0).sum()),
        n_entities_transient=int((y < 1).sum()),
        n_distinct=n_distinct,
        smallest_p=max(1 / n_distinct, 1 / (1 + n_draws)),
    )


def _by_entity(
    presence: Bool[np.ndarray, "fact item"],
    is_consolidated: Bool[np.ndarray, " fact"],
    entities: Sequence[str],
    cells: Sequence[str],
) -> tuple[
    Float[np.ndarray, " entity"], Float[np.ndarray, "entity item"], Int[np.ndarray, " entity"]
]:
    """y, x and cell of each entity."""
    unit, place = np.unique(np.array(entities, dtype=object), return_inverse=True)
    n_rows = np.bincount(place, minlength=len(unit))
    y = np.bincount(place, is_consolidated, minlength=len(unit)) / n_rows
    x = np.zeros((len(unit), presence.shape[1]), dtype=np.float32)
    np.add.at(x, place, presence)
    own: list[set[str]] = [set() for _ in unit]
    for row, cell in zip(place.tolist(), cells, strict=True):
        own[row].add(cell)
    labels = [
        f"{n} | {' | '.join(sorted(names))}" for n, names in zip(n_rows.tolist(), own, strict=True)
    ]
    _, cell = np.unique(np.array(labels, dtype=object), return_inverse=True)
    return y, x / n_rows[:, None].astype(np.float32), cell


def _cell_means(
    y: Float[np.ndarray, " entity"], cell: Int[np.ndarray, " entity"]
) -> Float[np.ndarray, " entity"]:
    return (np.bincount(cell, y) / np.bincount(cell))[cell] if len(y) else y


def _exchanged(
    cell: Int[np.ndarray, " entity"], n_draws: int, rng: np.random.Generator
) -> Int[np.ndarray, "draw entity"]:
    """Whose label each entity has in each draw: another one's of its cell."""
    by_cell = np.argsort(cell, kind="stable")
    drawn = np.argsort(cell + rng.random((n_draws, len(cell))), axis=1)
    order = np.empty_like(drawn)
    order[:, by_cell] = drawn
    return order


def _n_distinct(y: Float[np.ndarray, " entity"], cell: Int[np.ndarray, " entity"]) -> float:
    total = 0.0
    for one in np.unique(cell):
        values = y[cell == one]
        _, counts = np.unique(values, return_counts=True)
        total += lgamma(len(values) + 1) - sum(lgamma(n + 1) for n in counts.tolist())
    return float(round(np.exp(total))) if total < 700 else float("inf")


def _share(
    presence: Bool[np.ndarray, "fact item"], chosen: Bool[np.ndarray, " fact"]
) -> Float[np.ndarray, " item"]:
    return presence[chosen].mean(0) if chosen.any() else np.full(presence.shape[1], np.nan)
