"""One fact's circuits at all epochs, every epoch with every other: tables [epoch, epoch].

The estimator is that of ``turnover``: halves A and B of the fact's prompts, split alike at all
epochs, and a circuit of half A only ever meets circuits of half B. So the table of k holds at
(s, t) the k_st of that pair and on its diagonal the k_tt, from which ceiling and turnover follow.
What a table holds does not depend on which other epochs are in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.corrected import (
    Items,
    Overlap,
    circuit_overlap,
    n_shared,
)
from kcircuits.analysis.overlap.graded import GRADED, graded_overlaps, item_sizes
from kcircuits.analysis.overlap.half_circuits import top_mask
from kcircuits.analysis.overlap.halves import half_members, split_halves
from kcircuits.core.topology import Topology

Table = Float[np.ndarray, "epoch epoch"]
OVERLAP = "overlap"
MEASURES = (OVERLAP, *GRADED)


@dataclass(frozen=True, kw_only=True)
class EpochHalves:
    """Circuits of both halves of every split of a fact's prompts at every epoch.

    Attributes:
        sizes: |sum of the half's scores| of each edge, for the first and the second halves.
        masks: The top n of them.
        kept: Which candidates the last axis keeps: those in a circuit.
    """

    sizes: Float[np.ndarray, "2 split epoch kept"]
    masks: Bool[np.ndarray, "2 split epoch kept"]
    kept: Int[np.ndarray, " kept"]


@dataclass(frozen=True, kw_only=True)
class PairTables:
    """Numbers of one fact for each pair of epochs; NaN where the fact has no result.

    Attributes:
        tables: By name. ``overlap``, and where asked for ``weighted``, ``spearman`` and ``rbo``:
            the chance-corrected measure k of halves, symmetric, on the diagonal that of one epoch
            with itself; ``<measure>_chance``: the value that chance gives. ``matched``: the chance
            overlap of edges within blocks of layers. ``gained`` and ``kept``: items in both
            halves at the epoch of the column, in neither half and in both halves at that of the
            row, mean over the splits. ``same_prompts``: Jaccard of the circuits of all prompts.
        is_identical: The scores of the two epochs are equal.
    """

    tables: Mapping[str, Table]
    is_identical: Bool[np.ndarray, "epoch epoch"]


def epoch_halves(
    scores: Float[np.ndarray, "epoch prompt candidate"],
    n_edges: int,
    *,
    members: Sequence[Int[np.ndarray, "split member"]] | None = None,
) -> EpochHalves:
    """Circuits of the halves of a fact's prompts at all epochs.

    Args:
        scores: Each discovery prompt's scores at each epoch, 0 where an edge is no candidate.
        n_edges: The budget n.
        members: Prompts of the first and of the second half of each split; default those of
            ``split_halves``. A prompt that is named twice counts twice.
    """
    sides = half_members(split_halves(scores.shape[1])) if members is None else members
    found = []
    for half in sides:
        # One member after the other, as in half_circuits: the same digits.
        size = scores[:, half[:, 0]]
        for member in half.T[1:]:
            size += scores[:, member]
        np.abs(size, out=size)
        masks = top_mask(size.reshape(-1, size.shape[-1]), n_edges).reshape(size.shape)
        found.append((size, masks))
    kept = np.flatnonzero(np.any([masks.any((0, 1)) for _, masks in found], axis=0))
    return EpochHalves(
        sizes=np.stack([size[..., kept].swapaxes(0, 1) for size, _ in found]),
        masks=np.stack([masks[..., kept].swapaxes(0, 1) for _, masks in found]),
        kept=kept,
    )


def fact_pairs(
    scores: Float[np.ndarray, "epoch prompt candidate"],
    n_edges: int,
    items: Items,
    *,
    matched: Items | None = None,
    graded: bool = False,
    halves: EpochHalves | None = None,
) -> PairTables:
    """The tables of one fact.

    Args:
        scores: Each discovery prompt's scores at each epoch on the union of the candidate edges
            of all epochs, in the order of edge names; 0 where an edge is no candidate.
        n_edges: The budget n.
        items: What circuits are compared by: the candidates or their nodes.
        matched: The candidates in finer blocks, for a second chance.
        graded: With the measures of ``graded``.
        halves: ``epoch_halves`` of these scores, where they are there already.
    """
    full = items.of(top_mask(np.abs(scores.mean(1)), n_edges))
    tables = {"same_prompts": _jaccard_table(full)}
    if scores.shape[1] >= 2:
        circuits = epoch_halves(scores, n_edges) if halves is None else halves
        inner = items.keep(circuits.kept)
        first, second = (inner.of(masks) for masks in circuits.masks)
        overlap = circuit_overlap(first, second, inner)
        tables |= _measure(OVERLAP, overlap) | _replicated(first, second)
        if matched is not None:
            blocks = matched.keep(circuits.kept)
            chance = circuit_overlap(first, second, blocks).chance
            tables["matched"] = symmetric(chance.mean(0))
        if graded:
            sides = zip(circuits.sizes, circuits.masks, strict=True)
            x, y = (item_sizes(size, masks, inner) for size, masks in sides)
            for name, values in graded_overlaps(x, y, overlap).items():
                tables |= _measure(name, values)
    return PairTables(tables=tables, is_identical=_identical(scores))


def pair_overlaps(halves: EpochHalves, items: Items) -> Table:
    """The table of k alone."""
    inner = items.keep(halves.kept)
    first, second = (inner.of(masks) for masks in halves.masks)
    return symmetric(circuit_overlap(first, second, inner).corrected.mean(0))


def between_facts(
    x: Bool[np.ndarray, "2 split epoch item"],
    y: Bool[np.ndarray, "2 split epoch item"],
    n_x: Int[np.ndarray, "2 split epoch"],
    n_y: Int[np.ndarray, "2 split epoch"],
) -> Table:
    """Overlap o of two facts' circuits, a first half of one with a second half of the other.

    So prompts of one template, whose noise facts may share, do not meet.

    Args:
        x: Items of one fact's half circuits, see ``EpochHalves``; of those that both facts have.
        y: The same items of the other fact's.
        n_x: Number of all items of each circuit of the one fact.
        n_y: Of the other.
    """
    found = []
    for one, other in ((0, 1), (1, 0)):
        size = np.sqrt(n_x[one][..., :, None] * n_y[other][..., None, :])
        found.append(n_shared(x[one], y[other]) / np.where(size > 0, size, np.inf))
    return symmetric(np.mean(found, axis=(0, 1)))


def pruned_same_prompts(
    scores: Float[np.ndarray, "epoch prompt candidate"],
    n_edges: int,
    candidates: Int[np.ndarray, " candidate"],
    topology: Topology,
) -> Table:
    """Jaccard of the edges of the circuits of all prompts after dangling ones are removed.

    Args:
        scores: As in ``fact_pairs``.
        n_edges: The budget n, before the removal.
        candidates: Flat index of each candidate edge.
        topology: The graph.
    """
    # networkx takes longer to import than the rest takes to answer
    from kcircuits.core.circuit import prune_dangling

    shape = (len(scores), topology.n_forward, topology.n_backward)
    masks = np.zeros((len(scores), topology.n_forward * topology.n_backward), dtype=bool)
    masks[:, candidates] = top_mask(np.abs(scores.mean(1)), n_edges)
    pruned = prune_dangling(masks.reshape(shape), topology).reshape(len(scores), -1)
    return _jaccard_table(pruned[:, candidates])


def widen(pairs: PairTables, present: Sequence[int], n_epochs: int) -> PairTables:
    """The tables over all epochs, of which the fact has results at those that are ``present``."""
    if len(present) == n_epochs:
        return pairs
    place = np.ix_(present, present)

    def wide(table: np.ndarray, empty: float | bool) -> np.ndarray:
        made = np.full((n_epochs, n_epochs), empty)
        made[place] = table
        return made

    return PairTables(
        tables={name: wide(table, np.nan) for name, table in pairs.tables.items()},
        is_identical=wide(pairs.is_identical, False),
    )


def symmetric(table: Table) -> Table:
    """The mean of a table and its transpose: of A_s with B_t and of B_s with A_t."""
    return (table + table.T) / 2


def _measure(name: str, values: Overlap) -> dict[str, Table]:
    return {
        name: symmetric(values.corrected.mean(0)),
        f"{name}_chance": symmetric(values.chance.mean(0)),
    }


def _replicated(
    first: Bool[np.ndarray, "split epoch item"], second: Bool[np.ndarray, "split epoch item"]
) -> dict[str, Table]:
    """How many items both halves gain and keep; what they lose is gained on the way back."""
    both, either = first & second, first | second
    n_both = both.sum(-1).mean(0)
    gained = n_both[None, :] - n_shared(either, both).mean(0)
    return {"gained": gained, "kept": n_shared(both, both).mean(0)}


def _jaccard_table(circuits: Bool[np.ndarray, "epoch item"]) -> Table:
    shared = n_shared(circuits, circuits)
    own = np.diag(shared)
    union = own[:, None] + own[None, :] - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 1.0)


def _identical(
    scores: Float[np.ndarray, "epoch prompt candidate"],
) -> Bool[np.ndarray, "epoch epoch"]:
    same = np.eye(len(scores), dtype=bool)
    for s, t in zip(*np.triu_indices(len(scores), 1), strict=True):
        same[s, t] = same[t, s] = np.array_equal(scores[s], scores[t])
    return same
