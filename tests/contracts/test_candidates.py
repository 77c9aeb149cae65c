"""Candidate edges hold every half's circuit, against a slow twin that ranks all edges."""

from itertools import combinations

import numpy as np
import pytest

from kcircuits.core.candidates import candidate_edges, half_weights
from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError

TOPOLOGY = Topology(n_layers=3, n_heads=3)
NAMES = [
    TOPOLOGY.edge_name(u, v) if TOPOLOGY.edge_mask[u, v] else ""
    for u in range(TOPOLOGY.n_forward)
    for v in range(TOPOLOGY.n_backward)
]


def top(sizes: np.ndarray, n: int) -> set[int]:
    edges = np.flatnonzero(TOPOLOGY.edge_mask)
    return set(sorted(edges.tolist(), key=lambda i: (-sizes.reshape(-1)[i], NAMES[i]))[:n])


def circuits_of_halves(scores: np.ndarray, n: int) -> set[int]:
    n_prompts, found = len(scores), top(np.abs(scores.mean(0)), n)
    for size in {n_prompts // 2, (n_prompts + 1) // 2} - {0}:
        for half in combinations(range(n_prompts), size):
            found |= top(np.abs(scores[list(half)].mean(0)), n)
    return found


def slow_candidates(scores: np.ndarray, n: int) -> set[int]:
    width = 4
    while width * n < TOPOLOGY.n_edges:
        tops = [top(np.abs(row), width * n) for row in (*scores, scores.mean(0))]
        if circuits_of_halves(scores, n) <= set.union(*tops):
            return set.union(*tops)
        width *= 2
    return set(np.flatnonzero(TOPOLOGY.edge_mask).tolist())


def scores_like(kind: str, n_prompts: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (n_prompts, *TOPOLOGY.edge_mask.shape)
    scores = {
        "noise": lambda: rng.normal(size=shape),
        "shared": lambda: rng.standard_t(1.5, size=shape[1:]) + 0.3 * rng.normal(size=shape),
        "ties": lambda: rng.integers(-3, 4, size=shape).astype(float),
        "sparse": lambda: rng.normal(size=shape) * (rng.random(shape) < 0.03),
        "zero": lambda: np.zeros(shape),
    }[kind]()
    return scores * TOPOLOGY.edge_mask


@pytest.mark.parametrize("kind", ["noise", "shared", "sparse", "zero", "ties"])
@pytest.mark.parametrize("n_prompts", [1, 2, 4, 5, 8])
def test_candidates_equal_slow_twin(kind: str, n_prompts: int) -> None:
    for seed in range(3):
        scores = scores_like(kind, n_prompts, seed)
        fast = set(candidate_edges(scores, TOPOLOGY, 6).tolist())
        if kind == "ties":  # edges tied at a cutoff count as inside, so the fast one may be wider
            assert circuits_of_halves(scores, 6) <= fast
        else:
            assert fast == slow_candidates(scores, 6)


def test_candidates_widen_where_halves_disagree_with_prompts() -> None:
    scores = np.zeros((4, *TOPOLOGY.edge_mask.shape))
    edges = np.argwhere(TOPOLOGY.edge_mask)
    for row, start in enumerate((0, 20, 40, 60)):  # every prompt has 20 large edges that cancel
        for place, (u, v) in enumerate(edges[start : start + 20]):
            scores[row, u, v] = 10
            scores[(row + 1 + place % 3) % 4, u, v] = -10
    for u, v in edges[90:92]:  # and two small ones that all prompts share
        scores[:, u, v] = 6
    found = candidate_edges(scores, TOPOLOGY, 2)
    shared = [int(u * TOPOLOGY.n_backward + v) for u, v in edges[90:92]]
    assert set(shared) <= set(found.tolist())
    assert circuits_of_halves(scores, 2) <= set(found.tolist())


def test_candidates_of_all_edges_when_budget_is_large() -> None:
    found = candidate_edges(scores_like("noise", 3, 0), TOPOLOGY, TOPOLOGY.n_edges // 4 + 1)
    assert found.tolist() == np.flatnonzero(TOPOLOGY.edge_mask).tolist()


def test_half_weights_of_many_prompts_are_sampled_in_pairs() -> None:
    weights = half_weights(16)
    assert weights.shape == (1000, 16)
    assert np.allclose(weights[0::2] + weights[1::2], 1 / 8)
    assert np.array_equal(weights, half_weights(16))


def test_candidates_refuse_scores_that_are_not_finite() -> None:
    scores = scores_like("noise", 2, 0)
    scores[1, 0, 0] = np.nan
    with pytest.raises(UsageError, match="finite"):
        candidate_edges(scores, TOPOLOGY, 3)
