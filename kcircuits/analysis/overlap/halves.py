"""Splits of a fact's discovery prompts into halves, and relabellings of their epochs.

What replicates between disjoint halves of the prompts is the fact's circuit; what does not is
noise. Both epochs are split alike, so that a half at one epoch meets the *other* half at the
other epoch and never its own prompts. The swap test relabels prompts between the two epochs; a
relabelling and its complement exchange the epochs and give the same statistic, so one of each
pair is kept.
"""

from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Bool, Int

MAX_SPLITS = 7  # an orthogonal set at 8 prompts: each pair shares a half in 3 of the 7
ALL_SPLITS_UP_TO = 6  # prompts; 3 splits at 4 prompts, 10 at 5 and at 6
ALL_RELABELLINGS_UP_TO = 10  # prompts; 512 relabellings, 32 circuits per half
N_SAMPLED_RELABELLINGS = 256
N_SAMPLED_SPLITS = 500


@lru_cache
def split_halves(n_prompts: int) -> Bool[np.ndarray, "split prompt"]:
    """Splits of the prompts into two disjoint halves; True marks the second half.

    All splits up to 6 prompts; else 7, chosen one after the other as orthogonal as possible to
    those before (as +-1 vectors), so that every two prompts share a half about equally often. The
    choice is a function of the count alone. With an odd count the second half has one prompt
    more: halves A meet only halves B, so this favours no epoch. One prompt has no halves.

    Args:
        n_prompts: Number of discovery prompts, P.
    """
    candidates = _candidate_splits(n_prompts)
    candidates.setflags(write=False)
    if n_prompts <= ALL_SPLITS_UP_TO:
        return candidates
    signs = np.where(candidates, 1, -1)
    chosen = [0]
    alignment = (signs @ signs[0]) ** 2
    while len(chosen) < MAX_SPLITS:
        chosen.append(int(np.argmin(alignment)))
        alignment = alignment + (signs @ signs[chosen[-1]]) ** 2
    splits = candidates[chosen]
    splits.setflags(write=False)
    return splits


def relabellings(
    n_prompts: int, *, seed: int = 0, n_sampled: int = N_SAMPLED_RELABELLINGS
) -> Bool[np.ndarray, "relabelling prompt"]:
    """Swaps of epoch labels, prompt by prompt; True swaps. The first one swaps nothing.

    Of each swap and its complement the one that leaves the last prompt alone, 2^(P-1) of them, up
    to 10 prompts; beyond that ``n_sampled``, drawn with ``seed``.
    """
    if n_prompts <= ALL_RELABELLINGS_UP_TO:
        codes = np.arange(2 ** max(n_prompts - 1, 0))
        return (codes[:, None] >> np.arange(n_prompts)) % 2 == 1
    swaps = np.random.default_rng(seed).random((n_sampled, n_prompts)) < 0.5
    swaps[0] = False
    return swaps


def half_members(
    splits: Bool[np.ndarray, "split prompt"],
) -> tuple[Int[np.ndarray, "split prompt_a"], Int[np.ndarray, "split prompt_b"]]:
    """Prompt indices of the first and of the second half of each split."""
    order = np.argsort(splits, axis=1, kind="stable")
    n_first = splits.shape[1] // 2
    return order[:, :n_first], order[:, n_first:]


def _candidate_splits(n_prompts: int) -> Bool[np.ndarray, "split prompt"]:
    """Each split once, in lexicographic order; a seeded sample where there are too many."""
    n_first = n_prompts // 2
    if n_first == 0:
        return np.zeros((0, n_prompts), dtype=bool)
    if comb(n_prompts, n_first) > 10_000:
        rng = np.random.default_rng(0)
        shuffled = rng.permuted(np.tile(np.arange(n_prompts), (N_SAMPLED_SPLITS, 1)), axis=1)
        return shuffled >= n_first
    firsts = np.array(list(combinations(range(n_prompts), n_first)))
    if n_prompts % 2 == 0:
        firsts = firsts[firsts[:, 0] == 0]  # the other half of these is the same split
    second = np.ones((len(firsts), n_prompts), dtype=bool)
    np.put_along_axis(second, firsts, values=False, axis=1)
    return second
