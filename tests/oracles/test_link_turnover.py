"""Turnover before forgetting, the exchange and the tables against slow twins and enumeration."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from kcircuits.analysis.link.exchange import exchange_of
from kcircuits.analysis.link.risk_rows import TurnoverRanks, rows_at_risk
from kcircuits.analysis.link.same_step import CHANGES, mean_turnover, step_changes
from kcircuits.analysis.link.trajectories import Trajectories, circuit_series
from kcircuits.analysis.link.turnover_forgetting import MIN_EVENTS, forgetting_test
from kcircuits.analysis.overlap.corrected import edge_items, node_items
from kcircuits.analysis.overlap.jackknife import (
    jackknife_difference,
    jackknife_interval,
    student_quantile,
)
from kcircuits.analysis.overlap.turnover import REPLICATED, compare_fact
from kcircuits.core.topology import Topology

TOPOLOGY = Topology(n_layers=3, n_heads=2)


def random_runs(seed, *, n_runs=2, n_entities=24, facts=1, n_epochs=6, n_cells=2, measures=2):
    rng = np.random.default_rng(seed)
    n = n_entities * facts
    runs = []
    for _ in range(n_runs):
        ceiling = rng.uniform(0.3, 0.8, (n, n_epochs - 1))
        runs.append(
            Trajectories(
                k_own=rng.uniform(0.3, 0.8, (n, n_epochs)),
                k_st=ceiling - np.round(rng.normal(0.1, 0.1, ceiling.shape), 2),  # some ties
                ceiling=ceiling,
                is_known=rng.random((n, n_epochs)) < 0.7,
                margin=np.round(rng.normal(size=(n, n_epochs, measures)), 1),
                entities=tuple(f"e{i // facts}" for i in range(n)),
                cells=tuple(f"c{(i // facts) % n_cells}" for i in range(n)),
                relations=tuple(f"r{i % facts}" for i in range(n)),
            )
        )
    return runs


def slow_rows(runs):
    """(run, step, fact, forgotten) of each fact-step at risk."""
    return [
        (r, t, f, not run.is_known[f, t + 2])
        for r, run in enumerate(runs)
        for t in range(run.is_known.shape[1] - 2)
        for f in range(len(run.cells))
        if run.is_known[f, t] and run.is_known[f, t + 1]
    ]


def slow_auroc(runs, rows, group_of):
    """Pairs within groups, each group weighing n1 n0 / n."""
    top = bottom = 0.0
    groups = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row)
    for members in groups.values():
        lost = [runs[r].turnover[f, t] for r, t, f, is_lost in members if is_lost]
        kept = [runs[r].turnover[f, t] for r, t, f, is_lost in members if not is_lost]
        if lost and kept:
            wins = sum((a > b) + 0.5 * (a == b) for a in lost for b in kept)
            top += wins / len(members)
            bottom += len(lost) * len(kept) / len(members)
    return top / bottom


def slow_midranks(values):
    return [sum((w < v) + 0.5 * (w == v) for w in values) / len(values) for v in values]


def slow_design(runs, rows, taken=None):
    """Ranks within run, step and cell; forgotten; and the columns held constant."""
    taken = [np.arange(len(run.cells)) for run in runs] if taken is None else taken
    groups = [(r, t, runs[r].cells[f]) for r, t, f, _ in rows]
    ranks, margins = np.zeros(len(rows)), np.zeros((len(rows), runs[0].margin.shape[2]))
    for group in set(groups):
        at = [i for i, one in enumerate(groups) if one == group]
        ranks[at] = slow_midranks(
            [runs[rows[i][0]].turnover[taken[rows[i][0]][rows[i][2]], rows[i][1]] for i in at]
        )
    for step in {row[:2] for row in rows}:
        at = [i for i, row in enumerate(rows) if row[:2] == step]
        for m in range(margins.shape[1]):
            margins[at, m] = slow_midranks(
                [runs[rows[i][0]].margin[rows[i][2], rows[i][1] + 1, m] for i in at]
            )
    names = sorted(set(groups))
    held = np.array([[float(group == name) for name in names] for group in groups])
    return ranks, np.array([float(row[3]) for row in rows]), np.hstack([held, margins])


def slow_z(runs, rows, taken=None):
    ranks, lost, held = slow_design(runs, rows, taken)
    entities = [runs[r].entities[f] for r, _, f, _ in rows]

    def rest(y):
        return y - held @ np.linalg.lstsq(held, y, rcond=None)[0]

    products = rest(lost) * rest(ranks)
    sums = [
        sum(p for p, own in zip(products, entities, strict=True) if own == name)
        for name in set(entities)
    ]
    return sum(sums) / np.sqrt(sum(s * s for s in sums))


@pytest.mark.parametrize("facts", [1, 2])
def test_counts_and_unadjusted_effects_equal_loops(facts):
    runs = random_runs(0, facts=facts)
    rows, found = slow_rows(runs), forgetting_test(runs, n_permutations=9)
    lost = [row for row in rows if row[3]]
    assert (found.n_at_risk, found.n_forgotten) == (len(rows), len(lost))
    assert found.n_entities == len({runs[r].entities[f] for r, _, f, _ in rows})
    assert found.n_forgotten_entities == len({runs[r].entities[f] for r, _, f, _ in lost})
    assert found.auroc_raw.estimate == pytest.approx(slow_auroc(runs, rows, lambda row: row[:2]))
    taus = []
    for kind in (True, False):
        own = [(r, t, f) for r, t, f, is_lost in rows if is_lost == kind]
        k_st = sum(runs[r].k_st[f, t] for r, t, f in own)
        taus.append(1 - k_st / sum(runs[r].ceiling[f, t] for r, t, f in own))
    assert [found.tau_forgotten, found.tau_retained] == pytest.approx(taus)
    assert found.tau_difference.estimate == pytest.approx(taus[0] - taus[1])
    ends = [[runs[r].k_own[f, t + end] for r, t, f, _ in rows] for end in (0, 1)]
    assert found.k_own == pytest.approx(min(map(np.mean, ends)))


def test_without_margins_the_adjusted_auroc_counts_pairs_within_cells():
    runs = random_runs(1, measures=0)
    rows = slow_rows(runs)
    by_cell = slow_auroc(runs, rows, lambda row: (*row[:2], runs[row[0]].cells[row[2]]))
    assert forgetting_test(runs, n_permutations=9).auroc.estimate == pytest.approx(by_cell)
    assert by_cell != pytest.approx(slow_auroc(runs, rows, lambda row: row[:2]))


def test_the_adjusted_auroc_is_a_coefficient_of_least_squares():
    runs = random_runs(2)
    ranks, lost, held = slow_design(runs, slow_rows(runs))
    whole = np.linalg.lstsq(np.column_stack([lost, held]), ranks, rcond=None)[0]
    found = forgetting_test(runs, n_permutations=9)
    assert found.auroc.estimate == pytest.approx(0.5 + whole[0])
    assert found.z == pytest.approx(slow_z(runs, slow_rows(runs)))


def test_a_margin_that_says_the_same_twice_counts_once():
    runs = random_runs(3, measures=1)
    twice = [replace(run, margin=np.repeat(run.margin, 2, axis=2)) for run in runs]
    one, two = (forgetting_test(each, n_permutations=50) for each in (runs, twice))
    assert two.auroc.estimate == pytest.approx(one.auroc.estimate)
    assert two.p == one.p


def test_the_interval_leaves_out_each_entity_in_turn():
    runs = random_runs(4)
    rows = slow_rows(runs)
    ranks, lost, held = slow_design(runs, rows)
    entities = [runs[r].entities[f] for r, _, f, _ in rows]

    def coefficient(kept):
        columns = np.column_stack([lost, held])[kept]
        return np.linalg.lstsq(columns, ranks[kept], rcond=None)[0][0]

    left_out = [coefficient([own != name for own in entities]) for name in sorted(set(entities))]
    n = len(left_out)
    error = np.sqrt((n - 1) / n * sum((b - np.mean(left_out)) ** 2 for b in left_out))
    found = forgetting_test(runs, n_permutations=9).auroc
    assert found.standard_error == pytest.approx(error)
    assert found.high - found.estimate == pytest.approx(student_quantile(0.975, n - 1) * error)


def test_the_difference_of_ratios_leaves_out_each_entity_in_turn():
    rng = np.random.default_rng(5)
    top, bottom = rng.uniform(0, 1, 40), rng.uniform(1, 2, 40)
    entities, first = np.repeat(np.arange(20), 2), rng.random(40) < 0.4

    def difference(kept):
        return sum(
            sign * (1 - top[kept & group].sum() / bottom[kept & group].sum())
            for sign, group in ((1, first), (-1, ~first))
        )

    left_out = np.array([difference(entities != i) for i in range(20)])
    found = jackknife_difference(top, bottom, entities, is_first=first)
    expected = jackknife_interval(difference(entities >= 0), left_out)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert np.isnan(jackknife_difference(top, bottom, entities, is_first=first & False).estimate)


def test_an_exchange_moves_whole_entities_within_cells_and_in_all_runs_at_once():
    runs = random_runs(6, n_runs=3, facts=2)
    order = np.random.default_rng(0).permutation(48)
    shuffled = runs[1].only(np.ones(48, dtype=bool))
    runs[1] = replace(
        shuffled,
        entities=tuple(shuffled.entities[i] for i in order),
        cells=tuple(shuffled.cells[i] for i in order),
        relations=tuple(shuffled.relations[i] for i in order),
    )
    taken = exchange_of(runs).draw(20, np.random.default_rng(1))
    for draw in range(20):
        moved = {}
        for run, whose in zip(runs, taken, strict=True):
            assert sorted(whose[draw]) == list(range(48))
            for fact, other in enumerate(whose[draw]):
                assert run.cells[fact] == run.cells[other]
                assert run.relations[fact] == run.relations[other]
                assert (
                    moved.setdefault(run.entities[fact], run.entities[other])
                    == (run.entities[other])
                )
    assert (taken[0] != np.arange(48)).any()


def test_entities_of_other_runs_or_other_numbers_of_facts_stay_apart():
    full = random_runs(7, n_runs=2, n_entities=8, n_cells=1)
    part = full[1].only(np.arange(8) < 4)
    taken = exchange_of([full[0], part]).draw(50, np.random.default_rng(0))
    assert (taken[0][:, :4] < 4).all()
    assert (taken[0][:, 4:] >= 4).all()
    np.testing.assert_array_equal(taken[0][:, :4], taken[1])
    uneven = random_runs(7, n_runs=1, n_entities=4, facts=2, n_cells=1)[0]
    alone = uneven.only(np.arange(8) < 7)  # the last entity has one fact
    assert (exchange_of([alone]).draw(50, np.random.default_rng(0))[0][:, 6] == 6).all()


def test_distinct_exchanges_are_counted_as_enumeration_finds_them():
    matters = np.array([True, True, False, False, True, False])
    run = replace(random_runs(8, n_runs=1, n_entities=6)[0], cells=tuple("aaaabb"))
    ways = {
        tuple(i if matters[i] else "-" for i in (*first, *second))
        for first in itertools.permutations(range(4))
        for second in itertools.permutations((4, 5))
    }
    assert exchange_of([run]).n_distinct([matters]) == len(ways) == 24


def test_p_is_the_share_of_all_exchanges():
    """All 5! x 4! exchanges enumerated with a slow statistic, against drawn ones."""
    runs = [
        replace(run, cells=tuple("aaaaabbbb"))
        for run in random_runs(13, n_runs=2, n_entities=9, n_epochs=7, measures=1)
    ]
    rows = slow_rows(runs)
    observed = abs(slow_z(runs, rows))
    reaching = []
    rng = np.random.default_rng(0)
    ways = list(
        itertools.product(itertools.permutations(range(5)), itertools.permutations(range(5, 9)))
    )
    for place in rng.choice(len(ways), 400, replace=False):
        taken = np.array([*ways[place][0], *ways[place][1]])
        reaching.append(abs(slow_z(runs, rows, [taken, taken])) >= observed - 1e-9)
    found = forgetting_test(runs, n_permutations=4000)
    assert found.p == pytest.approx(np.mean(reaching), abs=0.07)
    assert 0.05 < found.p < 0.95


def test_ranks_of_exchanged_turnover_equal_those_of_moved_facts():
    runs = random_runs(9)
    taken = exchange_of(runs).draw(3, np.random.default_rng(2))
    ranks = TurnoverRanks.of(runs, in_cells=True).paired(taken)
    rows = slow_rows(runs)
    for draw in range(3):
        expected, _, _ = slow_design(runs, rows, [whose[draw] for whose in taken])
        np.testing.assert_allclose(ranks[draw], expected, atol=1e-6)


def test_the_null_is_centred_although_unknown_facts_turn_over_more():
    """Within a cell and step an exchange gives each fact the same expected rank."""
    runs = random_runs(10, n_runs=3, n_entities=40)
    wild = []
    for run in runs:
        both = run.is_known[:, :-1] & run.is_known[:, 1:]
        cell = np.array([name == "c0" for name in run.cells])
        extra = np.where(~both & cell[:, None], 1.0, 0.0)
        wild.append(replace(run, k_st=run.k_st - extra))
    null = forgetting_test(wild, n_permutations=2000).null
    assert abs(null.mean()) < 4 * null.std() / np.sqrt(2000) + 0.02


def test_equal_turnover_everywhere_is_no_link():
    runs = [replace(run, k_st=run.ceiling) for run in random_runs(11)]
    found = forgetting_test(runs, n_permutations=99)
    assert (found.z, found.p, found.auroc.estimate) == (0, 1, 0.5)
    assert found.tau_difference.estimate == pytest.approx(0)


def test_nothing_at_risk_or_nothing_forgotten_gives_no_numbers():
    run = random_runs(12, n_runs=1)[0]
    for known in (np.zeros_like(run.is_known), np.ones_like(run.is_known)):
        found = forgetting_test([replace(run, is_known=known)], n_permutations=9)
        assert found.n_forgotten == 0
        assert np.isnan([found.p, found.auroc.estimate, found.tau_difference.estimate]).all()
    empty = forgetting_test([run.only(np.zeros(24, dtype=bool))], n_permutations=9)
    assert (empty.n_at_risk, empty.n_entities) == (0, 0)


def test_few_forgotten_or_few_retained_have_no_interval():
    runs = random_runs(15)
    rows = rows_at_risk(runs)
    assert min(rows.is_forgotten.sum(), (1 - rows.is_forgotten).sum()) >= MIN_EVENTS
    assert np.isfinite(forgetting_test(runs, n_permutations=9).auroc.low)
    known = [run.is_known.copy() for run in runs]
    for of_run in known:  # what is known once stays known, but for a few facts
        of_run[6:] = np.maximum.accumulate(of_run[6:], axis=1)
    few = [replace(run, is_known=of_run) for run, of_run in zip(runs, known, strict=True)]
    found = forgetting_test(few, n_permutations=9)
    assert 0 < found.n_forgotten < MIN_EVENTS
    assert np.isfinite(found.auroc.estimate)
    assert np.isnan([found.auroc.low, found.auroc.high]).all()


def test_rows_number_entities_alike_in_all_runs():
    runs = random_runs(14, facts=2)
    rows = rows_at_risk(runs)
    names = [runs[r].entities[f] for r, _, f, _ in slow_rows(runs)]
    assert len(set(zip(names, rows.entity_idx.tolist(), strict=True))) == len(set(names))
    steps = [row[:2] for row in slow_rows(runs)]
    assert len(set(zip(steps, rows.step.tolist(), strict=True))) == len(set(steps))


@pytest.mark.parametrize("n_prompts", [2, 4, 5, 8])
def test_the_series_of_a_fact_equals_its_comparisons(n_prompts):
    rng = np.random.default_rng(n_prompts)
    flat = np.flatnonzero(TOPOLOGY.edge_mask)
    candidates = np.sort(rng.choice(flat, 60, replace=False))
    items = {"edge": edge_items(TOPOLOGY, candidates), "node": node_items(TOPOLOGY, candidates)}
    signal = rng.lognormal(0, 1.5, 60)
    noise = rng.standard_normal((4, n_prompts, 60))
    scores = (signal * (1 + 0.4 * noise)).astype(np.float32)
    scores[3] = scores[2]
    found = circuit_series(scores, 9, items, at=1)
    for step in range(3):
        pair = compare_fact(scores[step : step + 2], 9, items)
        assert found.k_st[step] == pytest.approx(pair.k_st[0])
        assert found.ceiling[step] == pytest.approx(pair.ceiling)
        assert found.k_own[step] == pytest.approx(pair.k_ss[0])
    assert found.ceiling[2] == found.k_st[2]  # identical scores: turnover exactly 0
    same = compare_fact(scores[[1, 1]], 9, items)
    for level, shares in (("edge", same.edges), ("node", same.nodes)):
        np.testing.assert_array_equal(
            found.replicated[level], np.flatnonzero(shares[2] >= REPLICATED)
        )


def test_identical_scores_have_no_turnover_even_where_they_are_noise():
    """Halves that agree less than chance have a ceiling of 0, and yet nothing turned over."""
    flat = np.flatnonzero(TOPOLOGY.edge_mask)
    items = {"edge": edge_items(TOPOLOGY, flat), "node": node_items(TOPOLOGY, flat)}
    signs = np.where(np.arange(2)[:, None] == np.arange(len(flat)) % 2, 1.0, 0.1)
    scores = np.repeat(signs[None], 2, axis=0)  # two prompts with nothing in common
    found = circuit_series(scores, 9, items, at=0)
    assert found.k_own[0] < 0
    assert found.ceiling[0] - found.k_st[0] == 0


def test_changes_of_a_step_by_hand():
    known = np.array([[0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 1, 1]], dtype=bool)
    named = [[CHANGES[i] for i in line] for line in step_changes(known)]
    assert named == [
        ["acquired", "retained", "forgotten", "lapsed", "acquired"],
        ["never known"] * 5,
        ["forgotten", "lapsed", "acquired", "retained", "retained"],
    ]


def test_mean_turnover_pools_runs_and_needs_a_ceiling():
    runs = random_runs(15)
    chosen = [step_changes(run.is_known) == 1 for run in runs]
    found = mean_turnover(runs, chosen)
    own = [
        (run.k_st[f, t], run.ceiling[f, t])
        for run, which in zip(runs, chosen, strict=True)
        for f, t in zip(*np.nonzero(which), strict=True)
    ]
    assert found.n_steps == len(own)
    assert found.turnover.estimate == pytest.approx(
        1 - sum(k for k, _ in own) / sum(c for _, c in own)
    )
    assert found.ceiling == pytest.approx(np.mean([c for _, c in own]))
    low = [replace(run, k_own=np.full_like(run.k_own, 0.1)) for run in runs]
    assert np.isnan(mean_turnover(low, chosen).turnover.estimate)
    nothing = mean_turnover(runs, [which & False for which in chosen])
    assert nothing.n_steps == 0
    assert np.isnan(nothing.ceiling)
