"""Half circuits of many facts, and the overlap of every fact's with every other's.

As between epochs, a circuit is only ever compared with circuits of other prompts. With A_i and B_i
the circuits of the two halves of fact i's prompts and k the chance-corrected overlap,

    k_ij = [k(A_i, B_j) + k(B_i, A_j)] / 2, mean over the splits        k_ii = k(A_i, B_i)

Facts of one relation have the same templates, and prompts of one template share their noise. So
the prompts of all facts stand in the order of their templates: then a template is in the first
half of all facts or in the second half of all. Where templates are shared in another way halves
of two facts may meet their own templates; such pairs are told apart by ``meet_own_templates``.

Circuits are lists of items, and shared items are counted by products of sparse matrices: their
cost is the number of shared items, whatever the number of edges of the model.
"""

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.corrected import Items, Overlap
from kcircuits.analysis.overlap.half_circuits import sum_rows, top_mask
from kcircuits.analysis.overlap.halves import half_members, split_halves

if TYPE_CHECKING:  # scipy takes longer to import than the verbs that need none of this may take
    from scipy.sparse import csr_matrix

Members = tuple[Int[np.ndarray, "split prompt_a"], Int[np.ndarray, "split prompt_b"]]


@dataclass(frozen=True, kw_only=True)
class FactHalves:
    """Items of the circuits of a fact's halves.

    Attributes:
        first: Items of the first half's circuit under each split.
        second: Items of the second half's.
    """

    first: tuple[Int[np.ndarray, " item"], ...]
    second: tuple[Int[np.ndarray, " item"], ...]


@dataclass(frozen=True, kw_only=True)
class PairOverlaps:
    """Overlaps of the halves of facts x with those of facts y, mean over the splits.

    Attributes:
        observed: o of a half of x with the other half of y.
        chance: o0 that chance gives it.
        corrected: k.
    """

    observed: Float[np.ndarray, "fact_x fact_y"]
    chance: Float[np.ndarray, "fact_x fact_y"]
    corrected: Float[np.ndarray, "fact_x fact_y"]

    @property
    def own(self) -> Float[np.ndarray, " fact"]:
        """k_ii of each fact, where x and y are the same facts."""
        return np.diag(self.corrected)


def halves_of(n_prompts: int) -> Members:
    """Prompt positions of the two halves of every split."""
    return half_members(split_halves(n_prompts))


def quarters_of(n_prompts: int) -> tuple[Members, Members]:
    """Prompt positions of the two quarters of the first halves, and of those of the second.

    Two data sets that have no prompt in common, each of which has two halves of its own.
    """
    first, second = halves_of(n_prompts)
    return _halved(first), _halved(second)


def fact_halves(
    scores: Float[np.ndarray, "prompt candidate"],
    n_edges: int,
    members: Members,
    items: Items,
    names: Int[np.ndarray, " item"],
) -> FactHalves:
    """The circuits of a fact's halves.

    Args:
        scores: Each discovery prompt's scores, candidates in the order of edge names.
        n_edges: The budget n.
        members: Prompts of either half of each split.
        items: Edges or nodes of these candidates.
        names: What each item is called over all facts: 0, 1, ...
    """
    sides = []
    for rows in members:
        found = items.of(top_mask(np.abs(sum_rows(scores, rows)), n_edges))
        sides.append(tuple(names[mask] for mask in found))
    return FactHalves(first=sides[0], second=sides[1])


def cross_overlaps(
    x: Sequence[FactHalves], y: Sequence[FactHalves], kinds: Sequence[Items]
) -> tuple[PairOverlaps, ...]:
    """Overlap of the halves of every fact x with the other halves of every fact y.

    Facts with fewer splits than others go through theirs again.

    Args:
        x: Facts.
        y: Facts to compare with; the same ones for k_ij among them.
        kinds: All items that exist in their blocks; several ways to block them share the counting.
    """
    sums = np.zeros((len(kinds), 3, len(x), len(y)))
    n_terms = 0
    for a, b in _pairs_of_halves(x, y, len(kinds[0].block)):
        n_terms += 1
        shared = (a @ b.T).toarray()
        sizes = [np.asarray(half.sum(1)).ravel() for half in (a, b)]
        scale = np.sqrt(np.outer(*sizes))
        scale[scale == 0] = np.inf
        for total, items in zip(sums, kinds, strict=True):
            x_counts, y_counts = (_block_counts(half, items) for half in (a, b))
            expected = (x_counts / items.block_sizes) @ y_counts.T
            overlap = Overlap(observed=shared / scale, chance=expected / scale)
            total += (overlap.observed, overlap.chance, overlap.corrected)
    return tuple(
        PairOverlaps(observed=observed, chance=chance, corrected=corrected)
        for observed, chance, corrected in (_symmetric(sums) if x is y else sums) / n_terms
    )


def meet_own_templates(
    templates: Sequence[Sequence[Collection[Hashable]]],
) -> Bool[np.ndarray, "fact fact"]:
    """Pairs of facts of which a half meets a template of its own in the other's other half.

    On the diagonal: facts that have a template in both halves.

    Args:
        templates: Those of each prompt (or fold of prompts) of each fact, in the order in which
            the prompts are split.
    """
    names = dict.fromkeys(chain.from_iterable(chain.from_iterable(templates)))
    index = {name: i for i, name in enumerate(names)}
    facts = []
    for rows in templates:
        ids = [np.array([index[name] for name in row], dtype=np.int64) for row in rows]
        sides = [
            tuple(np.unique(np.concatenate([ids[i] for i in half])) for half in side.tolist())
            for side in halves_of(len(rows))
        ]
        facts.append(FactHalves(first=sides[0], second=sides[1]))
    meets = np.zeros((len(facts), len(facts)), dtype=bool)
    for a, b in _pairs_of_halves(facts, facts, len(index)):
        meets |= (a @ b.T).toarray() > 0
    return meets | meets.T


def _symmetric(tables: Float[np.ndarray, "*tables fact fact"]) -> np.ndarray:
    return (tables + tables.swapaxes(-1, -2)) / 2


def _halved(members: Int[np.ndarray, "split member"]) -> Members:
    middle = members.shape[1] // 2
    return members[:, :middle], members[:, middle:]


def _pairs_of_halves(
    x: Sequence[FactHalves], y: Sequence[FactHalves], n_items: int
) -> Iterator[tuple["csr_matrix", "csr_matrix"]]:
    """First halves of x with second halves of y, and the other way round, under every split.

    Where x and y are the same facts the other way round is the transpose, and left out.
    """
    for split in range(max(len(fact.first) for fact in (*x, *y))):
        yield (
            _rows([fact.first for fact in x], split, n_items),
            _rows([fact.second for fact in y], split, n_items),
        )
        if x is y:
            continue
        yield (
            _rows([fact.second for fact in x], split, n_items),
            _rows([fact.first for fact in y], split, n_items),
        )


def _rows(
    sides: Sequence[Sequence[Int[np.ndarray, " item"]]], split: int, n_items: int
) -> "csr_matrix":
    """One row per fact, 1 at its items."""
    from scipy.sparse import csr_matrix

    found = [side[split % len(side)] for side in sides]
    ends = np.cumsum([0, *map(len, found)])
    places = np.concatenate(found)
    return csr_matrix(
        (np.ones(len(places), dtype=np.float32), places, ends), shape=(len(sides), n_items)
    )


def _block_counts(half: "csr_matrix", items: Items) -> Float[np.ndarray, "fact block"]:
    """How many items of each block each circuit has."""
    n_per_fact, n_blocks = np.diff(half.indptr), len(items.block_sizes)
    n_facts = len(n_per_fact)
    fact = np.repeat(np.arange(n_facts), n_per_fact)
    cells = fact * n_blocks + items.block[half.indices]
    counts = np.bincount(cells, minlength=n_facts * n_blocks)
    return counts.reshape(n_facts, n_blocks).astype(np.float64)
