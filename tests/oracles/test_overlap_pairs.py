"""Overlap of all pairs of epochs against pairwise comparisons, sets and loops."""

from itertools import product
from math import sqrt

import numpy as np
import pytest

from kcircuits.analysis.overlap.all_pairs import (
    between_facts,
    epoch_halves,
    fact_pairs,
    pruned_same_prompts,
    widen,
)
from kcircuits.analysis.overlap.corrected import (
    edge_items,
    jaccard,
    matched_edge_items,
    node_items,
)
from kcircuits.analysis.overlap.half_circuits import top_mask
from kcircuits.analysis.overlap.halves import split_halves
from kcircuits.analysis.overlap.pair_summary import compared_pairs, summarise_pairs
from kcircuits.analysis.overlap.turnover import compare_fact, pooled_turnover, summarise
from kcircuits.core.bootstrap import draw_clusters
from kcircuits.core.circuit import prune_dangling
from kcircuits.core.topology import Topology

TOPOLOGY = Topology(n_layers=3, n_heads=2)
FLAT = np.flatnonzero(TOPOLOGY.edge_mask)
N_EPOCHS, N_EDGES = 4, 9
PAIRS = [(s, t) for s, t in product(range(N_EPOCHS), repeat=2) if s < t]


def make_fact(seed=0, n_prompts=4, noise=0.4, n_candidates=60):
    """Scores [epoch, prompt, candidate] with edges that are no candidate at some epochs."""
    rng = np.random.default_rng(seed)
    candidates = np.sort(rng.choice(FLAT, n_candidates, replace=False))
    signal = rng.lognormal(0, 1.2, n_candidates) * rng.choice([-1, 1], n_candidates)
    signals = np.stack([np.roll(signal, 2 * epoch) for epoch in range(N_EPOCHS)])
    shape = (N_EPOCHS, n_prompts, n_candidates)
    scores = signals[:, None] * (1 + noise * rng.standard_normal(shape))
    scores[:, :, :10] *= rng.random((N_EPOCHS, 1, 10)) < 0.5
    items = {"edge": edge_items(TOPOLOGY, candidates), "node": node_items(TOPOLOGY, candidates)}
    return scores.astype(np.float32), candidates, items


@pytest.mark.parametrize("level", ["edge", "node"])
@pytest.mark.parametrize("n_prompts", [2, 3, 4, 5, 8])
def test_tables_equal_the_comparison_of_two_epochs(level, n_prompts):
    scores, _, items = make_fact(n_prompts, n_prompts)
    tables = fact_pairs(scores, N_EDGES, items[level]).tables
    for s, t in PAIRS:
        pair = compare_fact(scores[[s, t]], N_EDGES, items, level)
        k, chance = tables["overlap"], tables["overlap_chance"]
        assert (k[s, s], k[t, t], k[s, t]) == (pair.k_ss[0], pair.k_tt[0], pair.k_st[0])
        assert k[t, s] == k[s, t]
        assert chance[s, t] == chance[t, s] == pytest.approx(pair.chance, rel=1e-12)
        assert tables["gained"][s, t] == pytest.approx(pair.gained)
        assert tables["gained"][t, s] == pytest.approx(pair.lost)
        assert tables["kept"][s, t] == pytest.approx(pair.kept)
        assert tables["same_prompts"][s, t] == pytest.approx(pair.same_prompts)


def test_a_pair_does_not_depend_on_the_other_epochs():
    scores, candidates, items = make_fact(3)
    matched = matched_edge_items(TOPOLOGY, candidates)
    every = fact_pairs(scores, N_EDGES, items["edge"], matched=matched, graded=True).tables
    some = scores[[1, 3]]
    kept = np.flatnonzero(some.any((0, 1)))  # what would be a candidate at these two
    two = fact_pairs(
        some[:, :, kept],
        N_EDGES,
        edge_items(TOPOLOGY, candidates[kept]),
        matched=matched.keep(kept),
        graded=True,
    ).tables
    assert set(every) == set(two)
    for name, table in two.items():
        np.testing.assert_allclose(table, every[name][np.ix_([1, 3], [1, 3])], rtol=1e-9)


def slow_halves(scores):
    """Circuits as sets of positions, by split, side and epoch."""
    n_epochs, n_prompts, _ = scores.shape
    found = {}
    for i, split in enumerate(split_halves(n_prompts)):
        for side, epoch in product((0, 1), range(n_epochs)):
            rows = scores[epoch, split == bool(side)]
            size = np.abs(rows.astype(np.float64).sum(0))
            order = sorted(range(len(size)), key=lambda e, size=size: (-size[e], e))
            found[i, side, epoch] = {e for e in order[:N_EDGES] if size[e] > 0}
    return found


def test_matched_chance_equals_a_sum_over_blocks():
    scores, candidates, items = make_fact(5)
    table = fact_pairs(
        scores, N_EDGES, items["edge"], matched=matched_edge_items(TOPOLOGY, candidates)
    ).tables["matched"]

    def block(flat):
        u, v = divmod(int(flat), TOPOLOGY.n_backward)
        return (
            TOPOLOGY.forward_layers[u], TOPOLOGY.backward_layers[v], TOPOLOGY.backward_kinds[v]
        )  # fmt: skip

    blocks = [block(flat) for flat in FLAT]
    halves = slow_halves(scores)
    for s, t in ((0, 0), (0, 2), (1, 3)):
        found = []
        for split, (a, b) in product(range(3), ((s, t), (t, s))):
            x, y = halves[split, 0, a], halves[split, 1, b]
            x, y = ([block(candidates[e]) for e in one] for one in (x, y))
            expected = sum(x.count(one) * y.count(one) / blocks.count(one) for one in set(x))
            found.append(expected / sqrt(len(x) * len(y)))
        assert table[s, t] == pytest.approx(np.mean(found))
    assert not np.allclose(table, N_EDGES / TOPOLOGY.n_edges, rtol=0.05)


def test_overlap_with_another_fact_equals_sets():
    (x, x_edges, x_items), (y, y_edges, _) = make_fact(6), make_fact(7)
    del x_items
    halves = [epoch_halves(scores, N_EDGES) for scores in (x, y)]
    own = [edges[one.kept] for edges, one in zip((x_edges, y_edges), halves, strict=True)]
    common, *places = np.intersect1d(*own, return_indices=True)
    assert 0 < len(common) < len(own[0])
    table = between_facts(
        *(one.masks[..., place] for one, place in zip(halves, places, strict=True)),
        *(one.masks.sum(-1) for one in halves),
    )
    named = [
        {key: {int(edges[e]) for e in circuit} for key, circuit in slow_halves(scores).items()}
        for scores, edges in ((x, x_edges), (y, y_edges))
    ]
    for s, t in ((0, 0), (1, 2)):
        found = [
            len(named[0][split, side, a] & named[1][split, 1 - side, b]) / N_EDGES
            for split, side, (a, b) in product(range(3), (0, 1), ((s, t), (t, s)))
        ]
        assert table[s, t] == pytest.approx(np.mean(found))


def test_pruned_circuits_equal_those_of_each_epoch():
    scores, candidates, _ = make_fact(8)
    table = pruned_same_prompts(scores, 30, candidates, TOPOLOGY)
    wide = np.zeros((N_EPOCHS, TOPOLOGY.n_forward * TOPOLOGY.n_backward), dtype=bool)
    wide[:, candidates] = top_mask(np.abs(scores.mean(1)), 30)
    pruned = prune_dangling(wide.reshape(N_EPOCHS, TOPOLOGY.n_forward, -1), TOPOLOGY)
    assert 0 < pruned.sum() < wide.sum()
    for s, t in PAIRS:
        assert table[s, t] == pytest.approx(jaccard(pruned[s].ravel(), pruned[t].ravel()))


def test_identical_epochs_are_told_whatever_the_sign_of_their_zeros():
    scores, _, items = make_fact(9)
    scores[2] = scores[0]
    scores[2][scores[2] == 0] = -0.0
    same = fact_pairs(scores, N_EDGES, items["edge"]).is_identical
    expected = np.eye(N_EPOCHS, dtype=bool)
    expected[0, 2] = expected[2, 0] = True
    np.testing.assert_array_equal(same, expected)


def test_an_epoch_without_a_result_has_no_numbers():
    scores, _, items = make_fact(10)
    part = widen(fact_pairs(scores[[0, 3]], N_EDGES, items["edge"]), [0, 3], N_EPOCHS)
    every = fact_pairs(scores, N_EDGES, items["edge"])
    for name, table in part.tables.items():
        assert np.isnan(table[1]).all()
        assert np.isnan(table[:, 2]).all()
        np.testing.assert_array_equal(table[0, 3], every.tables[name][0, 3])
    assert not part.is_identical[1].any()


@pytest.fixture(scope="module")
def study():
    """Tables of 24 facts of 12 entities, some of them not known at some epochs."""
    facts = [make_fact(100 + i, n_prompts=4, noise=0.3) for i in range(24)]
    facts[5][0][2] = facts[5][0][1]  # identical between these epochs, and not known there
    found = [fact_pairs(scores, N_EDGES, items["edge"], graded=True) for scores, _, items in facts]
    known = np.random.default_rng(0).random((24, N_EPOCHS)) < 0.9
    known[5] = False
    return {
        "facts": facts,
        "tables": {name: np.stack([one.tables[name] for one in found]) for name in found[0].tables},
        "known": known,
        "identical": np.stack([one.is_identical for one in found]),
        "entities": np.array([f"e{i // 2}" for i in range(24)]),
    }


def summary_of(study, **changes):
    parts = study | changes
    compared = compared_pairs(parts["known"], parts["identical"])
    return compared, summarise_pairs(
        parts["tables"], compared, parts["identical"], parts["entities"]
    )


def test_means_and_turnover_equal_those_of_compared_facts(study):
    compared, summary = summary_of(study)
    plain = summary.measures["overlap"]
    for s, t in PAIRS:
        inside = np.flatnonzero(compared[:, s, t])
        assert (5 in inside) == ((s, t) == (1, 2))
        facts = [
            compare_fact(scores[[s, t]], N_EDGES, items)
            for scores, _, items in (study["facts"][i] for i in inside)
        ]
        printed = summarise(facts)
        assert summary.n_facts[s, t] == len(inside)
        assert summary.n_entities[s, t] == len({study["entities"][i] for i in inside})
        assert plain.value.value[s, t] == pytest.approx(printed.jaccard)
        assert plain.ceiling.value[s, t] == pytest.approx(printed.ceiling)
        assert plain.chance[s, t] == pytest.approx(printed.chance)
        assert plain.turnover.value[s, t] == pytest.approx(pooled_turnover(facts))
        assert summary.means["gained"][t, s] == pytest.approx(printed.lost)
        assert summary.means["same_prompts"][s, t] == pytest.approx(printed.same_prompts)
    own = np.diag(plain.value.value)
    np.testing.assert_allclose(own, np.diag(plain.ceiling.value))
    assert (np.diag(plain.turnover.value) == 0).all()


def test_intervals_equal_a_loop_over_resampled_entities(study):
    compared, summary = summary_of(study)
    draws = draw_clusters(study["entities"], seed=0, n_draws=200)
    for name in ("overlap", "weighted", "spearman", "rbo"):
        k = study["tables"][name]
        for s, t in ((0, 1), (1, 2), (0, 3)):
            ceilings = [
                one[s, t] if study["identical"][i, s, t]
                else sqrt(max(one[s, s], 0) * max(one[t, t], 0))
                for i, one in enumerate(k)
            ]  # fmt: skip
            inside = np.flatnonzero(compared[:, s, t])
            taus = [
                1 - sum(w[i] * k[i, s, t] for i in inside) / sum(w[i] * ceilings[i] for i in inside)
                for w in draws
            ]
            found = summary.measures[name].turnover
            # 2.5% of 200 from either end, rounded outwards
            assert found.low[s, t] == pytest.approx(sorted(taus)[4])
            assert found.high[s, t] == pytest.approx(sorted(taus)[-5])
            assert found.low[s, t] < found.value[s, t] < found.high[s, t]


def test_facts_of_one_entity_are_drawn_together(study):
    """Each fact twice, under one entity: the same intervals, not narrower ones."""
    doubled = {
        "tables": {name: np.repeat(table, 2, axis=0) for name, table in study["tables"].items()},
        "known": np.repeat(study["known"], 2, axis=0),
        "identical": np.repeat(study["identical"], 2, axis=0),
        "entities": np.repeat(study["entities"], 2),
    }
    _, once = summary_of(study)
    _, twice = summary_of(doubled)
    for name, measure in once.measures.items():
        np.testing.assert_allclose(measure.turnover.low, twice.measures[name].turnover.low)
        np.testing.assert_allclose(measure.value.high, twice.measures[name].value.high)


def test_few_entities_have_no_interval_and_a_low_ceiling_no_turnover(study):
    few = np.where(np.arange(24) < 15, "one", study["entities"])  # 6 entities
    _, summary = summary_of(study, entities=few)
    assert np.isnan(summary.measures["overlap"].turnover.low).all()
    assert np.isfinite(summary.measures["overlap"].turnover.value).all()
    low = study["tables"]["overlap"].copy()
    low[:, 2, 2] = 0.1
    _, summary = summary_of(study, tables=study["tables"] | {"overlap": low})
    turnover = summary.measures["overlap"].turnover
    assert np.isnan(turnover.value[2, [0, 1, 3]]).all()
    assert np.isnan(turnover.low[[0, 1, 3], 2]).all()
    assert np.isfinite(turnover.value[0, [1, 3]]).all()


def test_unknown_facts_stay_out_and_no_fact_gives_no_number(study):
    known = study["known"].copy()
    known[:, 1] = False
    compared, summary = summary_of(study, known=known, identical=np.zeros_like(study["identical"]))
    assert not compared[:, 1].any()
    assert np.isnan(summary.measures["overlap"].value.value[1]).all()
    assert summary.n_facts[0, 1] == 0
    assert np.isfinite(summary.measures["overlap"].value.value[0, 2])


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Facts are drawn anew from a population whose turnover is known: entities of two facts."""
    rng = np.random.default_rng(4)
    n_entities, truth, hits, n_repeats = 40, 0.2, np.zeros(2), 400
    for _ in range(n_repeats):
        ceiling = np.clip(0.6 + 0.08 * rng.standard_normal(n_entities), 0.3, 0.9)
        shift = 0.1 * rng.standard_normal(n_entities)  # what facts of one entity share
        own = 0.05 * rng.standard_normal((n_entities, 2))
        k = np.empty((2 * n_entities, 2, 2))
        k[:, 0, 0] = k[:, 1, 1] = np.repeat(ceiling, 2)
        k[:, 0, 1] = k[:, 1, 0] = (ceiling[:, None] * (1 - truth - shift[:, None] - own)).ravel()
        everywhere = np.ones(k.shape, dtype=bool)
        for i, entities in enumerate((np.arange(2 * n_entities) // 2, np.arange(2 * n_entities))):
            turnover = (
                summarise_pairs(
                    {"overlap": k, "overlap_chance": np.full_like(k, 0.01)},
                    everywhere,
                    ~everywhere,
                    entities,
                )
                .measures["overlap"]
                .turnover
            )
            hits[i] += turnover.low[0, 1] <= truth <= turnover.high[0, 1]
    assert 0.92 <= hits[0] / n_repeats <= 0.97
    assert hits[1] / n_repeats < 0.90  # facts drawn one by one: too narrow
