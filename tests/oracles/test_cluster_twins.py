"""Trees, cuts, adjusted Rand index, stability and separation against slow obvious loops."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from kcircuits.analysis.overlap.clusters import separation
from kcircuits.analysis.overlap.contrast import exchanged
from kcircuits.analysis.overlap.rand_index import adjusted_rand, agreement, stability_test
from kcircuits.analysis.overlap.trees import cut, leaf_order, tree


def slow_rand(x, y):
    """Over all pairs of facts; a fact of -1 is with no other."""
    pairs = list(combinations(range(len(x)), 2))
    together = [(x[i] == x[j] >= 0, y[i] == y[j] >= 0) for i, j in pairs]
    both = sum(a and b for a, b in together)
    in_x, in_y = (sum(t[side] for t in together) for side in (0, 1))
    expected = in_x * in_y / comb(len(x), 2)
    room = (in_x + in_y) / 2 - expected
    return (both - expected) / room if room else 0


def test_adjusted_rand_index_equals_a_count_of_pairs():
    rng = np.random.default_rng(6)
    x, y = rng.integers(-1, 3, 12), rng.integers(-1, 4, (5, 12))
    np.testing.assert_allclose(adjusted_rand(x, y), [slow_rand(x, row) for row in y])
    assert adjusted_rand(x, x[None])[0] == 1
    for trivial in (0, -1):
        same = np.full(4, trivial)
        assert adjusted_rand(same, same[None])[0] == 0
    many = rng.permuted(np.tile(np.repeat(np.arange(4), 5), (4000, 1)), axis=1)
    assert abs(adjusted_rand(many[0], many[1:]).mean()) < 0.01  # 0 by chance


def test_agreement_counts_the_exchanges_that_reach_it():
    clusters = np.repeat([0, 1], 6)
    labels = np.array([0] * 5 + [1] * 6 + [0])
    donors = exchanged(np.arange(12), None, 99, seed=3)
    found = agreement(clusters, labels, donors)
    value = slow_rand(clusters, labels)
    assert found.rand == pytest.approx(value)
    reached = sum(slow_rand(clusters, labels[turn]) >= value - 1e-12 for turn in donors)
    assert found.p == pytest.approx((1 + reached) / 100)


def slow_average_linkage(distance):
    """Merges of the closest two groups by the mean over their pairs, and the heights."""
    groups = [{i} for i in range(len(distance))]
    heights, found = [], []
    while len(groups) > 1:
        means = {
            (a, b): np.mean([distance[i, j] for i in groups[a] for j in groups[b]])
            for a, b in combinations(range(len(groups)), 2)
        }
        a, b = min(means, key=means.__getitem__)
        heights.append(means[a, b])
        groups[a] |= groups.pop(b)
        found.append({frozenset(group) for group in groups})
    return heights, found


def test_average_linkage_takes_negative_distances():
    rng = np.random.default_rng(8)
    distance = rng.uniform(-0.3, 0.8, (14, 14))
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0)
    merges = tree(distance)
    heights, groups = slow_average_linkage(distance)
    assert min(heights) < 0
    np.testing.assert_allclose(merges[:, 2], heights)
    assert sorted(leaf_order(merges, distance)) == list(range(14))
    for n, labels in enumerate(cut(merges, 4), start=2):
        large = [{g for g in cut_ if len(g) >= 3} for cut_ in reversed(groups)]
        expected = next((g for g in large if len(g) == n), set())  # the coarsest such cut
        found = {frozenset(np.flatnonzero(labels == c)) for c in set(labels) - {-1}}
        assert found == expected
        sizes = [np.count_nonzero(labels == c) for c in range(len(found))]
        assert sizes == sorted(sizes, reverse=True)


def test_a_fact_that_is_like_no_other_is_no_cluster():
    rng = np.random.default_rng(1)
    distance = np.full((13, 13), 0.5)
    for start in (0, 6):
        distance[start : start + 6, start : start + 6] = 0.1
    distance[12] = distance[:, 12] = 5.0
    distance += np.triu(rng.uniform(0, 0.01, (13, 13)))
    distance = np.triu(distance, 1) + np.triu(distance, 1).T
    assert cut(tree(distance), 2)[0].tolist() == [0] * 6 + [1] * 6 + [-1]


def test_stability_is_the_mean_agreement_and_its_p_that_of_the_largest():
    rng = np.random.default_rng(9)
    first, second = rng.integers(0, 3, (2, 2, 3, 10))
    second[:, 1] = first[:, 1]
    second[0, 1, 0] = (second[0, 1, 0] + 1) % 3
    stability, p = stability_test(first, second, n_permutations=30, seed=4)
    expected = [np.mean([slow_rand(first[s, c], second[s, c]) for s in range(2)]) for c in range(3)]
    np.testing.assert_allclose(stability, expected)
    orders = np.random.default_rng(4).permuted(np.tile(np.arange(10), (30, 1)), axis=1)
    largest = [
        max(np.mean([slow_rand(first[s, c], second[s, c][o]) for s in range(2)]) for c in range(3))
        for o in orders
    ]
    assert p == pytest.approx((1 + sum(v >= max(expected) - 1e-12 for v in largest)) / 31)


def test_separation_equals_a_loop():
    rng = np.random.default_rng(13)
    labels, shared = rng.integers(0, 2, (2, 7)), rng.random((2, 7, 7))
    labels[:, 3] = -1
    shared = (shared + shared.swapaxes(1, 2)) / 2
    scale = np.outer(*[rng.uniform(0.4, 0.8, 7)] * 2)
    found = []
    for names, table in zip(labels, shared, strict=True):
        sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
        for i, j in combinations([0, 1, 2, 4, 5, 6], 2):
            sums[bool(names[i] == names[j])][0] += table[i, j] * scale[i, j]
            sums[bool(names[i] == names[j])][1] += scale[i, j]
        found.append(sums[True][0] / sums[True][1] - sums[False][0] / sums[False][1])
    assert separation(labels, shared, scale) == pytest.approx(np.mean(found))
