"""Circuits of half the prompts, under every relabelling of their epochs, at once.

A half's circuit is the top n edges by |mean score|. With m prompts in a half there are 2^m ways
to take each prompt's scores from the one epoch or the other, and these circuits serve all
relabellings of the swap test. What makes that quick is a guess, a floor that every circuit's
smallest |sum| should reach: edges that cannot reach it need no ranking. Where a circuit does not
reach it after all, everything is ranked; so the result is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.halves import (
    half_members,
    relabellings,
    split_halves,
)

# Shares of the observed circuits' smallest |sum| that all are expected to reach, tried in turn; on
# simulated scores all circuits reach .93.
FLOORS = (0.88, 0.6, 0.0)


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
    if n_edges >= size.shape[1]:
        return size > 0
    return _mask_above(size, nth_largest(size, n_edges), n_edges)


def relabelled_half_circuits(
    scores: Float[np.ndarray, "2 prompt candidate"], n_edges: int, *, can_swap: bool = True
) -> tuple[HalfCircuits, HalfCircuits, Int[np.ndarray, " kept"]]:
    """Circuits of both halves of every split under every relabelling of the two epochs.

    Args:
        scores: Each prompt's scores at epoch s and at epoch t on the same candidate edges; 0
            where an edge is no candidate at that epoch.
        n_edges: The budget n.
        can_swap: Prompts may change their epochs; else only the observed labels are used.

    Returns:
        First halves, second halves, and the candidates that their masks' last axis keeps.
    """
    halves = half_members(split_halves(scores.shape[1]))
    swaps = relabellings(scores.shape[1])[: None if can_swap else 1]
    smallest = _smallest_sum(scores, [members[0] for members in halves], n_edges)
    attempts = (_both_sides(scores, halves, swaps, n_edges, share * smallest) for share in FLOORS)
    return next(sides for sides in attempts if sides is not None)


def _both_sides(
    scores: Float[np.ndarray, "2 prompt candidate"],
    halves: tuple[Int[np.ndarray, "split member"], ...],
    swaps: Bool[np.ndarray, "relabelling prompt"],
    n_edges: int,
    floor: float,
) -> tuple[HalfCircuits, HalfCircuits, Int[np.ndarray, " kept"]] | None:
    """The result, if every circuit's smallest |sum| reaches ``floor``; else None."""
    n_prompts = scores.shape[1]
    kept = np.nonzero(_largest_sum(scores, halves[1].shape[1]) >= floor)[0]
    if len(kept) < n_edges and floor > 0:
        return None
    interleaved = scores[:, :, kept].swapaxes(0, 1).reshape(2 * n_prompts, len(kept))
    sides = [_one_side(interleaved, members, swaps, n_edges, floor) for members in halves]
    if sides[0] is None or sides[1] is None:
        return None
    return sides[0], sides[1], kept


def _one_side(
    scores: Float[np.ndarray, "prompt_epoch candidate"],
    members: Int[np.ndarray, "split member"],
    swaps: Bool[np.ndarray, "relabelling prompt"],
    n_edges: int,
    floor: float,
) -> HalfCircuits | None:
    n_splits, n_members = members.shape
    own_swaps = np.moveaxis(swaps[:, members], 0, 1)  # [split, relabelling, member]
    if len(swaps) == 2 ** (swaps.shape[1] - 1):  # all there are
        codes = np.arange(2**n_members)
        choices = np.tile((codes[:, None] >> np.arange(n_members)) % 2, (n_splits, 1, 1))
        code = own_swaps @ (1 << np.arange(n_members))
        own = np.stack([code, 2**n_members - 1 - code])
    else:
        choices = np.concatenate([own_swaps, ~own_swaps], axis=1).astype(np.int64)
        rows = np.tile(np.arange(len(swaps)), (n_splits, 1))
        own = np.stack([rows, rows + len(swaps)])
    masks = np.empty((*choices.shape[:2], scores.shape[1]), dtype=bool)
    for split, (prompts, choice) in enumerate(zip(members, choices, strict=True)):
        size = sum_rows(scores, 2 * prompts + choice)
        np.abs(size, out=size)
        if floor == 0:
            masks[split] = top_mask(size, n_edges)
            continue
        near = np.nonzero((size >= floor).any(0))[0]
        if len(near) < n_edges:
            return None
        cutoffs = nth_largest(size[:, near], n_edges)
        if (cutoffs < floor).any():
            return None
        masks[split] = _mask_above(size, cutoffs, n_edges)
    return HalfCircuits(masks=masks, own=own)


def _smallest_sum(
    scores: Float[np.ndarray, "2 prompt candidate"],
    halves: Sequence[Int[np.ndarray, " member"]],
    n_edges: int,
) -> float:
    """The smallest |sum| in the circuits of these halves at either epoch."""
    if n_edges >= scores.shape[2]:
        return 0.0
    sums = np.concatenate([sum_rows(epoch, half[None]) for epoch in scores for half in halves])
    return float(nth_largest(np.abs(sums), n_edges).min())


def _largest_sum(
    scores: Float[np.ndarray, "2 prompt candidate"], n_members: int
) -> Float[np.ndarray, " candidate"]:
    """The |sum| that no half exceeds under any relabelling: of its largest |score|s."""
    size = np.abs(scores).max(0)
    n_others = len(size) - n_members
    # A little more, for sums of another order differ in the last digits.
    return np.partition(size, n_others, axis=0)[n_others:].sum(0) * (1 + 1e-5)


def _mask_above(
    size: Float[np.ndarray, "circuit candidate"],
    cutoffs: Float[np.ndarray, " circuit"],
    n_edges: int,
) -> Bool[np.ndarray, "circuit candidate"]:
    mask = size >= cutoffs[:, None]
    if not cutoffs.all():
        mask &= size > 0
    for row in np.nonzero(np.count_nonzero(mask, axis=1) > n_edges)[0]:
        surplus = np.count_nonzero(mask[row]) - n_edges
        mask[row, np.nonzero(size[row] == cutoffs[row])[0][-surplus:]] = False
    return mask


def nth_largest(
    size: Float[np.ndarray, "circuit candidate"], n: int
) -> Float[np.ndarray, " circuit"]:
    """The n-th largest entry of each row, n at most the number of entries."""
    """The n-th largest entry of each row."""
    place = size.shape[1] - n
    return np.partition(size, place, axis=1)[:, place]


def sum_rows(
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
