"""Candidate edges: the few on which every prompt's scores are worth keeping.

The statistics of change need circuits of *halves* of a fact's prompts, for all ways to halve them,
but keeping every prompt's score on every edge costs gigabytes. An edge can only be in a half's
circuit if some prompt scores it high. So: take each prompt's and the mean's top 4n edges at budget
n, check that they hold the top n of the mean and of every half, and widen (8n, 16n, ...) until they
do.

The check does not rank all edges for every half. On a half of h prompts the mean's size at an edge
is at most the sum of the h largest |score| there, divided by h. Edges outside the candidates whose
bound lies below the smallest cutoff of any half are out; only the few others are computed.
"""

from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float, Int

from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError

WIDTH = 4
# Edges this close below a half's cutoff count as inside it, so that a reader who sums the prompts
# in another order (float32 differs in the last digit) finds its circuit among the candidates.
TOLERANCE = 1e-5
# 924 halves of 12 prompts are all checked; 16 prompts have 12,870, of which a fixed sample is.
MAX_HALVES = 1000


def candidate_edges(
    prompt_scores: Float[np.ndarray, "prompt n_forward n_backward"],
    topology: Topology,
    n_edges: int,
) -> Int[np.ndarray, " candidate"]:
    """Edges that hold the top ``n_edges`` of the mean and of every half of the prompts.

    Args:
        prompt_scores: One fact's scores on each of its discovery prompts.
        topology: Names of the axes.
        n_edges: The budget n; circuits are the n edges of largest |score|, ties by edge name.

    Returns:
        Flat indices sender * n_backward + receiver, ascending.

    Raises:
        UsageError: No prompt, a budget beyond the number of edges, or a score that is not finite.
    """
    flat = flat_edges(topology)
    scores = prompt_scores.reshape(len(prompt_scores), -1)[:, flat].astype(np.float64)
    if not len(scores) or not 0 < n_edges <= len(flat) or not np.isfinite(scores).all():
        raise UsageError(
            f"candidates of {n_edges} edges from {len(scores)} prompts and {len(flat)} edges: "
            "expected a prompt, a budget from 1 to the number of edges, and finite scores"
        )
    rank = name_rank(topology)
    rows = np.concatenate([scores, scores.mean(0, keepdims=True)])
    halves = half_weights(len(scores))
    width = WIDTH
    while width * n_edges < len(flat):
        chosen = np.zeros(len(flat), dtype=bool)
        for row in np.abs(rows):
            chosen[_top(row, width * n_edges, rank)] = True
        if _holds_halves(chosen, scores, halves, n_edges, rank):
            return flat[chosen]
        width *= 2
    return flat


def half_weights(n_prompts: int) -> Float[np.ndarray, "half prompt"]:
    """Weights that take the mean over each half of the prompts.

    All halves where there are at most ``MAX_HALVES``, of both sizes where the number is odd; else
    a fixed sample of them with their complements. One prompt has no halves.
    """
    if n_prompts < 2:
        return np.ones((n_prompts, n_prompts))
    sizes = sorted({n_prompts // 2, n_prompts - n_prompts // 2})
    if sum(comb(n_prompts, size) for size in sizes) <= MAX_HALVES:
        members = [half for size in sizes for half in combinations(range(n_prompts), size)]
    else:
        generator = np.random.default_rng(n_prompts)
        orders = [generator.permutation(n_prompts).tolist() for _ in range(MAX_HALVES // 2)]
        members = [half for order in orders for half in (order[: sizes[0]], order[sizes[0] :])]
    weights = np.zeros((len(members), n_prompts))
    for row, half in enumerate(members):
        weights[row, list(half)] = 1 / len(half)
    return weights


@lru_cache(maxsize=4)
def flat_edges(topology: Topology) -> Int[np.ndarray, " edge"]:
    """Flat index (sender * n_backward + receiver) of every real edge, ascending."""
    edges = np.flatnonzero(topology.edge_mask)
    edges.setflags(write=False)
    return edges


@lru_cache(maxsize=4)
def name_rank(topology: Topology) -> Int[np.ndarray, " edge"]:
    """Position of every real edge in the order of edge names, which breaks ties."""
    pairs = np.divmod(flat_edges(topology), topology.n_backward)
    names = [topology.edge_name(u, v) for u, v in zip(*(p.tolist() for p in pairs), strict=True)]
    rank = np.empty(len(names), dtype=np.int64)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return rank


def _top(
    sizes: Float[np.ndarray, " edge"], n: int, rank: Int[np.ndarray, " edge"]
) -> Int[np.ndarray, " n"]:
    """The n largest, ties by name."""
    cutoff = np.partition(sizes, len(sizes) - n)[len(sizes) - n]
    above, equal = np.flatnonzero(sizes > cutoff), np.flatnonzero(sizes == cutoff)
    n_equal = n - len(above)
    if n_equal < len(equal):
        equal = equal[np.argpartition(rank[equal], n_equal)[:n_equal]]
    return np.concatenate([above, equal])


def _holds_halves(
    chosen: np.ndarray,
    scores: Float[np.ndarray, "prompt edge"],
    halves: Float[np.ndarray, "half prompt"],
    n_edges: int,
    rank: Int[np.ndarray, " edge"],
) -> bool:
    """Whether the chosen edges hold the top n of every half, and what lies just below it."""
    inside = scores[:, chosen]
    place = inside.shape[1] - n_edges
    cutoffs = np.array([np.partition(np.abs(half @ inside), place)[place] for half in halves]) * (
        1 - TOLERANCE
    )
    outside = np.flatnonzero(~chosen)
    h = max(1, len(scores) // 2)
    sizes = np.sort(np.abs(scores[:, outside]), axis=0)[-h:]
    contested = outside[sizes.mean(0) >= cutoffs.min()]
    for start in range(0, len(halves), 64):
        rows = slice(start, start + 64)
        reached = np.abs(halves[rows] @ scores[:, contested]) >= cutoffs[rows, None]
        reached &= cutoffs[rows, None] > 0
        if reached.any():
            return False
    for half in halves[cutoffs == 0]:
        if not chosen[_top(np.abs(half @ scores), n_edges, rank)].all():
            return False
    return True
