"""Circuits of halves of a fact's prompts at every epoch, as they are and under swapped labels.

A *source* says which epoch each prompt's scores come from: at epoch e as they are, every prompt
from e. Swapped labels are other sources. They tell what the method alone gives when nothing
changes: then it makes no difference which epoch a prompt's scores come from.

Most candidate edges are too small for any half's circuit. No half of h prompts sums to more than
the h largest |score| at an edge, and no circuit ends below the n-th largest sum over *some* edges:
edges whose bound lies below that are dropped. So the result is exact.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.half_circuits import nth_largest, sum_rows, top_mask
from kcircuits.analysis.overlap.halves import half_members, split_halves

_ROUNDING = 1 + 1e-5  # sums of another order differ in the last digits


@dataclass(frozen=True, kw_only=True)
class EpochHalves:
    """Circuits of the first and of the second half of every split under every source.

    Attributes:
        masks: Circuits, for each side.
        sizes: |sum of scores| that they were chosen by, for each side.
        kept: The candidates that the last axis keeps.
    """

    masks: tuple[Bool[np.ndarray, "split source candidate"], ...]
    sizes: tuple[Float[np.ndarray, "split source candidate"], ...]
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
    n_epochs, n_prompts, _ = scores.shape
    members = half_members(split_halves(n_prompts))
    rows = [sources[:, side] * n_prompts + side for side in members]  # [source, split, member]
    flat = scores.reshape(n_epochs * n_prompts, -1)
    kept = _reachable(scores, strong, rows, n_edges)
    inner = flat[:, kept]
    masks, sizes = [], []
    for side in rows:
        n_sources, n_splits, n_members = side.shape
        size = np.abs(sum_rows(inner, side.reshape(-1, n_members)))
        shape = (n_sources, n_splits, len(kept))
        masks.append(top_mask(size, n_edges).reshape(shape).swapaxes(0, 1))
        sizes.append(size.reshape(shape).swapaxes(0, 1))
    return EpochHalves(masks=tuple(masks), sizes=tuple(sizes), kept=kept)


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
    scores: Float[np.ndarray, "epoch prompt candidate"],
    strong: Int[np.ndarray, " strong"],
    rows: list[Int[np.ndarray, "source split member"]],
    n_edges: int,
) -> Int[np.ndarray, " kept"]:
    """The strong candidates, and all that may be in the circuit of some half."""
    n_candidates = scores.shape[2]
    if n_edges >= len(strong):
        return np.arange(n_candidates)
    some = scores[:, :, strong].reshape(-1, len(strong))
    largest = np.sort(np.abs(scores).max(0), axis=0)[::-1].cumsum(0)  # of 1, 2, ... prompts
    is_kept = np.zeros(n_candidates, dtype=bool)
    is_kept[strong] = True
    for side in rows:
        n_members = side.shape[2]
        sums = np.abs(sum_rows(some, side.reshape(-1, n_members)))
        cutoff = nth_largest(sums, n_edges).min()
        is_kept |= largest[n_members - 1] * _ROUNDING >= cutoff
    return np.flatnonzero(is_kept)
