"""Circuits of halves of a fact's prompts at every epoch, as they are and under swapped labels.

A *source* says which epoch each prompt's scores come from: at epoch e as they are, every prompt
from e. Swapped labels are other sources. They tell what the method alone gives when nothing
changes: then it makes no difference which epoch a prompt's scores come from.

Most candidate edges are too small for any half's circuit. With mean m and standard deviation s
over all P prompts, h of them sum to at most h |m| + sqrt(h (P - h)) s (Cauchy and Schwarz), and a
circuit ends no lower than the n-th largest sum over *some* edges. Edges whose bound lies below that
need not be ranked, and the result is exact.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.half_circuits import nth_largest, sum_rows, top_mask
from kcircuits.analysis.overlap.halves import half_members, split_halves

# Sums of another order differ in the last digits, and a spread from mean squares in more of them.
_ROUNDING = 1e-5
_BLOCK = 2048  # candidates at a time, for their bounds to stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class EpochHalves:
    """Circuits of the first and of the second half of every split under every source.

    Attributes:
        masks: Circuits, for each side.
        kept: The candidates that the last axis keeps: those in any circuit, and the strong ones.
    """

    masks: tuple[Bool[np.ndarray, "split source candidate"], ...]
    kept: Int[np.ndarray, " candidate"]


def epoch_halves(
    scores: Float[np.ndarray, "epoch prompt candidate"],
    n_edges: int,
    sources: Int[np.ndarray, "source prompt"],
    strong: Int[np.ndarray, " strong"],
) -> EpochHalves:
    """Circuits of both halves of every split.

    Args:
        scores: Each prompt's scores at each epoch on the same candidate edges, in the order of
            edge names; at least two prompts.
        n_edges: The budget n.
        sources: The epoch that each prompt's scores come from.
        strong: Candidates that are kept in any case; many of those in circuits make it quick.
    """
    n_prompts, n_candidates = scores.shape[1:]
    members = half_members(split_halves(n_prompts))
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in members]
    is_kept = np.zeros(n_candidates, dtype=bool)
    is_kept[strong] = True
    flat = scores.reshape(-1, n_candidates)
    rows = sources * n_prompts + np.arange(n_prompts)
    is_near = _reachable(flat, rows, members, n_edges, strong)
    for own, reached in zip(rows, is_near, strict=True):
        near = np.flatnonzero(reached)
        inner = flat[own[:, None], near]
        for circuits, side in zip(found, members, strict=True):
            mask = top_mask(np.abs(sum_rows(inner, side)), n_edges)
            used = np.flatnonzero(mask.any(0))
            circuits.append((near[used], mask[:, used]))
            is_kept[near[used]] = True
    kept = np.flatnonzero(is_kept)
    masks = []
    for circuits in found:
        whole = np.zeros((len(members[0]), len(sources), len(kept)), dtype=bool)
        for i, (places, mask) in enumerate(circuits):
            whole[:, i, np.searchsorted(kept, places)] = mask
        masks.append(whole)
    return EpochHalves(masks=tuple(masks), kept=kept)


def half_sizes(
    scores: Float[np.ndarray, "epoch prompt candidate"],
) -> tuple[Float[np.ndarray, "split epoch candidate"], ...]:
    """|sum of scores| of the first and of the second half of every split at every epoch."""
    return tuple(
        np.abs(np.stack([sum_rows(epoch, side) for epoch in scores], axis=1))
        for side in half_members(split_halves(scores.shape[1]))
    )


def own_epochs(n_epochs: int, n_prompts: int) -> Int[np.ndarray, "epoch prompt"]:
    """The sources as they are."""
    return np.repeat(np.arange(n_epochs)[:, None], n_prompts, axis=1)


def permuted_epochs(
    n_prompts: int, is_permuted: Bool[np.ndarray, " epoch"], rng: np.random.Generator
) -> Int[np.ndarray, "epoch prompt"]:
    """Epoch labels permuted among some epochs, prompt by prompt; the other epochs as they are."""
    sources = own_epochs(len(is_permuted), n_prompts)
    sources[is_permuted] = rng.permuted(sources[is_permuted], axis=0)
    return sources


def swapped_steps(
    n_epochs: int, n_prompts: int, rng: np.random.Generator
) -> Int[np.ndarray, "step end prompt"]:
    """The two labels of each step between neighbouring epochs, swapped for some prompts.

    Each swap but "none" and "all", which give the step itself, is as likely; with a single prompt
    there is none other.
    """
    n_steps = max(n_epochs - 1, 0)
    sources = np.stack([own_epochs(n_steps, n_prompts), own_epochs(n_steps, n_prompts) + 1], axis=1)
    if n_prompts < 2:
        return sources
    swaps = rng.random((n_steps, n_prompts)) < 0.5
    trivial = swaps.all(1) | ~swaps.any(1)
    while trivial.any():
        swaps[trivial] = rng.random((int(trivial.sum()), n_prompts)) < 0.5
        trivial = swaps.all(1) | ~swaps.any(1)
    return np.where(swaps[:, None], sources[:, ::-1], sources)


def _reachable(
    scores: Float[np.ndarray, "row candidate"],
    rows: Int[np.ndarray, "source prompt"],
    members: tuple[Int[np.ndarray, "split member"], ...],
    n_edges: int,
    strong: Int[np.ndarray, " strong"],
) -> Bool[np.ndarray, "source candidate"]:
    """Candidates that may be in the circuit of some half under each source."""
    (n_sources, n_prompts), n_candidates = rows.shape, scores.shape[1]
    if n_edges >= len(strong):
        return np.ones((n_sources, n_candidates), dtype=bool)
    some = scores[:, strong]
    cutoffs = [
        np.array([nth_largest(np.abs(sum_rows(some, own[side])), n_edges).min() for own in rows])
        for side in members
    ]
    is_near = np.zeros((n_sources, n_candidates), dtype=bool)
    for start in range(0, n_candidates, _BLOCK):
        block = scores[:, start : start + _BLOCK]
        mean, square = (sum_rows(part, rows) / n_prompts for part in (block, block**2))
        spread = np.sqrt(np.maximum(square - mean**2, 0) + _ROUNDING * square)
        np.abs(mean, out=mean)
        for side, cutoff in zip(members, cutoffs, strict=True):
            h = side.shape[1]
            bound = h * mean + np.sqrt(h * (n_prompts - h), dtype=scores.dtype) * spread
            is_near[:, start : start + _BLOCK] |= bound >= cutoff[:, None]
    return is_near
