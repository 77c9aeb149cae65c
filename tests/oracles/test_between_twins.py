"""Every number of overlaps between facts, runs and methods against slow obvious sets and loops."""

from itertools import combinations
from math import sqrt

import numpy as np
import pytest
import scipy.stats

from kcircuits.analysis.overlap.between_facts import FactPairs, jackknife_pairs, pool_pairs
from kcircuits.analysis.overlap.clusters import clusterable
from kcircuits.analysis.overlap.contrast import contrast, exchanged
from kcircuits.analysis.overlap.corrected import edge_items, matched_edge_items, node_items
from kcircuits.analysis.overlap.fact_halves import (
    FactHalves,
    PairOverlaps,
    cross_overlaps,
    fact_halves,
    halves_of,
    meet_own_templates,
    quarters_of,
)
from kcircuits.analysis.overlap.halves import split_halves
from kcircuits.analysis.overlap.own_facts import own_facts
from kcircuits.analysis.overlap.turnover import compare_fact
from tests.oracles.slow_circuits import FLAT, TOPOLOGY, slow_circuit, slow_nodes

N_EDGES = 9


def make_facts(rng, n_prompts, noise=0.6):
    """Scores of facts that share part of their signal, on all edges of the model."""
    common = rng.lognormal(0, 1.5, len(FLAT))
    facts = []
    for n in n_prompts:
        signal = common * rng.lognormal(0, 0.7, len(FLAT))
        scores = signal * (1 + noise * rng.standard_normal((n, len(FLAT))))
        facts.append(scores.astype(np.float32))
    return facts


def halved(scores, level="edge"):
    items = (edge_items if level == "edge" else node_items)(TOPOLOGY, FLAT)
    names = np.arange(len(items.block))
    return fact_halves(scores, N_EDGES, halves_of(len(scores)), items, names)


def block_of(e):
    u, v = divmod(int(FLAT[e]), TOPOLOGY.n_backward)
    return TOPOLOGY.forward_layers[u], TOPOLOGY.backward_layers[v], TOPOLOGY.backward_kinds[v]


BLOCKS = [block_of(e) for e in range(len(FLAT))]


def slow_chance(x, y, kind):
    scale = sqrt(len(x) * len(y))
    if kind == "edge":
        return len(x) * len(y) / len(FLAT) / scale
    if kind == "matched":
        return sum(
            sum(BLOCKS[e] == b for e in x) * sum(BLOCKS[e] == b for e in y) / BLOCKS.count(b)
            for b in set(BLOCKS)
        ) / scale  # fmt: skip
    sizes = {"a": TOPOLOGY.n_layers * TOPOLOGY.n_heads, "m": TOPOLOGY.n_layers}
    return sum(
        sum(n[0] == k for n in x) * sum(n[0] == k for n in y) / size for k, size in sizes.items()
    ) / scale  # fmt: skip


def slow_halves(scores, split, kind):
    sides = []
    for side in (False, True):
        rows = [scores[p] for p in range(len(scores)) if split[p] == side]
        circuit = slow_circuit(rows, N_EDGES)
        sides.append(slow_nodes(circuit) if kind == "node" else circuit)
    return sides


def slow_overlap(x, y, kind, n_splits):
    """o, o0 and k of two facts: mean over splits and over both ways round."""
    terms = []
    for s in range(n_splits):
        (a_x, b_x), (a_y, b_y) = (
            slow_halves(scores, split_halves(len(scores))[s % len(split_halves(len(scores)))], kind)
            for scores in (x, y)
        )
        for first, second in ((a_x, b_y), (b_x, a_y)):
            o = len(first & second) / sqrt(len(first) * len(second))
            chance = slow_chance(first, second, kind)
            terms.append((o, chance, (o - chance) / (1 - chance)))
    return np.mean(terms, axis=0)


@pytest.mark.parametrize("kind", ["edge", "matched", "node"])
def test_overlaps_of_all_pairs_equal_sets(kind):
    """Also of facts with other numbers of prompts: 3 splits, 10, 7 and 1."""
    rng = np.random.default_rng(0)
    scores = make_facts(rng, [4, 4, 5, 8, 2])
    facts = [halved(one, "node" if kind == "node" else "edge") for one in scores]
    make_items = {"edge": edge_items, "matched": matched_edge_items, "node": node_items}[kind]
    (found,) = cross_overlaps(facts, facts, [make_items(TOPOLOGY, FLAT)])
    (other,) = cross_overlaps(facts[:2], facts[2:], [make_items(TOPOLOGY, FLAT)])
    for i, x in enumerate(scores):
        for j, y in enumerate(scores):
            expected = slow_overlap(x, y, kind, 10)
            got = [t[i, j] for t in (found.observed, found.chance, found.corrected)]
            np.testing.assert_allclose(got, expected, atol=1e-6)
            if i < 2 <= j:
                assert other.corrected[i, j - 2] == pytest.approx(expected[2], abs=1e-6)


def test_overlap_with_itself_is_that_of_a_fact_between_equal_epochs():
    scores = make_facts(np.random.default_rng(1), [8])[0]
    items = {"edge": edge_items(TOPOLOGY, FLAT), "node": node_items(TOPOLOGY, FLAT)}
    facts = [halved(scores)]
    (found,) = cross_overlaps(facts, facts, [items["edge"]])
    fact = compare_fact(np.stack([scores, scores]), N_EDGES, items)
    assert found.own[0] == pytest.approx(fact.k_ss[0], abs=1e-6)


def test_circuits_without_an_edge_share_nothing():
    empty = FactHalves(first=(np.array([], dtype=int),), second=(np.array([], dtype=int),))
    full = FactHalves(first=(np.array([0, 1]),), second=(np.array([1, 2]),))
    both = [empty, full]
    (found,) = cross_overlaps(both, both, [edge_items(TOPOLOGY, FLAT)])
    assert found.observed[0].tolist() == [0, 0]
    assert found.observed[1, 1] == pytest.approx(0.5)


@pytest.mark.parametrize("n_prompts", [4, 5, 6, 8])
def test_quarters_share_no_prompt(n_prompts):
    halves = halves_of(n_prompts)
    for half, (first, second) in zip(halves, quarters_of(n_prompts), strict=True):
        for whole, one, other in zip(half, first, second, strict=True):
            assert sorted([*one, *other]) == sorted(whole)
            assert abs(len(one) - len(other)) <= 1
            assert len(one) >= 1


def test_pairs_that_meet_their_own_templates_are_told_apart():
    a, b = tuple("abcd"), tuple("dcba")
    templates = [
        [(t,) for t in names] for names in (a, a, b, "efgh", "efab", "abcdefgh", "aabc", "efag")
    ]
    found = meet_own_templates(templates)
    expected = np.zeros_like(found)
    for i, x in enumerate(templates):
        for j, y in enumerate(templates):
            splits = split_halves(len(x)), split_halves(len(y))
            for s in range(max(map(len, splits))):
                sides = [
                    [{t for p, row in enumerate(rows) if split[s % len(split)][p] == side
                      for t in row} for side in (False, True)]
                    for rows, split in zip((x, y), splits, strict=True)
                ]  # fmt: skip
                expected[i, j] |= bool(sides[0][0] & sides[1][1] or sides[0][1] & sides[1][0])
    np.testing.assert_array_equal(found, expected)
    assert not found[0, 1]
    assert not found[0, 3]
    assert found[0, 2]  # in the other order they do
    assert found[0, 4]
    assert found[6, 6]


def make_pairs(rng, n_facts=14):
    k = rng.uniform(0.1, 0.6, (n_facts, n_facts))
    k = (k + k.T) / 2
    np.fill_diagonal(k, rng.uniform(0.3, 0.9, n_facts))
    chance = np.full_like(k, 0.05)
    overlaps = PairOverlaps(observed=k * 0.95 + 0.05, chance=chance, corrected=k)
    matched = PairOverlaps(observed=k, chance=chance * 2, corrected=k - 0.05)
    is_pair = ~np.eye(n_facts, dtype=bool)
    is_pair[0, 5] = is_pair[5, 0] = False
    entities = [f"e{i // 2}" if i < 4 else f"e{i}" for i in range(n_facts)]
    return FactPairs(
        overlaps=overlaps, matched=matched, entities=np.array(entities), is_pair=is_pair
    )


def slow_share(pairs, chosen, without=None, table="overlaps"):
    k, top, bottom = getattr(pairs, table).corrected, 0.0, 0.0
    for i, j in combinations(range(len(k)), 2):
        if not (chosen[i, j] and pairs.is_pair[i, j]):
            continue
        if without in (pairs.entities[i], pairs.entities[j]):
            continue
        top += k[i, j]
        bottom += sqrt(k[i, i] * k[j, j])
    return top / bottom


def slow_jackknife(values, estimate):
    g = len(values)
    error = sqrt((g - 1) / g * sum((v - np.mean(values)) ** 2 for v in values))
    half = scipy.stats.t.ppf(0.975, g - 1) * error
    return estimate - half, estimate + half


def test_what_a_group_shares_equals_a_loop_over_pairs():
    rng = np.random.default_rng(2)
    pairs = make_pairs(rng)
    chosen = rng.random((14, 14)) < 0.6
    chosen |= chosen.T
    found = pool_pairs(pairs, chosen)
    used = [(i, j) for i, j in combinations(range(14), 2) if (chosen & pairs.is_pair)[i, j]]
    assert found.n_pairs == len(used)
    assert found.n_facts == len({i for pair in used for i in pair})
    share = slow_share(pairs, chosen)
    assert found.shared.estimate == pytest.approx(share)
    names = sorted({pairs.entities[i] for pair in used for i in pair})
    left_out = [slow_share(pairs, chosen, without=name) for name in names]
    low, high = slow_jackknife(left_out, share)
    assert (found.shared.low, found.shared.high) == (pytest.approx(low), pytest.approx(high))
    o, ceiling = np.mean([0.95 * pairs.overlaps.corrected[p] + 0.05 for p in used]), np.mean(
        [sqrt(pairs.overlaps.own[i] * pairs.overlaps.own[j]) * 0.95 + 0.05 for i, j in used]
    )  # fmt: skip
    assert found.jaccard == pytest.approx(o / (2 - o))
    assert found.ceiling == pytest.approx(ceiling / (2 - ceiling))
    assert found.chance == pytest.approx(0.05 / 1.95)
    assert found.matched_chance == pytest.approx(0.1 / 1.9)
    assert found.matched_shared == pytest.approx(slow_share(pairs, chosen, table="matched"))


def test_no_pairs_and_low_ceilings_have_no_number():
    pairs = make_pairs(np.random.default_rng(3))
    nothing = pool_pairs(pairs, np.zeros((14, 14), dtype=bool))
    assert nothing.n_pairs == 0
    assert np.isnan(nothing.shared.estimate)
    low = pairs.overlaps.corrected.copy()
    np.fill_diagonal(low, 0.15)
    overlaps = PairOverlaps(observed=low, chance=pairs.overlaps.chance, corrected=low)
    poor = FactPairs(
        overlaps=overlaps, matched=None, entities=pairs.entities, is_pair=pairs.is_pair
    )
    found = pool_pairs(poor, pairs.is_pair)
    assert not found.has_ceiling
    assert np.isnan(found.shared.estimate)
    assert found.jaccard > 0
    labels = np.array(["x", "y"] * 7)
    assert "ceiling too low" in contrast(poor, poor.is_pair, labels, n_prompts=8).reason


def test_difference_and_its_test_equal_loops():
    rng = np.random.default_rng(4)
    pairs = make_pairs(rng)
    labels = np.array(["x", "y", "y", "x", *"xxxxxyyyyy"])
    found = contrast(pairs, pairs.is_pair, labels, n_prompts=8, n_permutations=200)
    apart = pairs.entities[:, None] != pairs.entities

    def difference(names, without=None):
        same = names[:, None] == names
        return slow_share(pairs, apart & same, without) - slow_share(pairs, apart & ~same, without)

    value = difference(labels)
    assert found.difference.estimate == pytest.approx(value)
    assert found.difference.n_entities == 12
    left_out = [difference(labels, name) for name in sorted(set(pairs.entities))]
    low, high = slow_jackknife(left_out, value)
    assert found.difference.low == pytest.approx(low)
    assert found.difference.high == pytest.approx(high)
    donors = exchanged(pairs.entities, None, 200, seed=0)
    reached = [difference(labels[turn]) >= value - 1e-12 for turn in donors]
    assert found.p == pytest.approx((1 + sum(reached)) / 201)
    few = contrast(pairs, pairs.is_pair, labels, n_prompts=3)
    assert (few.word, few.reason) == ("undetermined", "3 discovery prompts; at least 4 are needed")


def test_an_entity_in_all_pairs_of_a_group_has_no_interval():
    pairs = make_pairs(np.random.default_rng(5))
    star = np.zeros((14, 14), dtype=bool)
    star[4] = star[:, 4] = True
    found = jackknife_pairs(
        pairs.overlaps.corrected, np.ones((14, 14)), [star & pairs.is_pair], pairs.entities
    )
    assert np.isfinite(found.estimate)
    assert np.isnan(found.low)


def test_entities_exchange_whole_sets_of_labels():
    entities = np.array(["a", "a", "b", "b", "c", "d", "d", "e"])
    labels = np.array(["x", "y", "x", "z", "x", "y", "y", "z"])
    sets = {tuple(sorted(labels[entities == e])) for e in "abcde"}
    seen = set()
    for turn in exchanged(entities, None, 200, seed=1):
        assert sorted(turn) == list(range(8))
        given = labels[turn]
        assert {tuple(sorted(given[entities == e])) for e in "abcde"} == sets
        seen.add(tuple(given))
    assert len(seen) > 20
    kinds = list("pqpqppqp")
    for turn in exchanged(entities, kinds, 50, seed=2):
        assert [kinds[i] for i in turn] == kinds  # each from a fact of its kind
        assert all(len({entities[i] for i in turn[entities == e]}) == 1 for e in "abcde")


def test_facts_that_cannot_be_placed_stay_out_of_the_tree():
    pairs = make_pairs(np.random.default_rng(10))
    low = pairs.overlaps.corrected.copy()
    low[3, 3] = 0.1
    overlaps = PairOverlaps(observed=low, chance=pairs.overlaps.chance, corrected=low)
    pairs = FactPairs(
        overlaps=overlaps, matched=None, entities=pairs.entities, is_pair=pairs.is_pair
    )
    assert clusterable(pairs).tolist() == [i for i in range(14) if i not in (0, 3)]


def test_own_facts_equal_loops():
    rng = np.random.default_rng(11)
    x = make_facts(rng, [4] * 12, noise=0.3)
    y = [one * (1 + 0.2 * rng.standard_normal(one.shape)).astype(np.float32) for one in x]
    relations = np.array(list("pppppqqqqqqr"))
    entities = np.array([f"e{i}" for i in range(12)])
    meets = np.zeros((12, 12), dtype=bool)
    found = own_facts(
        [halved(s) for s in x], [halved(s) for s in y], edge_items(TOPOLOGY, FLAT), relations,
        entities, meets, n_permutations=50,
    )  # fmt: skip
    own_x, own_y = ([slow_overlap(s, s, "edge", 3)[2] for s in side] for side in (x, y))
    k = np.array([[slow_overlap(a, b, "edge", 3)[2] for b in y] for a in x])
    c = np.sqrt(np.outer(own_x, own_y))

    def ratio(pairs):
        return sum(k[p] for p in pairs) / sum(c[p] for p in pairs)

    own = [(i, i) for i in range(11)]
    other = [
        (i, j) for i in range(11) for j in range(11) if i != j and relations[i] == relations[j]
    ]
    assert found.n_facts == 11
    assert found.own == pytest.approx(ratio(own))
    assert found.other == pytest.approx(ratio(other))
    left_out = [
        ratio([p for p in own if e not in p]) - ratio([p for p in other if e not in p])
        for e in range(11)
    ]
    low, high = slow_jackknife(left_out, ratio(own) - ratio(other))
    assert (found.difference.low, found.difference.high) == (
        pytest.approx(low), pytest.approx(high)
    )  # fmt: skip
    turns = exchanged(np.arange(12), relations.tolist(), 50, seed=0)
    reached = sum(ratio([(i, t[i]) for i in range(11)]) >= ratio(own) - 1e-12 for t in turns)
    assert found.p == pytest.approx((1 + reached) / 51)


@pytest.mark.parametrize("n_prompts", [2, 5, 8, 12])
def test_without_swaps_the_observed_overlaps_are_the_same(n_prompts):
    rng = np.random.default_rng(12)
    scores = np.stack(make_facts(rng, [n_prompts, n_prompts]))
    items = {"edge": edge_items(TOPOLOGY, FLAT), "node": node_items(TOPOLOGY, FLAT)}
    swapped = compare_fact(scores, N_EDGES, items)
    alone = compare_fact(scores, N_EDGES, items, can_swap=False)
    scaled = compare_fact(scores * np.array([1, 1e-4])[:, None, None].astype(np.float32), N_EDGES,
                          items, can_swap=False)  # fmt: skip
    for name in ("k_ss", "k_tt", "k_st"):
        assert getattr(alone, name).shape == (1,)
        assert getattr(alone, name)[0] == getattr(swapped, name)[0]
        assert getattr(scaled, name)[0] == getattr(swapped, name)[0]  # units do not matter
    assert (alone.gained, alone.lost, alone.kept) == (swapped.gained, swapped.lost, swapped.kept)
