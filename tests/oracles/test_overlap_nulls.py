"""Intervals over prompts, swapped labels and degree-matched chance: twins and simulation."""

from itertools import product

import numpy as np
import pytest

from kcircuits.analysis.overlap.all_pairs import epoch_halves, fact_pairs
from kcircuits.analysis.overlap.corrected import Items, edge_items
from kcircuits.analysis.overlap.halves import half_members, split_halves
from kcircuits.analysis.overlap.pair_nulls import (
    degree_chance,
    prompt_draws,
    prompt_interval,
    swap_null,
    swapped_pairs,
)
from kcircuits.analysis.overlap.turnover import compare_fact
from kcircuits.core.topology import Topology

TOPOLOGY = Topology(n_layers=6, n_heads=4)
FLAT = np.flatnonzero(TOPOLOGY.edge_mask)
N_TOTAL, N_EDGES = 600, 40
ITEMS = Items(block=np.zeros(N_TOTAL, dtype=int), block_sizes=np.array([N_TOTAL]))
KINDS = {
    "edge": ITEMS,
    "node": Items(
        block=np.zeros(1, dtype=int),
        block_sizes=np.array([1]),
        nodes=np.zeros((2, N_TOTAL), dtype=int),
    ),
}


def make_scores(synthetic, rng, *, n_prompts=8, moved=0.0, template=0.0, shared=None):
    signals = synthetic.signal_pair(rng, N_TOTAL, N_EDGES, moved)
    cutoff = np.sort(np.abs(signals[0]))[-N_EDGES]
    scores = [
        synthetic.prompt_scores(rng, signal, n_prompts, 0.6, cutoff)
        + (0 if shared is None else template * cutoff * shared[epoch])
        for epoch, signal in enumerate(signals)
    ]
    return np.stack(scores).astype(np.float32)


def test_draws_of_prompts_stay_within_their_half(synthetic):
    scores = make_scores(synthetic, np.random.default_rng(0))
    found = prompt_draws(scores, N_EDGES, ITEMS, n_draws=5, seed=3)
    rng = np.random.default_rng([3, 8])
    members = half_members(split_halves(8))
    for draw in found:
        drawn = [
            np.take_along_axis(half, rng.integers(0, half.shape[1], half.shape), 1)
            for half in members
        ]
        for half, chosen in zip(members, drawn, strict=True):
            assert all(set(b) <= set(a) for a, b in zip(half, chosen, strict=True))
        k = np.zeros((2, 2))
        for s, t in product((0, 1), repeat=2):
            for a, b in zip(*drawn, strict=True):
                x, y = scores[s, a].sum(0), scores[t, b].sum(0)
                circuits = [set(np.argsort(-np.abs(z), kind="stable")[:N_EDGES]) for z in (x, y)]
                o, o0 = len(circuits[0] & circuits[1]) / N_EDGES, N_EDGES / N_TOTAL
                k[s, t] += (o - o0) / (1 - o0) / len(drawn[0])
        np.testing.assert_allclose(draw, (k + k.T) / 2, atol=1e-12)
    np.testing.assert_array_equal(found, prompt_draws(scores, N_EDGES, ITEMS, n_draws=5, seed=3))


def test_interval_over_prompts_equals_a_loop_over_draws():
    rng = np.random.default_rng(1)
    draws = rng.uniform(0.3, 0.6, (6, 100, 2, 2))
    draws = (draws + draws.swapaxes(2, 3)) / 2
    compared = np.ones((6, 2, 2), dtype=bool)
    compared[4] = False
    low, high = prompt_interval(draws, compared)
    inside = draws[[0, 1, 2, 3, 5]]
    taus = [
        1 - sum(k[0, 1] for k in one) / sum(np.sqrt(k[0, 0] * k[1, 1]) for k in one)
        for one in inside.swapaxes(0, 1)
    ]
    assert low[0, 1] == pytest.approx(sorted(taus)[2])
    assert high[0, 1] == pytest.approx(sorted(taus)[-3])


@pytest.mark.slow
def test_interval_over_prompts_holds_no_change_where_facts_share_templates(synthetic):
    """Facts share the noise of 8 templates. (With 20 facts it held in at least 54 of 60.)"""
    n_repeats, hits, spread = 25, 0, []
    for repeat in range(n_repeats):
        rng = np.random.default_rng(repeat)
        shared = rng.standard_normal((2, 8, N_TOTAL))
        found = [make_scores(synthetic, rng, template=0.5, shared=shared) for _ in range(10)]
        draws = np.stack([prompt_draws(one, N_EDGES, ITEMS, n_draws=30) for one in found])
        low, high = prompt_interval(draws, np.ones((10, 2, 2), dtype=bool))
        hits += low[0, 1] <= 0 <= high[0, 1]
        spread.append(high[0, 1] - low[0, 1])
    assert hits / n_repeats >= 0.85
    assert np.mean(spread) < 0.25


def test_swapped_labels_are_those_of_the_swap_test(synthetic):
    rng = np.random.default_rng(2)
    scores = np.concatenate([make_scores(synthetic, rng, n_prompts=4) for _ in range(2)])
    found = swapped_pairs(scores, N_EDGES, KINDS, "edge")
    assert set(found) == {(s, t) for s, t in product(range(4), repeat=2) if s < t}
    one = compare_fact(scores[[1, 3]], N_EDGES, KINDS)
    np.testing.assert_array_equal(found[1, 3], [one.k_st, one.ceilings])


def test_null_of_swapped_labels_equals_a_loop():
    rng = np.random.default_rng(3)
    facts = [{(0, 1): rng.uniform(0.2, 0.6, (2, 4))} for _ in range(3)]  # 3 prompts: 4 swaps
    templates = [("x", "y", "z"), ("z", "x", "y"), ("x", "y", "z")]
    compared = np.ones((3, 2, 2), dtype=bool)
    compared[2] = False
    p, high = swap_null(facts, templates, compared)
    taus = []
    for bits in product((0, 1), repeat=3):
        swap = dict(zip("xyz", bits, strict=True))
        totals = np.zeros(2)
        for fact, names in zip(facts[:2], templates, strict=False):
            own = [swap[name] ^ swap[names[-1]] for name in names]
            totals += fact[0, 1][:, sum(bit << i for i, bit in enumerate(own))]
        taus.append(1 - totals[0] / totals[1])
    observed = taus[0]
    assert p[0, 1] == p[1, 0] == pytest.approx(np.mean(np.array(taus) >= observed - 1e-12))
    assert high[0, 1] == pytest.approx(max(taus))
    assert np.isnan(p[0, 0])


def test_swapped_labels_bracket_no_change_and_not_a_move(synthetic):
    for moved, is_beyond in ((0.0, False), (0.3, True)):
        rng = np.random.default_rng(5)
        found = [make_scores(synthetic, rng, moved=moved) for _ in range(12)]
        facts = [swapped_pairs(one, N_EDGES, KINDS, "edge") for one in found]
        p, high = swap_null(facts, [tuple("abcdefgh")] * 12, np.ones((12, 2, 2), dtype=bool))
        k = [fact_pairs(one, N_EDGES, ITEMS).tables["overlap"] for one in found]
        tau = 1 - sum(t[0, 1] for t in k) / sum(np.sqrt(t[0, 0] * t[1, 1]) for t in k)
        assert (tau > high[0, 1]) == is_beyond
        assert (p[0, 1] <= 0.05) == is_beyond
        assert high[0, 1] < (0.25 if moved else 0.1)  # labels that are swapped mix two circuits


def test_degree_matched_chance_lies_above_chance_where_circuits_have_hubs():
    rng = np.random.default_rng(6)
    sender, receiver = np.divmod(FLAT, TOPOLOGY.n_backward)
    hub = np.isin(sender, rng.choice(TOPOLOGY.n_forward, 4)) * 3.0
    hub += np.isin(receiver, rng.choice(TOPOLOGY.n_backward, 6)) * 3.0
    scores = np.exp(hub + rng.standard_normal((2, 4, len(FLAT)))).astype(np.float32)
    halves = epoch_halves(scores, N_EDGES)
    tables = [degree_chance(halves, FLAT, TOPOLOGY, name="fact", seed=seed) for seed in range(30)]
    again = degree_chance(halves, FLAT, TOPOLOGY, name="fact", seed=0)
    np.testing.assert_array_equal(tables[0], again)
    # expected from the degrees alone: every edge as likely as the product of its ends' degrees
    weights = []
    for side in (0, 1):
        degrees = [
            np.bincount(end[halves.kept], halves.masks[side, 0, 0], minlength=300)
            for end in (sender, receiver)
        ]
        weight = degrees[0][sender] * degrees[1][receiver]
        weights.append(np.minimum(weight / weight.sum() * N_EDGES, 1))
    rough = (weights[0] * weights[1]).sum() / N_EDGES
    mean = np.mean(tables, axis=0)[0, 0]
    assert mean > 3 * N_EDGES / len(FLAT)
    assert mean == pytest.approx(rough, rel=0.35)
    # nothing but hubs replicates here, and the degrees say all of it
    k = fact_pairs(scores, N_EDGES, edge_items(TOPOLOGY, FLAT)).tables["overlap"][0, 0]
    chance = N_EDGES / len(FLAT)
    assert mean == pytest.approx(chance + k * (1 - chance), rel=0.15)
