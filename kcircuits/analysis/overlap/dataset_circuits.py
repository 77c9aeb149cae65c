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
from jaxtyping import Bool, Float, Int, Shaped, UInt64

from kcircuits.analysis.overlap.corrected import correct_for_chance, jaccard, packed
from kcircuits.analysis.overlap.half_circuits import top_mask
from kcircuits.analysis.overlap.jackknife import MIN_ENTITIES, student_quantile
from kcircuits.core.parallel import ordered_map

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


@dataclass(frozen=True, kw_only=True)
class _EpochCircuits:
    """Circuits of all facts together at one epoch, as bits.

    Attributes:
        full: Of all facts.
        halves: Of both halves of each split.
        left_out: Of the half that an entity is in, without that entity.
    """

    full: Bool[np.ndarray, " edge"]
    halves: UInt64[np.ndarray, "half split word"]
    left_out: UInt64[np.ndarray, "entity split word"]


def dataset_overlaps(
    scores: Float[np.ndarray, "epoch fact edge"],
    entities: Shaped[np.ndarray, " fact"],
    n_edges: int,
    pairs: Sequence[tuple[int, int]],
    *,
    n_splits: int = N_SPLITS,
    seed: int = 0,
) -> list[DatasetOverlap]:
    """Compares the circuits of all facts together at pairs of epochs.

    Args:
        scores: Mean scores of each fact on every edge of the model.
        entities: The entity of each fact; halves and the jackknife part entities.
        n_edges: Edges of a circuit: those of largest |mean score|.
        pairs: Places of two epochs each.
        n_splits: Random halves of the entities.
        seed: Of the halves.

    Returns:
        A comparison per pair; errors are NaN with fewer than 10 entities, the rest with fewer than
        two.
    """
    names, group = np.unique(entities, return_inverse=True)
    sides = _halves(len(names), n_splits, seed)
    n_left = len(names) if len(names) >= MIN_ENTITIES else 0

    def circuits_at(epoch: int) -> _EpochCircuits:
        return _epoch_circuits(_sums(scores[epoch], group, len(names)), sides, n_edges, n_left)

    epochs = list(ordered_map(circuits_at, range(len(scores))))
    chance = np.array(n_edges / scores.shape[2])
    return [_compare(epochs[s], epochs[t], sides, n_edges, chance) for s, t in pairs]


def _epoch_circuits(
    by_entity: Float[np.ndarray, "entity edge"],
    sides: Bool[np.ndarray, "split entity"],
    n_edges: int,
    n_left: int,
) -> _EpochCircuits:
    sums = np.stack([(~sides).astype(float) @ by_entity, sides.astype(float) @ by_entity])
    split = np.arange(len(sides))

    def circuits(sizes: Float[np.ndarray, "circuit edge"]) -> UInt64[np.ndarray, "circuit word"]:
        return packed(top_mask(np.abs(sizes), n_edges))

    left_out = [
        circuits(sums[sides[:, i].astype(int), split] - by_entity[i]) for i in range(n_left)
    ]
    halves = np.stack([circuits(half) for half in sums])
    empty = np.zeros((0, *halves.shape[1:]), dtype=np.uint64)
    return _EpochCircuits(
        full=top_mask(np.abs(by_entity.sum(0))[None], n_edges)[0],
        halves=halves,
        left_out=np.stack(left_out) if left_out else empty,
    )


def _compare(
    at_s: _EpochCircuits,
    at_t: _EpochCircuits,
    sides: Bool[np.ndarray, "split entity"],
    n_edges: int,
    chance: Float[np.ndarray, ""],
) -> DatasetOverlap:
    n_left, split = len(at_s.left_out), np.arange(len(sides))
    # Of each split the half without the entity, beside the half that it was not in.
    others = [
        np.concatenate([at.halves[:1], at.halves[1 - sides.T[:n_left].astype(int), split]])
        for at in (at_s, at_t)
    ]
    own = [np.concatenate([at.halves[1:], at.left_out]) for at in (at_s, at_t)]
    observed = np.stack(
        [
            _shared(own[0], others[0]),
            _shared(own[1], others[1]),
            (_shared(own[0], others[1]) + _shared(own[1], others[0])) / 2,
        ]
    )
    k_ss, k_tt, k_st = correct_for_chance(
        observed / n_edges, np.broadcast_to(chance, observed.shape)
    )
    ceiling = np.sqrt(np.maximum(k_ss, 0) * np.maximum(k_tt, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        turnover, share = 1 - k_st / ceiling, (1 - ceiling) / (1 - k_st)
    return DatasetOverlap(
        jaccard=float(jaccard(at_s.full, at_t.full)),
        k_st=float(k_st[0]),
        ceiling=float(ceiling[0]),
        turnover=float(turnover[0]),
        noise_share=float(share[0]),
        turnover_error=_jackknife_error(turnover[1:]),
        noise_share_error=_jackknife_error(share[1:]),
        quantile=student_quantile(0.975, n_left - 1) if n_left else np.nan,
    )


def _shared(
    x: UInt64[np.ndarray, "circuit split word"], y: UInt64[np.ndarray, "circuit split word"]
) -> Float[np.ndarray, " circuit"]:
    """Edges that two circuits share, mean over the splits."""
    return np.bitwise_count(x & y).sum(-1).mean(-1)


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


def _jackknife_error(left_out: Sequence[float] | Float[np.ndarray, " entity"]) -> float:
    """Standard error from the estimates without each entity; NaN without any."""
    values = np.asarray(left_out)
    if not len(values):
        return np.nan
    spread = ((values - values.mean()) ** 2).sum()
    return float(np.sqrt((len(values) - 1) / len(values) * spread))
