"""Graded overlaps against their definitions, scipy, and random circuits."""

from math import log

import numpy as np
import pytest
import scipy.stats

from kcircuits.analysis.overlap.all_pairs import epoch_halves, fact_pairs
from kcircuits.analysis.overlap.corrected import (
    Items,
    circuit_overlap,
    edge_items,
    jaccard_from_overlap,
    node_items,
)
from kcircuits.analysis.overlap.graded import (
    RBO_P,
    graded_overlaps,
    item_sizes,
    rank_biased_overlap,
)
from kcircuits.core.topology import Topology

TOPOLOGY = Topology(n_layers=3, n_heads=2)
N_ITEMS = 40


def make_sizes(seed, n_members=(12, 12), n_epochs=3, ties=False):
    """Sizes [split, epoch, item] of first and second halves, and the blocks of the items."""
    rng = np.random.default_rng(seed)
    sides = []
    for n in n_members:
        side = np.zeros((2, n_epochs, N_ITEMS))
        for row in side.reshape(-1, N_ITEMS):
            values = rng.lognormal(0, 1, n)
            row[rng.choice(N_ITEMS, n, replace=False)] = np.ceil(values) if ties else values
        sides.append(side)
    block = (np.arange(N_ITEMS) % 5 == 0).astype(int)
    return *sides, Items(block=block, block_sizes=np.array([90, 30]))


def measure(x, y, items):
    return graded_overlaps(x, y, circuit_overlap(x > 0, y > 0, items))


def slow_rbo(x, y, p):
    """RBO_EXT, term by term: Webber et al. 2010, equation 32."""
    ranked = [sorted(np.flatnonzero(z), key=lambda e, z=z: (-z[e], e)) for z in (x, y)]
    short, long = sorted(ranked, key=len)
    s, n = len(short), len(long)
    shared = [len(set(short[:d]) & set(long[:d])) for d in range(n + 1)]
    total = sum(shared[d] / d * p**d for d in range(1, n + 1))
    total += sum(shared[s] * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    return (1 - p) / p * total + ((shared[n] - shared[s]) / n + shared[s] / s) * p**n


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n_members", [(12, 12), (7, 15), (20, 30), (40, 40)])
def test_measures_equal_their_definitions(n_members, ties):
    x, y, items = make_sizes(1, n_members, ties=ties)
    found = measure(x, y, items)
    for split in range(2):
        for s, one in enumerate(x[split]):
            for t, other in enumerate(y[split]):
                p, q = one / one.sum(), other / other.sum()
                ruzicka = np.minimum(p, q).sum() / np.maximum(p, q).sum()
                shared = found["weighted"].observed[split, s, t]
                assert jaccard_from_overlap(shared) == pytest.approx(ruzicka)
                either = (one > 0) | (other > 0)
                rho = scipy.stats.spearmanr(one[either], other[either]).statistic
                assert found["spearman"].observed[split, s, t] == pytest.approx(rho)
                assert found["rbo"].observed[split, s, t] == pytest.approx(
                    slow_rbo(one, other, RBO_P)
                )


def test_equal_circuits_have_1_and_an_empty_one_0():
    x, y, items = make_sizes(2)
    for values in measure(x, x, items).values():
        np.testing.assert_allclose(np.diagonal(values.observed, axis1=1, axis2=2), 1)
    y[0, 1] = 0
    for values in measure(x, y, items).values():
        assert (values.observed[0, :, 1] == 0).all()
        assert np.isfinite(values.chance).all()


def test_two_circuits_without_a_common_item_have_the_spearman_that_is_told():
    x, y = np.zeros((2, 1, 1, 4000))
    x[..., :2000] = y[..., 2000:] = np.arange(1, 2001)
    items = Items(block=np.zeros(4000, dtype=int), block_sizes=np.array([10**9]))
    values = measure(x, y, items)["spearman"]
    assert values.observed[0, 0, 0] == pytest.approx(-6 / 7, abs=1e-3)
    assert values.chance[0, 0, 0] == pytest.approx(-6 / 7, abs=1e-3)


def test_rbo_of_long_lists_is_the_infinite_sum_and_50_ranks_carry_85_percent():
    rng = np.random.default_rng(3)
    x, y = rng.permuted(np.tile(np.arange(1.0, 1201), (2, 1, 1, 1)), axis=-1)
    found = rank_biased_overlap(x, y, np.zeros((1, 1, 1)), p=0.95).observed[0, 0, 0]
    ranked = [np.argsort(-z[0, 0]) for z in (x, y)]
    agreement = [len({*ranked[0][:d]} & {*ranked[1][:d]}) / d for d in range(1, 1201)]
    plain = 0.05 * sum(a * 0.95**d for d, a in enumerate(agreement))
    assert found == pytest.approx(plain, abs=1e-9)
    d, p = 50, RBO_P  # Webber et al. 2010, equation 21
    weight = (
        1 - p ** (d - 1) + (1 - p) / p * d * (log(1 / (1 - p)) - sum(p**i / i for i in range(1, d)))
    )
    assert weight == pytest.approx(0.85, abs=0.005)


@pytest.mark.parametrize("n_members", [(12, 12), (8, 20)])
def test_chance_is_the_mean_over_circuits_at_random_places(n_members):
    x, y, items = make_sizes(4, n_members, n_epochs=1)
    rng = np.random.default_rng(5)
    sizes, n_draws = items.block_sizes, 4000
    starts = [0, sizes[0]]
    drawn_x, drawn_y = np.zeros((2, n_draws, 1, int(sizes.sum())))
    for side, drawn in ((x, drawn_x), (y, drawn_y)):
        members = side[0, 0] > 0
        counts = np.bincount(items.block[members], minlength=2)
        for row in drawn[:, 0]:
            places = [
                start + rng.choice(size, n, replace=False)
                for start, size, n in zip(starts, sizes, counts, strict=True)
            ]
            row[np.concatenate(places)] = rng.permutation(side[0, 0, members])
    every = Items(block=np.repeat([0, 1], sizes), block_sizes=sizes)
    overlap = circuit_overlap(drawn_x > 0, drawn_y > 0, every)
    found = graded_overlaps(drawn_x, drawn_y, overlap)
    expected = measure(x[:1], y[:1], items)
    for name in expected:
        observed = found[name].observed.ravel()
        error = 4 * observed.std() / np.sqrt(n_draws)
        slack = 0.02 if name == "spearman" else 0.0  # at the expected number of shared items
        assert expected[name].chance[0, 0, 0] == pytest.approx(observed.mean(), abs=error + slack)


def test_sizes_of_nodes_sum_the_edges_of_the_circuit():
    rng = np.random.default_rng(6)
    candidates = np.sort(rng.choice(np.flatnonzero(TOPOLOGY.edge_mask), 40, replace=False))
    sizes, masks = rng.random((2, 3, 40)).astype(np.float32), rng.random((2, 3, 40)) < 0.4
    found = item_sizes(sizes, masks, node_items(TOPOLOGY, candidates))
    for split, epoch in np.ndindex(2, 3):
        total = dict.fromkeys(TOPOLOGY.nodes, 0.0)
        for e in np.flatnonzero(masks[split, epoch]):
            u, v = divmod(int(candidates[e]), TOPOLOGY.n_backward)
            for node in (TOPOLOGY.forward_names[u], TOPOLOGY.backward_nodes[v]):
                total[node] += float(sizes[split, epoch, e])
        np.testing.assert_allclose(found[split, epoch], list(total.values())[1:-1], rtol=1e-6)
    edges = item_sizes(sizes, masks, edge_items(TOPOLOGY, candidates))
    np.testing.assert_array_equal(edges, np.where(masks, sizes, 0))


@pytest.mark.parametrize("level", ["edge", "node"])
def test_no_change_reads_as_none_though_candidates_differ(synthetic, level):
    """A store keeps each epoch's candidates only: cutting sizes off below the circuit is fair."""
    topology = Topology(n_layers=6, n_heads=4)
    flat = np.flatnonzero(topology.edge_mask)
    rng = np.random.default_rng(7)
    kept, naive = [], []
    for _ in range(40):
        signal, _ = synthetic.signal_pair(rng, len(flat), 40, 0.0)
        cutoff = np.sort(np.abs(signal))[-40]
        scores = np.stack(
            [synthetic.prompt_scores(rng, signal, 4, 0.7, cutoff) for _ in range(2)]
        ).astype(np.float32)
        size = np.concatenate([np.abs(scores), np.abs(scores.mean(1, keepdims=True))], axis=1)
        top = np.sort(size, axis=-1)[..., -120][..., None]  # 3 n: all circuits, and not much more
        scores *= (size >= top).any(1)[:, None]
        items = {"edge": edge_items, "node": node_items}[level](topology, flat)
        kept.append(fact_pairs(scores, 40, items, graded=True).tables)
        naive.append(naive_spearman(scores))
    for name in ("overlap", "weighted", "spearman", "rbo"):
        k = np.mean([tables[name] for tables in kept], axis=0)
        assert 1 - k[0, 1] / np.sqrt(k[0, 0] * k[1, 1]) == pytest.approx(0, abs=0.04), name
    k = np.mean(naive, axis=0)
    assert 1 - k[0, 1] / np.sqrt(k[0, 0] * k[1, 1]) > 0.2  # all candidates' scores: read as change


def naive_spearman(scores):
    """Of all candidates' mean scores, 0 where an edge is no candidate."""
    halves = [np.abs(scores[:, part].mean(1)) for part in (slice(0, 2), slice(2, 4))]
    there = scores.any((0, 1))
    return np.array(
        [
            [scipy.stats.spearmanr(a[there], b[there]).statistic for b in halves[1]]
            for a in halves[0]
        ]
    )


def test_a_change_of_order_alone_is_seen_by_ranks_and_not_by_edges():
    rng = np.random.default_rng(8)
    signal = np.concatenate([rng.uniform(5, 50, 20), rng.uniform(0, 1, 80)])
    other = signal.copy()
    other[:20] = other[:20][::-1]
    noise = 1 + 0.02 * rng.standard_normal((2, 4, 100))
    scores = (np.stack([signal, other])[:, None] * noise).astype(np.float32)
    items = Items(block=np.zeros(100, dtype=int), block_sizes=np.array([100]))
    tables = fact_pairs(scores, 20, items, graded=True).tables
    assert tables["overlap"][0, 1] == 1
    for name in ("weighted", "spearman", "rbo"):
        assert tables[name][0, 1] < tables[name][0, 0] - 0.1, name


def test_a_prompt_that_is_named_twice_counts_twice():
    rng = np.random.default_rng(9)
    scores = rng.standard_normal((2, 4, 30)).astype(np.float32)
    members = (np.array([[0, 0]]), np.array([[2, 3]]))
    halves = epoch_halves(scores, 30, members=members)
    np.testing.assert_allclose(halves.sizes[0, 0], np.abs(2 * scores[:, 0]), rtol=1e-6)
