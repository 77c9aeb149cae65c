"""Presence, history, structure and roles over epochs against slow obvious sets and loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats

from kcircuits.analysis.overlap.corrected import edge_items, node_items
from kcircuits.analysis.overlap.halves import split_halves
from kcircuits.analysis.overlap.turnover import compare_fact
from kcircuits.analysis.temporal.epoch_halves import (
    epoch_halves,
    half_sizes,
    own_epochs,
    permuted_epochs,
    swapped_steps,
)
from kcircuits.analysis.temporal.history import NEVER, core, history
from kcircuits.analysis.temporal.presence import Presence, presence, settled
from kcircuits.analysis.temporal.roles import core_terms
from kcircuits.analysis.temporal.structure import (
    circuit_hubs,
    circuit_structure,
    depth_of_all,
    hubs,
    layer_sizes,
)
from kcircuits.analysis.temporal.tracking import FactScores, track_fact
from kcircuits.core.circuit import circuit_graph
from kcircuits.core.topology import Topology
from tests.oracles.slow_circuits import FLAT, TOPOLOGY, slow_circuit, slow_nodes

N_EDGES = 9


def random_scores(rng, n_epochs, n_prompts, n_candidates=70, noise=0.6):
    """Signals that drift; an epoch of another scale; ties and zeros."""
    signal = rng.lognormal(0, 1.5, n_candidates) * rng.choice([-1, 1], n_candidates)
    drift = np.exp(0.4 * rng.standard_normal((n_epochs, 1, n_candidates)).cumsum(0))
    scores = signal * drift * (1 + noise * rng.standard_normal((n_epochs, n_prompts, n_candidates)))
    scores *= rng.lognormal(0, 1, (n_epochs, 1, 1))
    scores[:, :, -4:] = 0
    scores[:, :, 0] = scores[:, :, 1]
    return scores.astype(np.float32)


def fact_scores(rng, n_epochs, n_prompts, has_cell=None, is_known=None, **options):
    candidates = np.sort(rng.choice(FLAT, 70, replace=False))
    here = np.ones(n_epochs, dtype=bool) if has_cell is None else np.array(has_cell)
    return FactScores(
        values=random_scores(rng, int(here.sum()), n_prompts, **options),
        candidates=candidates,
        items={"edge": edge_items(TOPOLOGY, candidates), "node": node_items(TOPOLOGY, candidates)},
        has_cell=here,
        is_known=here if is_known is None else np.array(is_known),
    )


def slow_halves(scores, source, n):
    """[(A, B) per split] under one source."""
    n_prompts = scores.shape[1]
    rows = [scores[source[p], p] for p in range(n_prompts)]
    return [
        tuple(
            slow_circuit([rows[p] for p in range(n_prompts) if split[p] == side], n)
            for side in (False, True)
        )
        for split in split_halves(n_prompts)
    ]


@pytest.mark.parametrize("n_edges", [3, 9, 40, 70, 100])
@pytest.mark.parametrize("n_prompts", [2, 3, 5, 8])
@pytest.mark.parametrize("noise", [0.05, 0.6, 3.0])
def test_circuits_of_halves_equal_sets_under_any_source(n_prompts, n_edges, noise):
    rng = np.random.default_rng(n_prompts)
    scores = random_scores(rng, 3, n_prompts, noise=noise)
    sources = np.concatenate([own_epochs(3, n_prompts), rng.integers(0, 3, (3, n_prompts))])
    strong = rng.choice(70, 30, replace=False)
    found = epoch_halves(scores, n_edges, sources, strong)
    assert set(strong) <= set(found.kept)
    for i, source in enumerate(sources):
        for s, pair in enumerate(slow_halves(scores, source, n_edges)):
            for mask, expected in zip(found.masks, pair, strict=True):
                assert set(found.kept[mask[s, i]].tolist()) == expected


def test_sizes_are_the_sums_that_circuits_were_chosen_by():
    rng = np.random.default_rng(0)
    scores = random_scores(rng, 2, 5)
    sizes = half_sizes(scores)
    for s, split in enumerate(split_halves(5)):
        for side in (0, 1):
            expected = np.abs(scores[1][split == bool(side)].sum(0))
            np.testing.assert_allclose(sizes[side][s, 1], expected, rtol=1e-5)


def test_swapped_labels_keep_every_prompt_and_move_some():
    rng = np.random.default_rng(0)
    chosen = np.array([True, False, True, True])
    permuted = permuted_epochs(8, chosen, rng)
    assert (permuted[1] == 1).all()
    np.testing.assert_array_equal(np.sort(permuted, axis=0), own_epochs(4, 8))
    assert (permuted != own_epochs(4, 8)).any()
    for n_prompts in (2, 8):
        steps = swapped_steps(200, n_prompts, rng)
        start = np.arange(199)[:, None]
        np.testing.assert_array_equal(np.sort(steps, axis=1)[:, 0], np.tile(start, n_prompts))
        np.testing.assert_array_equal(steps.sum(1), np.tile(2 * start + 1, n_prompts))
        moved = (steps[:, 0] != start).sum(1)
        assert moved.min() == 1
        assert moved.max() == n_prompts - 1
        assert moved.mean() == pytest.approx(n_prompts / 2, abs=0.4)


@pytest.mark.parametrize("level", ["edge", "node"])
@pytest.mark.parametrize("n_prompts", [2, 3, 4, 5, 8])
def test_presence_births_and_deaths_equal_sets(level, n_prompts):
    rng = np.random.default_rng(n_prompts)
    fact = fact_scores(rng, 5, n_prompts)
    found = track_fact(fact, TOPOLOGY, N_EDGES, level, rng)
    names = fact.candidates if level == "edge" else np.array(TOPOLOGY.nodes)[1:-1]
    here = found.candidates if level == "edge" else names
    circuits = [slow_halves(fact.values, [t] * n_prompts, N_EDGES) for t in range(5)]

    def items(circuit):
        if level == "edge":
            return {int(fact.candidates[e]) for e in circuit}
        return slow_nodes(circuit, fact.candidates)

    halves = [[tuple(map(items, pair)) for pair in epoch] for epoch in circuits]
    half = len(split_halves(n_prompts)) / 2
    for item in names.tolist():
        both = [[item in a and item in b for a, b in epoch] for epoch in halves]
        neither = [[item not in a and item not in b for a, b in epoch] for epoch in halves]
        place = np.flatnonzero(here == item)
        if not len(place):  # an edge that is in no circuit is not kept
            assert all(sum(splits) < half for splits in both)
            continue
        one = found.items(level).only(place)
        assert one.in_both[:, 0].tolist() == [sum(b) >= half for b in both]
        gone = [sum(n) >= half and sum(b) < half for n, b in zip(neither, both, strict=True)]
        assert one.in_neither[:, 0].tolist() == gone
        steps = list(zip(pairwise(both), pairwise(neither), strict=True))
        died = [sum(x and y for x, y in zip(b[0], n[1], strict=True)) >= half for b, n in steps]
        born = [sum(x and y for x, y in zip(b[1], n[0], strict=True)) >= half for b, n in steps]
        assert one.died[:, 0].tolist() == died
        assert one.born[:, 0].tolist() == born
    full = [items(slow_circuit(list(epoch), N_EDGES)) for epoch in fact.values]
    plain = found.items(level).plain
    assert [set(here[row].tolist()) for row in plain] == full


@pytest.mark.parametrize("level", ["edge", "node"])
@pytest.mark.parametrize("n_prompts", [2, 5, 8])
def test_steps_equal_the_comparison_of_two_epochs(level, n_prompts):
    rng = np.random.default_rng(10 + n_prompts)
    fact = fact_scores(rng, 4, n_prompts)
    found = track_fact(fact, TOPOLOGY, N_EDGES, level, rng)
    for t in range(3):
        pair = compare_fact(fact.values[t : t + 2], N_EDGES, fact.items, level)
        shares = pair.edges[:, np.isin(fact.candidates, found.candidates)]
        shares = shares if level == "edge" else pair.nodes
        now = found.items(level)
        for change, share in zip((now.born, now.died, now.kept), shares, strict=True):
            np.testing.assert_array_equal(change[t], share >= 0.5)
        own = np.diag(found.overlap)
        np.testing.assert_allclose(own[t : t + 2], [pair.k_ss[0], pair.k_tt[0]])
        np.testing.assert_allclose(found.step_overlaps[t], pair.k_st[0])
        np.testing.assert_allclose(found.ceilings[t], pair.ceiling)


def test_epochs_without_a_cell_are_empty_and_make_no_step():
    rng = np.random.default_rng(3)
    has_cell = [True, True, False, True, True]
    fact = fact_scores(rng, 5, 4, has_cell)
    found = track_fact(fact, TOPOLOGY, N_EDGES, "edge", rng)
    alone = track_fact(
        FactScores(**{**vars(fact), "has_cell": np.ones(4, bool), "is_known": np.ones(4, bool)}),
        TOPOLOGY, N_EDGES, "edge", rng,
    )  # fmt: skip
    np.testing.assert_array_equal(found.edges.in_both[[0, 1, 3, 4]], alone.edges.in_both)
    np.testing.assert_array_equal(found.edges.born[[0, 3]], alone.edges.born[[0, 2]])
    assert not found.edges.in_both[2].any()
    assert not found.edges.born[1:3].any()
    assert found.is_compared.tolist() == [True, False, False, True]
    assert np.isnan(found.overlap[2]).all()


def test_identical_scores_are_identical_steps():
    rng = np.random.default_rng(4)
    fact = fact_scores(rng, 3, 4, is_known=[False, False, False])
    fact.values[1] = fact.values[0]
    found = track_fact(fact, TOPOLOGY, N_EDGES, "edge", rng)
    assert found.is_identical.tolist() == found.is_compared.tolist() == [True, False]
    assert not (found.edges.born[0] | found.edges.died[0]).any()
    assert found.step_overlaps[0] == found.ceilings[0]
    assert found.swapped.born[0] == found.swapped.died[0] == 0


def test_undecided_epochs_carry_on_what_both_halves_last_agreed_on():
    #             there  fades  gone   half   half   there
    both = np.array([[1, 1], [0, 0], [0, 0], [0, 0], [0, 0], [1, 1]], dtype=bool)
    neither = np.array([[0, 0], [0, 0], [1, 1], [0, 0], [0, 0], [0, 0]], dtype=bool)
    everywhere = np.ones(6, dtype=bool)
    state = settled(both, neither, everywhere)
    assert state[:, 0].tolist() == [1, 1, 0, 0, 0, 1]
    unseen = everywhere.copy()
    unseen[3] = False
    assert settled(both, neither, unseen)[:, 0].tolist() == [1, 1, 0, -1, -1, 1]
    items = Presence(
        in_both=both, in_neither=neither, born=both[1:] & False, died=both[1:] & False,
        kept=both[1:] & False, plain=both,
    )  # fmt: skip
    found = history(items, everywhere)
    assert found.n_spells.tolist() == [2, 2]
    assert found.lifetime.tolist() == [6, 6]
    assert found.n_present.tolist() == [2, 2]


def random_presence(rng, n_epochs=7, n_items=400):
    a, b = rng.random((2, 3, n_epochs, n_items)) < rng.random(n_items)
    return presence(a, b, a[0])


def test_history_and_core_equal_slow_loops():
    rng = np.random.default_rng(5)
    items = random_presence(rng)
    observed = np.array([True, True, False, True, True, True, True])
    found = history(items, observed)
    whole, later = core(items.in_both, observed), core(items.in_both, observed, share=0.6, since=3)
    for i in range(items.in_both.shape[1]):
        at = [t for t in range(7) if items.in_both[t, i] and observed[t]]
        assert found.first_seen[i] == (at[0] if at else NEVER)
        assert found.last_seen[i] == (at[-1] if at else NEVER)
        assert found.lifetime[i] == (at[-1] - at[0] + 1 if at else 0)
        assert found.n_present[i] == len(at)
        assert whole[i] == (at == [0, 1, 3, 4, 5, 6])
        assert later[i] == (len([t for t in at if t >= 3]) >= 0.6 * 4)
        spells, state, last = 0, None, False
        for t in range(7):
            if not observed[t]:
                state = None
            elif items.in_both[t, i]:
                state = True
            elif items.in_neither[t, i]:
                state = False
            spells += state is True and not last
            last = state is True
        assert found.n_spells[i] == spells
    assert found.n_spells.max() > 1
    assert whole.any()
    assert not core(items.in_both, ~np.ones(7, dtype=bool)).any()


def test_terms_of_the_core_equal_slow_loops():
    rng = np.random.default_rng(6)
    items = random_presence(rng)
    observed = np.array([False, True, True, False, True, True, True])
    places = [1, 2, 4, 5, 6]
    found = core_terms(items, observed)
    for i in range(items.in_both.shape[1]):
        state, states = False, []
        for t in places:
            state = True if items.in_both[t, i] else False if items.in_neither[t, i] else state
            states.append(state)
        if all(states) or not states[-1]:
            entered = NEVER
        else:
            entered = places[max(k for k, s in enumerate(states) if not s) + 1]
        left = NEVER if all(states) or not states[0] else places[states.index(False)]
        assert (found.entered[i], found.left[i]) == (entered, left)
    assert {*found.entered.tolist()} > {NEVER, 6}
    assert {*found.left.tolist()} > {NEVER}
    nowhere = core_terms(items, np.zeros(7, dtype=bool))
    assert {*nowhere.entered.tolist(), *nowhere.left.tolist()} == {NEVER}


def test_structure_equals_scipy_networkx_and_loops():
    rng = np.random.default_rng(7)
    fact = fact_scores(rng, 4, 4)
    size = np.abs(fact.values.mean(1))
    masks = np.argsort(np.argsort(-size, axis=1), axis=1) < 15
    found = circuit_structure(masks, size, fact.candidates, TOPOLOGY)
    np.testing.assert_array_equal(found.is_hub, circuit_hubs(masks, fact.candidates, TOPOLOGY))
    for i, mask in enumerate(masks):
        assert found.entropy[i] == pytest.approx(scipy.stats.entropy(size[i][mask]), rel=1e-5)
        dense = np.zeros((TOPOLOGY.n_forward, TOPOLOGY.n_backward), dtype=bool)
        dense.flat[fact.candidates[mask]] = True
        graph = circuit_graph(dense, TOPOLOGY)
        for n, node in enumerate(TOPOLOGY.nodes):
            there = node in graph
            assert found.in_degree[i, n] == (graph.in_degree(node) if there else 0)
            assert found.out_degree[i, n] == (graph.out_degree(node) if there else 0)
        layers = [data["layer"] for *_, data in graph.edges(data=True)]
        assert found.layer_edges[i].tolist() == [layers.count(k) for k in range(-1, 3)]
        inner = [layer for layer in layers if layer >= 0]
        assert found.depth[i] == pytest.approx(np.mean(inner))


def test_entropy_is_ln_n_of_equal_edges_and_0_of_one():
    candidates = FLAT[:20]
    even = np.ones((1, 20), dtype=np.float32)
    assert circuit_structure(even > 0, even, candidates, TOPOLOGY).entropy[0] == pytest.approx(
        math.log(20)
    )
    one = np.zeros((1, 20), dtype=bool)
    one[0, 3] = True
    assert circuit_structure(one, even, candidates, TOPOLOGY).entropy[0] == pytest.approx(0)
    none = circuit_structure(one & False, even, candidates, TOPOLOGY)
    assert np.isnan(none.entropy[0])
    assert np.isnan(none.depth[0])


def test_hubs_equal_a_slow_loop():
    rng = np.random.default_rng(8)
    degree = (rng.pareto(1.5, (20, 40)) * (rng.random((20, 40)) < 0.7)).astype(int)
    for row, found in zip(degree, hubs(degree), strict=True):
        touched = [d for d in row if d > 0]
        bar = np.mean(touched) + 2 * np.std(touched)
        assert found.tolist() == [d > bar for d in row]
    assert hubs(degree).any()
    assert not hubs(np.zeros((1, 5), dtype=int)).any()
    assert not hubs(np.full((1, 5), 3)).any()
    # k of n nodes that are larger than the others lie sqrt((n - k) / k) deviations above the mean.
    below, above = (np.array([[9] * 3 + [2] * (n - 3) + [0] * 4]) for n in (14, 16))
    assert not hubs(below).any()  # 1.91
    assert hubs(above).sum() == 3  # 2.08


@pytest.mark.parametrize("topology", [TOPOLOGY, Topology(n_layers=2, n_heads=3, is_parallel=True)])
def test_all_edges_of_a_model_by_layer(topology):
    layers = [int(topology.forward_layers[u]) for u in np.nonzero(topology.edge_mask)[0]]
    expected = [layers.count(k) for k in range(-1, topology.n_layers)]
    assert layer_sizes(topology).tolist() == expected
    assert depth_of_all(topology) == pytest.approx(np.mean([k for k in layers if k >= 0]))


def test_halves_apart_equal_loops_over_splits():
    rng = np.random.default_rng(9)
    fact = fact_scores(rng, 3, 5)
    found = track_fact(fact, TOPOLOGY, N_EDGES, "edge", rng)
    shapes = {}
    for t in range(3):
        for s, split in enumerate(split_halves(5)):
            for side in (0, 1):
                size = np.abs(fact.values[t][split == bool(side)].sum(0, dtype=np.float64))
                mask = np.zeros(70, dtype=bool)
                mask[list(slow_circuit(list(fact.values[t][split == bool(side)]), N_EDGES))] = True
                shapes[t, s, side] = circuit_structure(
                    mask[None], size[None], fact.candidates, TOPOLOGY
                )
    n_splits = len(split_halves(5))
    for t, u in ((0, 0), (0, 1), (2, 1)):
        for name in ("entropy", "depth"):
            apart = [
                abs(getattr(shapes[x, s, 0], name)[0] - getattr(shapes[y, s, 1], name)[0])
                for s in range(n_splits)
                for x, y in ((t, u), (u, t))
            ]
            assert getattr(found, f"{name}_apart")[t, u] == pytest.approx(np.mean(apart), rel=1e-4)
        layers = [
            np.abs(shapes[t, s, 0].layer_edges[0] - shapes[t, s, 1].layer_edges[0])
            for s in range(n_splits)
        ]
        np.testing.assert_allclose(found.layers_apart[t], np.mean(layers, axis=0))
