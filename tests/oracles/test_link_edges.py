"""Edges that tell consolidated from transient facts: exact tests, loops, and known truth."""

import numpy as np
import pytest
from scipy import stats

from kcircuits.analysis.link.distinguishing_edges import distinguish, kinds_of
from kcircuits.analysis.overlap.swap_test import ALPHA


def simulated(seed, *, n_entities=60, n_runs=1, n_items=300, planted=0, effect=3.0):
    """Circuits in which entities have habits, items come in groups, and cells differ."""
    rng = np.random.default_rng(seed)
    base = rng.normal(-0.5, 1.2, n_items)
    habits = 1.5 * rng.standard_normal((n_entities, n_items))
    grouped = rng.standard_normal((n_entities, 5)) @ rng.standard_normal((5, n_items))
    lasting = 1.5 * rng.standard_normal(n_entities)  # shared by runs, as circuits are
    rows, stays, entities, cells = [], [], [], []
    for _ in range(n_runs):
        for i in np.flatnonzero(rng.random(n_entities) < 0.7):
            is_kept = rng.random() < 1 / (1 + np.exp(-(lasting[i] + i % 4 - 1.5)))
            odds = base + habits[i] + 0.6 * grouped[i] + 0.8 * (i % 4 - 1.5)
            odds[:planted] += effect * (1 if is_kept else -1)
            rows.append(rng.random(n_items) < 1 / (1 + np.exp(-odds)))
            stays.append(is_kept)
            entities.append(f"e{i}")
            cells.append(f"c{i % 4}")
    return np.array(rows), np.array(stays), entities, cells


def test_kinds_by_hand():
    known = np.array(
        [
            [0, 0, 1, 1, 1, 1],  # consolidated
            [0, 1, 1, 0, 0, 0],  # transient
            [0, 1, 0, 1, 1, 1],  # lost, then learned for good: neither
            [0, 1, 0, 1, 0, 1],  # lost twice, back at the end alone: transient
            [1, 1, 1, 1, 1, 1],  # known from the start: neither
            [1, 0, 0, 0, 0, 0],  # likewise
            [0, 0, 0, 0, 0, 1],  # too late: neither
            [0, 0, 0, 0, 0, 0],
        ],
        dtype=bool,
    )
    kinds = kinds_of(known, 2)
    assert np.flatnonzero(kinds.is_consolidated).tolist() == [0]
    assert np.flatnonzero(kinds.is_transient).tolist() == [1, 3]
    assert kinds.acquisition_idx[:4].tolist() == [2, 1, 1, 1]
    assert np.flatnonzero(kinds_of(known, 5).is_consolidated).tolist() == []


def test_one_cell_of_single_facts_gives_fisher_s_distribution():
    """Two-sided by |difference from expectation| under the hypergeometric."""
    rng = np.random.default_rng(0)
    presence, stays = rng.random((16, 12)) < 0.5, np.arange(16) < 7
    found = distinguish(
        presence, stays, [f"e{i}" for i in range(16)], ["c"] * 16,
        n_permutations=20_000, min_present=1,
    )  # fmt: skip
    assert found.n_distinct == 11_440  # 16 over 7
    for place, item in enumerate(found.items):
        n = presence[:, item].sum()
        law = stats.hypergeom(16, 7, n)
        observed = presence[stays, item].sum()
        away = np.abs(np.arange(n + 1) - law.mean()) >= abs(observed - law.mean()) - 1e-9
        exact = law.pmf(np.arange(n + 1))[away].sum()
        assert found.p[place] == pytest.approx(exact, abs=4 * np.sqrt(exact / 20_000) + 1e-4)
        shares = presence[stays, item].mean(), presence[~stays, item].mean()
        assert found.share_consolidated[place] == pytest.approx(shares[0])
        assert found.share_transient[place] == pytest.approx(shares[1])
        assert found.difference[place] == pytest.approx(shares[0] - shares[1], abs=1e-5)
    np.testing.assert_allclose(found.q, stats.false_discovery_control(found.p))


def test_the_difference_is_that_of_mantel_and_haenszel():
    presence, stays, entities, cells = simulated(1)
    found = distinguish(presence, stays, entities, cells, n_permutations=10)
    for place, item in enumerate(found.items[:20]):
        top = bottom = 0.0
        for cell in set(cells):
            own = np.array([name == cell for name in cells])
            n1, n0 = (own & stays).sum(), (own & ~stays).sum()
            if n1 and n0:
                shares = presence[own & stays, item].mean(), presence[own & ~stays, item].mean()
                top += n1 * n0 / (n1 + n0) * (shares[0] - shares[1])
                bottom += n1 * n0 / (n1 + n0)
        assert found.difference[place] == pytest.approx(top / bottom, abs=1e-5)


def test_labels_stay_in_their_cell():
    """All 6 x 6 labellings of two uneven cells enumerated."""
    rng = np.random.default_rng(4)
    cell = np.repeat([0, 1], 6)
    stays = np.array([1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0], dtype=bool)
    presence = rng.random((12, 6)) < 0.5
    found = distinguish(
        presence, stays, [f"e{i}" for i in range(12)], [f"c{i}" for i in cell],
        n_permutations=20_000, min_present=1,
    )  # fmt: skip
    centre = np.where(cell == 0, 1 / 6, 5 / 6)
    x = presence[:, found.items].astype(float)
    ways = [
        (np.arange(12) == first) | ((cell == 1) & (np.arange(12) != last))
        for first in range(6)
        for last in range(6, 12)
    ]
    sums = np.abs([(way - centre) @ x for way in ways])
    exact = (sums >= np.abs((stays - centre) @ x) - 1e-9).mean(0)
    np.testing.assert_allclose(found.p, exact, atol=0.015)
    assert found.n_distinct == 36


def test_facts_of_an_entity_move_together():
    """Eight entities with five like facts each: 70 labellings, not 40 over 20."""
    presence = np.repeat(np.arange(8) < 4, 5)[:, None]
    stays = np.repeat(np.arange(8) < 4, 5)
    entities = [f"e{i // 5}" for i in range(40)]
    found = distinguish(presence, stays, entities, ["c"] * 40, n_permutations=4000, min_present=1)
    assert found.n_distinct == 70
    assert found.smallest_p == pytest.approx(1 / 70)
    assert found.p[0] == pytest.approx(2 / 70, abs=0.01)


def test_what_is_tested_does_not_depend_on_the_labels():
    presence, stays, entities, cells = simulated(2)
    rng = np.random.default_rng(0)
    one = distinguish(presence, stays, entities, cells, n_permutations=10)
    two = distinguish(presence, rng.permutation(stays), entities, cells, n_permutations=10)
    np.testing.assert_array_equal(one.items, two.items)
    counts = presence.sum(0)
    expected = np.flatnonzero((counts >= 5) & (len(presence) - counts >= 5))
    np.testing.assert_array_equal(one.items, expected)


def test_many_items_get_enough_draws_for_one_alone():
    presence, stays, entities, cells = simulated(3)
    found = distinguish(presence, stays, entities, cells, n_permutations=10)
    assert found.smallest_p * len(found.items) <= ALPHA


@pytest.mark.parametrize("n_runs", [1, 3])
def test_the_false_discovery_rate_is_held_and_planted_edges_are_found(n_runs, record_property):
    any_found, wrong, power = [], [], []
    for seed in range(30):
        null = distinguish(*simulated(seed, n_runs=n_runs), n_permutations=2000, seed=seed)
        any_found.append((null.q <= ALPHA).any())
        mixed = distinguish(
            *simulated(seed, n_runs=n_runs, planted=20), n_permutations=2000, seed=seed
        )
        found = mixed.items[mixed.q <= ALPHA]
        wrong.append((found >= 20).mean() if len(found) else 0)
        power.append((found < 20).sum() / (mixed.items < 20).sum())
    record_property("false_discovery_rate", float(np.mean(wrong)))
    record_property("power", float(np.mean(power)))
    assert np.mean(any_found) <= 0.1
    assert np.mean(wrong) <= 0.08
    assert np.mean(power) >= 0.7


def test_nothing_to_compare_is_empty():
    found = distinguish(np.zeros((0, 0), dtype=bool), np.zeros(0, dtype=bool), [], [],
                        n_permutations=9)  # fmt: skip
    assert (len(found.items), found.n_entities, found.n_distinct) == (0, 0, 1)
