"""Overlap of circuits between all pairs of epochs, for the heat map of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.corrected import Items, circuit_overlap, jaccard_from_overlap
from kcircuits.analysis.overlap.half_circuits import top_mask
from kcircuits.analysis.overlap.halves import half_members, split_halves
from kcircuits.analysis.overlap.turnover import MIN_CEILING


@dataclass(frozen=True, kw_only=True)
class EpochOverlap:
    """Means over the facts that are known at both epochs of a pair; NaN where none is.

    Attributes:
        jaccard: Of one half at one epoch with the other half at the other; on the diagonal, of
            two halves at the same epoch: the noise ceiling.
        turnover: Tau over facts; 0 on the diagonal, NaN where the ceiling is too low.
        chance: Jaccard that chance gives.
        n_facts: Facts of each mean.
    """

    jaccard: Float[np.ndarray, "epoch epoch"]
    turnover: Float[np.ndarray, "epoch epoch"]
    chance: Float[np.ndarray, "epoch epoch"]
    n_facts: Int[np.ndarray, "epoch epoch"]


def overlap_matrix(
    scores: Sequence[Float[np.ndarray, "epoch prompt candidate"]],
    n_edges: int,
    items: Sequence[Items],
    is_known: Bool[np.ndarray, "fact epoch"],
) -> EpochOverlap:
    """Overlaps between all pairs of epochs.

    Args:
        scores: Of each fact: each discovery prompt's scores at each epoch on the union of the
            candidate edges of all epochs (0 where an edge is no candidate). Facts with a single
            prompt have no halves and are left out.
        n_edges: The budget n.
        items: Edges or nodes of each fact's candidates.
        is_known: Whether each fact is known at each epoch.
    """
    n_epochs = is_known.shape[1]
    sums = np.zeros((5, n_epochs, n_epochs))  # o, o0, k, ceiling c, corrected k of the column
    n_facts = np.zeros((n_epochs, n_epochs), dtype=np.int64)
    for values, kind, known in zip(scores, items, is_known, strict=True):
        if values.shape[1] < 2:
            continue
        both = known[:, None] & known[None, :]
        chance, k = _pair_overlaps(values, n_edges, kind)
        own = np.maximum(np.diag(k), 0)
        ceiling = np.sqrt(own[:, None] * own[None, :])
        columns = np.broadcast_to(np.diag(k), k.shape)
        sums += np.where(both, [chance + k * (1 - chance), chance, k, ceiling, columns], 0)
        n_facts += both
    with np.errstate(invalid="ignore", divide="ignore"):
        observed, chance, _, _, columns = sums / n_facts
        turnover = 1 - sums[2] / sums[3]
    is_low = ~((columns >= MIN_CEILING) & (columns.T >= MIN_CEILING))
    turnover[is_low] = np.nan
    np.fill_diagonal(turnover, np.where(np.diag(is_low), np.nan, 0.0))
    return EpochOverlap(
        jaccard=jaccard_from_overlap(observed),
        turnover=turnover,
        chance=jaccard_from_overlap(chance),
        n_facts=n_facts,
    )


def _pair_overlaps(
    scores: Float[np.ndarray, "epoch prompt candidate"], n_edges: int, items: Items
) -> tuple[Float[np.ndarray, "epoch epoch"], Float[np.ndarray, "epoch epoch"]]:
    """Chance and corrected overlap of halves, mean over the splits."""
    n_epochs, n_prompts, _ = scores.shape
    sides = []
    for members in half_members(split_halves(n_prompts)):
        weights = np.zeros((len(members), n_prompts), dtype=scores.dtype)
        np.put_along_axis(weights, members, 1, axis=1)
        size = np.abs(weights @ scores).reshape(n_epochs * len(members), -1)
        masks = top_mask(size, n_edges).reshape(n_epochs, len(members), -1)
        sides.append(items.of(masks).swapaxes(0, 1))
    overlap = circuit_overlap(sides[0], sides[1], items)
    means = [table.mean(0) for table in (overlap.chance, overlap.corrected)]
    chance, corrected = ((table + table.T) / 2 for table in means)
    return chance, corrected
