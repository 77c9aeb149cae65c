"""Every number of overlap, turnover and swap test against slow obvious sets and loops."""

from itertools import combinations, product
from math import sqrt

import numpy as np
import pytest
import scipy.stats

from kcircuits.analysis.overlap.corrected import (
    chance_jaccard,
    circuit_overlap,
    edge_items,
    matched_edge_items,
    node_items,
)
from kcircuits.analysis.overlap.half_circuits import top_mask
from kcircuits.analysis.overlap.halves import relabellings, split_halves
from kcircuits.analysis.overlap.jackknife import jackknife_ratio, student_quantile
from kcircuits.analysis.overlap.swap_test import (
    benjamini_hochberg,
    holm,
    joint_swap_test,
    swap_test,
)
from kcircuits.analysis.overlap.turnover import compare_fact, pooled_turnover, summarise
from tests.oracles.slow_circuits import FLAT, TOPOLOGY, slow_circuit, slow_nodes


def random_scores(rng, n_prompts, n_candidates, noise=1.0):
    signal = rng.lognormal(0, 1.5, n_candidates) * rng.choice([-1, 1], n_candidates)
    scores = signal * (1 + noise * rng.standard_normal((2, n_prompts, n_candidates)))
    scores[1, :, : n_candidates // 5] = scores[1, :, : n_candidates // 5][:, ::-1]
    return scores.astype(np.float32)


def candidates_and_items(rng, n_candidates=60):
    candidates = np.sort(rng.choice(FLAT, n_candidates, replace=False))
    items = {"edge": edge_items(TOPOLOGY, candidates), "node": node_items(TOPOLOGY, candidates)}
    return candidates, items


def slow_chance(x, y, level):
    if level == "edge":
        return len(x) * len(y) / TOPOLOGY.n_edges / sqrt(len(x) * len(y))
    expected = 0.0
    for kind, total in (("a", TOPOLOGY.n_layers * TOPOLOGY.n_heads), ("m", TOPOLOGY.n_layers)):
        expected += sum(n[0] == kind for n in x) * sum(n[0] == kind for n in y) / total
    return expected / sqrt(len(x) * len(y))


def slow_k(x, y, level):
    observed, chance = len(x & y) / sqrt(len(x) * len(y)), slow_chance(x, y, level)
    return (observed - chance) / (1 - chance)


def slow_overlaps(scores, n, candidates, level, swap):
    """k_ss, k_tt, k_st under one swap, and gained, lost, kept."""
    n_prompts = scores.shape[1]
    ss, tt, st, status = [], [], [], []
    for split in split_halves(n_prompts):
        circuits = {}
        for side, epoch in product((0, 1), (0, 1)):
            prompts = [p for p in range(n_prompts) if split[p] == bool(side)]
            rows = [scores[epoch ^ int(swap[p])][p] for p in prompts]
            found = slow_circuit(rows, n)
            circuits[side, epoch] = found if level == "edge" else slow_nodes(found, candidates)
        a_s, a_t, b_s, b_t = (circuits[key] for key in ((0, 0), (0, 1), (1, 0), (1, 1)))
        ss.append(slow_k(a_s, b_s, level))
        tt.append(slow_k(a_t, b_t, level))
        st.append((slow_k(a_s, b_t, level) + slow_k(b_s, a_t, level)) / 2)
        status.append(
            [len((a_t & b_t) - a_s - b_s), len((a_s & b_s) - a_t - b_t), len(a_s & b_s & a_t & b_t)]
        )
    return np.mean(ss), np.mean(tt), np.mean(st), np.mean(status, axis=0)


@pytest.mark.parametrize("level", ["edge", "node"])
@pytest.mark.parametrize("n_prompts", [2, 3, 4, 5, 8])
def test_overlaps_of_a_fact_equal_sets_under_every_swap(level, n_prompts):
    rng = np.random.default_rng(n_prompts)
    candidates, items = candidates_and_items(rng)
    scores, n = random_scores(rng, n_prompts, 60), 9
    fact = compare_fact(scores, n, items, level)
    swaps = relabellings(n_prompts)
    for i in range(0, len(swaps), 1 if n_prompts < 8 else 16):
        k_ss, k_tt, k_st, status = slow_overlaps(scores, n, candidates, level, swaps[i])
        np.testing.assert_allclose(
            [fact.k_ss[i], fact.k_tt[i], fact.k_st[i]], [k_ss, k_tt, k_st], atol=1e-6
        )
        if i == 0:
            np.testing.assert_allclose([fact.gained, fact.lost, fact.kept], status, atol=1e-9)
    full = [slow_circuit(list(rows), n) for rows in scores]
    x, y = full if level == "edge" else (slow_nodes(c, candidates) for c in full)
    assert fact.same_prompts == pytest.approx(len(x & y) / len(x | y))


@pytest.mark.parametrize("floor", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("n_prompts", [4, 5, 8])
def test_overlaps_do_not_depend_on_the_guess_that_drops_edges(n_prompts, floor, monkeypatch):
    rng = np.random.default_rng(3)
    _, items = candidates_and_items(rng)
    scores = random_scores(rng, n_prompts, 60)
    quick = compare_fact(scores, 5, items)
    monkeypatch.setattr("kcircuits.analysis.overlap.half_circuits.FLOORS", (floor, 0.0))
    slow = compare_fact(scores, 5, items)
    np.testing.assert_array_equal(quick.k_st, slow.k_st)
    np.testing.assert_array_equal(quick.k_ss, slow.k_ss)
    np.testing.assert_array_equal(quick.edges, slow.edges)


def test_more_than_ten_prompts_swap_by_a_sample_that_holds_the_observed_labels():
    rng = np.random.default_rng(5)
    candidates, items = candidates_and_items(rng)
    scores = random_scores(rng, 12, 60)
    fact = compare_fact(scores, 9, items)
    swaps = relabellings(12)
    assert len(fact.k_st) == len(swaps) == 256
    for i in (0, 7):
        k_ss, k_tt, k_st, _ = slow_overlaps(scores, 9, candidates, "edge", swaps[i])
        np.testing.assert_allclose([fact.k_ss[i], fact.k_tt[i], fact.k_st[i]], [k_ss, k_tt, k_st])


def test_exchanging_the_epochs_exchanges_gained_and_lost_exactly():
    rng = np.random.default_rng(8)
    _, items = candidates_and_items(rng)
    scores = random_scores(rng, 8, 60)
    there, back = compare_fact(scores, 9, items), compare_fact(scores[::-1], 9, items)
    np.testing.assert_array_equal(there.k_ss, back.k_tt)
    np.testing.assert_array_equal(there.k_st, back.k_st)
    np.testing.assert_array_equal(there.statistics, back.statistics)
    assert (there.gained, there.lost, there.kept) == (back.lost, back.gained, back.kept)
    assert there.turnover == back.turnover


def test_pooled_turnover_and_summary_equal_the_formula():
    rng = np.random.default_rng(9)
    facts = []
    for _ in range(5):
        _, items = candidates_and_items(rng)
        facts.append(compare_fact(random_scores(rng, 4, 60, noise=0.3), 9, items))
    ceilings = [sqrt(f.k_ss[0] * f.k_tt[0]) for f in facts]
    tau = 1 - sum(f.k_st[0] for f in facts) / sum(ceilings)
    assert pooled_turnover(facts) == pytest.approx(tau)
    printed = summarise(facts)
    o, top, chance = (2 * j / (1 + j) for j in (printed.jaccard, printed.ceiling, printed.chance))
    assert 1 - ((o - chance) / (1 - chance)) / ((top - chance) / (1 - chance)) == pytest.approx(tau)
    assert printed.chance == pytest.approx(chance_jaccard(9, 9, TOPOLOGY.n_edges))


def test_chance_equals_the_mean_over_random_circuits():
    rng = np.random.default_rng(0)
    n_total, n_x, n_y = 40, 10, 16
    shared = np.mean(
        [
            len({*rng.choice(n_total, n_x, replace=False)} & {*rng.choice(n_total, n_y, False)})
            for _ in range(4000)
        ]
    )
    assert n_x * n_y / n_total == pytest.approx(shared, rel=0.03)
    q_x, q_y = n_x / n_total, n_y / n_total
    assert chance_jaccard(n_x, n_y, n_total) == pytest.approx(q_x * q_y / (q_x + q_y - q_x * q_y))
    assert chance_jaccard(10, 10, 40) == pytest.approx(0.25 / 1.75)


def test_matched_chance_equals_a_sum_over_blocks():
    rng = np.random.default_rng(1)
    masks = np.zeros((2, len(FLAT)), dtype=bool)
    for mask in masks:
        mask[rng.choice(len(FLAT), 20, replace=False)] = True
    items = matched_edge_items(TOPOLOGY, FLAT)
    overlap = circuit_overlap(masks[:1], masks[1:], items)

    def block(flat):
        u, v = divmod(int(flat), TOPOLOGY.n_backward)
        return (
            TOPOLOGY.forward_layers[u], TOPOLOGY.backward_layers[v], TOPOLOGY.backward_kinds[v]
        )  # fmt: skip

    blocks = [block(flat) for flat in FLAT]
    expected = sum(
        sum(m and b == name for m, b in zip(masks[0], blocks, strict=True))
        * sum(m and b == name for m, b in zip(masks[1], blocks, strict=True))
        / blocks.count(name)
        for name in set(blocks)
    )
    assert overlap.chance[0, 0] == pytest.approx(expected / 20)
    assert int(items.block_sizes.sum()) == TOPOLOGY.n_edges


def test_top_mask_takes_the_largest_and_breaks_ties_by_position():
    size = np.array([[3, 1, 3, 3, 0], [0, 0, 5, 0, 0], [1, 2, 3, 4, 5]], dtype=np.float32)
    chosen = [set(np.flatnonzero(row)) for row in top_mask(size, 2)]
    assert chosen == [{0, 2}, {2}, {3, 4}]


@pytest.mark.parametrize(
    ("n_prompts", "n_splits"), [(1, 0), (2, 1), (3, 3), (4, 3), (5, 10), (6, 10)]
)
def test_few_prompts_have_all_splits(n_prompts, n_splits):
    splits = split_halves(n_prompts)
    assert splits.shape == (n_splits, n_prompts)
    assert len({tuple(row) for row in splits.tolist()}) == n_splits
    assert all(row.sum() == n_prompts - n_prompts // 2 for row in splits)


@pytest.mark.parametrize("n_prompts", [7, 8, 12, 16, 20])
def test_many_prompts_have_balanced_splits(n_prompts):
    splits = split_halves(n_prompts)
    assert len(splits) == 7
    np.testing.assert_array_equal(splits, split_halves(n_prompts))
    assert len({tuple(row ^ row[0]) for row in splits}) == 7
    together = [
        sum(row[i] == row[j] for row in splits) for i, j in combinations(range(n_prompts), 2)
    ]
    if n_prompts == 8:
        assert set(together) == {3}
    assert all((row.sum() == n_prompts - n_prompts // 2) for row in splits)


def test_relabellings_hold_one_of_each_pair_of_complements():
    swaps = relabellings(4)
    assert not swaps[0].any()
    seen = {tuple(row) for row in swaps.tolist()} | {tuple(row) for row in (~swaps).tolist()}
    assert len(swaps) == 8
    assert len(seen) == 16


def test_swap_test_equals_an_explicit_loop():
    rng = np.random.default_rng(6)
    statistics = [
        rng.standard_normal(8) * scale + shift for scale, shift in ((1, 0), (2, 0), (1, 1))
    ]
    statistics[2][0] = 9.0
    step = swap_test(statistics)
    pool = [t / np.std(values[1:]) for values in statistics for t in values[1:]]
    for i, values in enumerate(statistics):
        z = values[0] / np.std(values[1:])
        assert step.z[i] == pytest.approx(z)
        assert step.p[i] == pytest.approx((1 + sum(other >= z for other in pool)) / (1 + len(pool)))
    np.testing.assert_allclose(step.q, scipy.stats.false_discovery_control(step.p))


def test_joint_swap_moves_a_shared_template_in_all_facts():
    rng = np.random.default_rng(7)
    statistics = [rng.standard_normal(4) for _ in range(2)]  # 3 prompts each
    shared = joint_swap_test(statistics, [("x", "y", "z"), ("x", "y", "z")])
    totals = statistics[0] + statistics[1]
    assert shared.p == pytest.approx(np.mean(totals >= totals[0]))
    mixed = joint_swap_test(statistics, [("x", "y", "z"), ("z", "w", "x")])
    totals = []
    for bits in product((0, 1), repeat=4):
        swap = dict(zip("xyzw", bits, strict=True))
        total = 0.0
        for values, names in zip(statistics, ("xyz", "zwx"), strict=True):
            own = [swap[name] ^ swap[names[-1]] for name in names]
            total += values[sum(bit << i for i, bit in enumerate(own))]
        totals.append(total)
    assert mixed.p == pytest.approx(np.mean(np.array(totals) >= totals[0] - 1e-12))


def test_jackknife_equals_an_explicit_loop():
    rng = np.random.default_rng(8)
    top, bottom = rng.uniform(0.3, 0.6, 24), rng.uniform(0.5, 0.8, 24)
    entities = np.array([f"e{i % 12}" for i in range(24)])
    found = jackknife_ratio(top, bottom, entities)
    left_out = np.array(
        [1 - top[entities != e].sum() / bottom[entities != e].sum() for e in np.unique(entities)]
    )
    error = sqrt(11 / 12 * sum((left_out - left_out.mean()) ** 2))
    half = scipy.stats.t.ppf(0.975, 11) * error
    tau = 1 - top.sum() / bottom.sum()
    assert found.estimate == pytest.approx(tau)
    assert (found.low, found.high) == (pytest.approx(tau - half), pytest.approx(tau + half))
    assert np.isnan(jackknife_ratio(top[:9], bottom[:9], entities[:9]).low)


@pytest.mark.parametrize("degrees", [9, 10, 49, 999])
def test_student_quantile_equals_scipy(degrees):
    expected = scipy.stats.t.ppf(0.975, degrees)
    assert student_quantile(0.975, degrees) == pytest.approx(expected, rel=1e-5)


def test_adjusted_p_values():
    p = np.array([0.01, 0.04, 0.03, 0.5, 0.01])
    np.testing.assert_allclose(benjamini_hochberg(p), scipy.stats.false_discovery_control(p))
    np.testing.assert_allclose(holm(p), [0.05, 0.09, 0.09, 0.5, 0.05])
