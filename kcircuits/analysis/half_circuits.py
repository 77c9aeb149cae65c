"""Circuits of half the prompts, under every relabelling of their epochs, at once.

A half's circuit is the top n edges by |mean score|. With m prompts in a half there are 2^m ways
to take each prompt's scores from the one epoch or the other, and these circuits serve all
relabellings of the swap test. An exact bound makes that quick: edges that no relabelling can bring
into the circuit of any half are dropped before anything is ranked.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.halves import (
    ALL_RELABELLINGS_UP_TO,
    half_members,
    relabellings,
    split_halves,
)

PROBE_WIDTH = 4  # budgets' worth of edges in which the cutoffs' lower bounds are sought
PILOT = 0.85  # share of one circuit's cutoff that those like it are expected to reach


@dataclass(frozen=True, kw_only=True)
class HalfCircuits:
    """Circuits of one side (first or second halves) of every split.

    Attributes:
        masks: Circuits of each split, one per way to choose the epoch of each prompt.
        own: Which of them the epoch s (0) and the epoch t (1) have under each relabelling.
    """

    masks: Bool[np.ndarray, "split choice candidate"]
    own: Int[np.ndarray, "2 split relabelling"]


def top_mask(
    size: Float[np.ndarray, "circuit candidate"], n_edges: int
) -> Bool[np.ndarray, "circuit candidate"]:
    """The ``n_edges`` largest entries of each row.

    Ties are broken by position, so callers order candidates by edge name. An entry of 0 is never
    chosen: such an edge does nothing, and filling up with zeros would make empty circuits agree.
    """
    n_candidates = size.shape[1]
    if n_edges >= n_candidates:
        return size > 0
    cutoff = _cutoffs(size, n_edges)[:, None]
    mask = size >= cutoff
    if not cutoff.all():
        mask &= size > 0
    for row in np.nonzero(np.count_nonzero(mask, axis=1) > n_edges)[0]:
        surplus = mask[row].sum() - n_edges
        mask[row, np.nonzero(size[row] == cutoff[row])[0][-surplus:]] = False
    return mask


def _cutoffs(
    size: Float[np.ndarray, "circuit candidate"], n_edges: int
) -> Float[np.ndarray, " circuit"]:
    """The n-th largest of each row.

    Rows are alike: columns that stay below most of the first row's cutoff in every row are left
    aside, and where that turns out to be too many, all are ranked.
    """
    guess = PILOT * _nth_largest(size[:1], n_edges)[0]
    near = np.nonzero((size >= guess).any(0))[0]
    cutoffs = _nth_largest(size[:, near], n_edges)
    return cutoffs if (cutoffs >= guess).all() else _nth_largest(size, n_edges)


def _nth_largest(
    size: Float[np.ndarray, "circuit candidate"], n: int
) -> Float[np.ndarray, " circuit"]:
    place = size.shape[1] - n
    return np.partition(size, place, axis=1)[:, place]


def relabelled_half_circuits(
    scores: Float[np.ndarray, "2 prompt candidate"], n_edges: int
) -> tuple[HalfCircuits, HalfCircuits, Int[np.ndarray, " kept"]]:
    """Circuits of both halves of every split under every relabelling of the two epochs.

    Args:
        scores: Each prompt's scores at epoch s and at epoch t on the same candidate edges; 0
            where an edge is no candidate at that epoch.
        n_edges: The budget n.

    Returns:
        First halves, second halves, and the candidates that their masks' last axis keeps.
    """
    n_prompts = scores.shape[1]
    swaps = relabellings(n_prompts)
    halves = half_members(split_halves(n_prompts))
    kept = _reachable(scores, halves, n_edges)
    flat = scores[:, :, kept].swapaxes(0, 1).reshape(2 * n_prompts, len(kept))
    first, second = (_one_side(flat, members, swaps, n_edges) for members in halves)
    return first, second, kept


def _one_side(
    scores: Float[np.ndarray, "prompt_epoch candidate"],
    members: Int[np.ndarray, "split member"],
    swaps: Bool[np.ndarray, "relabelling prompt"],
    n_edges: int,
) -> HalfCircuits:
    n_splits, n_members = members.shape
    own_swaps = np.moveaxis(swaps[:, members], 0, 1)  # [split, relabelling, member]
    if swaps.shape[1] <= ALL_RELABELLINGS_UP_TO:
        codes = np.arange(2**n_members)
        choices = np.tile((codes[:, None] >> np.arange(n_members)) % 2, (n_splits, 1, 1))
        code = own_swaps @ (1 << np.arange(n_members))
        own = np.stack([code, 2**n_members - 1 - code])
    else:
        choices = np.concatenate([own_swaps, ~own_swaps], axis=1).astype(np.int64)
        rows = np.tile(np.arange(len(swaps)), (n_splits, 1))
        own = np.stack([rows, rows + len(swaps)])
    masks = [
        top_mask(np.abs(_sum_rows(scores, 2 * prompts + choice)), n_edges)
        for prompts, choice in zip(members, choices, strict=True)
    ]
    return HalfCircuits(masks=np.stack(masks), own=own)


def _sum_rows(
    values: Float[np.ndarray, "row candidate"], index: Int[np.ndarray, "sum member"]
) -> Float[np.ndarray, "sum candidate"]:
    """Sums of rows, one member after the other.

    So exchanging the epochs changes no order of summation, and no BLAS thread wakes up for work
    that is over before it has started.
    """
    total = values[index[:, 0]]
    for member in index.T[1:]:
        total += values[member]
    return total


def _reachable(
    scores: Float[np.ndarray, "2 prompt candidate"],
    halves: tuple[Int[np.ndarray, "split member"], ...],
    n_edges: int,
) -> Int[np.ndarray, " kept"]:
    """Candidates that some relabelling could bring into the circuit of some half.

    Over the relabellings a half's mean on an edge lies between the means of the lower and of the
    higher of each prompt's two scores. So at least n edges reach the n-th largest of the smallest
    possible |mean|s (taken over a probe of promising edges, which only lowers it), and an edge
    whose largest possible |mean| stays below that is out.
    """
    n_candidates = scores.shape[2]
    n_probed = PROBE_WIDTH * n_edges
    if n_probed >= n_candidates:
        return np.arange(n_candidates)
    low, high = scores.min(0), scores.max(0)
    size = np.maximum(high, -low).max(0)  # no mean of a half exceeds it
    probe = np.argpartition(size, n_candidates - n_probed)[-n_probed:]
    is_kept = np.zeros(n_candidates, dtype=bool)
    for members in halves:
        lowest, highest = (_sum_rows(ends[:, probe], members) for ends in (low, high))
        smallest = np.maximum(np.maximum(lowest, -highest), 0)
        # sums of another order differ in the last digits
        cutoff = _nth_largest(smallest, n_edges)[:, None] * (1 - 1e-5)
        near = np.nonzero(size * members.shape[1] >= cutoff.min())[0]
        lowest, highest = (_sum_rows(ends[:, near], members) for ends in (low, high))
        is_kept[near[(np.maximum(highest, -lowest) >= cutoff).any(0)]] = True
    return np.nonzero(is_kept)[0]
