"""One circuit for all facts together, as earlier work has it, and what of its change is noise.

Mousavi, Alghisi and Riccardi (2026, arXiv 2601.03858) find one circuit for a set of prompts at each
epoch and report its Jaccard with the circuit of epoch 0. The prompts are the same at both epochs
and share their noise, so how low that Jaccard would be without any change is not known. Here the
entities are split in halves, alike at both epochs, and the circuit of one half at s is compared
with that of the other half at t: 1 - k_st is what differs, 1 - c of it differs between halves of
one epoch already.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.analysis.overlap.corrected import jaccard
from kcircuits.analysis.overlap.half_circuits import top_mask
from kcircuits.analysis.overlap.jackknife import MIN_ENTITIES, student_quantile

N_SPLITS = 10


@dataclass(frozen=True, kw_only=True)
class DatasetOverlap:
    """The circuits of all facts together at two epochs.

    Attributes:
        jaccard: Of the two circuits of all facts: what earlier work prints.
        k_st: Chance-corrected overlap of halves between the epochs, mean over the splits.
        ceiling: sqrt(k_ss k_tt).
        turnover: 1 - k_st / ceiling.
        noise_share: (1 - ceiling) / (1 - k_st): the share of what differs that differs between
            halves of one epoch too.
        turnover_error: Standard error of the turnover, by leaving out one entity after the other.
        noise_share_error: Of the share of noise.
        quantile: Student's t at .975 for as many entities.
    """

    jaccard: float
    k_st: float
    ceiling: float
    turnover: float
    noise_share: float
    turnover_error: float
    noise_share_error: float
    quantile: float


def dataset_overlap(
    scores: Float[np.ndarray, "2 fact edge"],
    entities: Shaped[np.ndarray, " fact"],
    n_edges: int,
    *,
    n_splits: int = N_SPLITS,
    seed: int = 0,
) -> DatasetOverlap:
    """Compares the circuits of all facts together at two epochs.

    Args:
        scores: Mean scores of each fact on every edge of the model, at both epochs.
        entities: The entity of each fact; halves and the jackknife part entities.
        n_edges: Edges of a circuit: those of largest |mean score|.
        n_splits: Random halves of the entities.
        seed: Of the halves.

    Returns:
        The comparison; errors are NaN with fewer than 10 entities, the rest with fewer than two.
    """
    n_all = scores.shape[2]
    names, group = np.unique(entities, return_inverse=True)
    by_entity = np.stack([_sums(epoch, group, len(names)) for epoch in scores])
    full = top_mask(np.abs(by_entity.sum(1)), n_edges)
    sides = _halves(len(names), n_splits, seed)
    whole = _compare(by_entity, sides, n_edges)
    n_left = len(names) if len(names) >= MIN_ENTITIES else 0
    left_out = [_compare(by_entity, sides, n_edges, without=i) for i in range(n_left)]
    chance = n_edges / n_all
    tables = (np.array([whole, *left_out]) - chance) / (1 - chance)
    k_ss, k_tt, k_st = tables.T
    ceiling = np.sqrt(np.maximum(k_ss, 0) * np.maximum(k_tt, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        turnover, share = 1 - k_st / ceiling, (1 - ceiling) / (1 - k_st)
    return DatasetOverlap(
        jaccard=float(jaccard(full[0], full[1])),
        k_st=float(k_st[0]),
        ceiling=float(ceiling[0]),
        turnover=float(turnover[0]),
        noise_share=float(share[0]),
        turnover_error=_jackknife_error(turnover[1:]),
        noise_share_error=_jackknife_error(share[1:]),
        quantile=student_quantile(0.975, n_left - 1) if n_left else np.nan,
    )


def _sums(
    scores: Float[np.ndarray, "fact edge"], group: Int[np.ndarray, " fact"], n: int
) -> Float[np.ndarray, "entity edge"]:
    sums = np.zeros((n, scores.shape[1]))
    np.add.at(sums, group, scores)
    return sums


def _halves(n_entities: int, n_splits: int, seed: int) -> Bool[np.ndarray, "split entity"]:
    """Random halves; True is the second, with one entity more where the number is odd."""
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(n_entities), (n_splits, 1)), axis=1)
    return order >= n_entities // 2


def _compare(
    by_entity: Float[np.ndarray, "2 entity edge"],
    sides: Bool[np.ndarray, "split entity"],
    n_edges: int,
    without: int | None = None,
) -> tuple[float, float, float]:
    """Overlaps o of halves within s, within t and between them, mean over the splits."""
    kept = np.ones(by_entity.shape[1], dtype=bool)
    if without is not None:
        kept[without] = False
    weights = np.stack([(~sides & kept), (sides & kept)]).astype(float)  # [half, split, entity]
    sums = np.einsum("hse,teo->htso", weights, by_entity, optimize=True)
    n_halves, n_epochs, n_splits, n_all = sums.shape
    masks = top_mask(np.abs(sums).reshape(-1, n_all), n_edges)
    a, b = masks.reshape(n_halves, n_epochs, n_splits, n_all)

    def shared(x: Bool[np.ndarray, "split edge"], y: Bool[np.ndarray, "split edge"]) -> float:
        return float(np.count_nonzero(x & y, axis=1).mean() / n_edges)

    return shared(a[0], b[0]), shared(a[1], b[1]), (shared(a[0], b[1]) + shared(a[1], b[0])) / 2


def _jackknife_error(left_out: Sequence[float] | Float[np.ndarray, " entity"]) -> float:
    """Standard error from the estimates without each entity; NaN without any."""
    values = np.asarray(left_out)
    if not len(values):
        return np.nan
    spread = ((values - values.mean()) ** 2).sum()
    return float(np.sqrt((len(values) - 1) / len(values) * spread))
