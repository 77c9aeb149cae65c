"""Bootstrap intervals against all possible draws, loops, and simulated coverage."""

from itertools import product

import numpy as np
import pytest

from kcircuits.core.bootstrap import (
    bootstrap_faithfulness,
    bootstrap_mean,
    bootstrap_ratio,
    draw_clusters,
    draw_counts,
    percentiles,
)
from kcircuits.errors import UsageError

# Both ends lie where the exact distribution says, within 4 standard errors of 20,000 draws.
N_DRAWS = 20_000
TOLERANCE = 4 * np.sqrt(0.025 * 0.975 / N_DRAWS)


def assert_middle_of(exact: np.ndarray, low: float, high: float) -> None:
    """``low`` and ``high`` cut 2.5% off either end of the exact distribution."""
    near = 1e-9
    assert np.mean(exact < low - near) <= 0.025 + TOLERANCE
    assert np.mean(exact <= low + near) >= 0.025 - TOLERANCE
    assert np.mean(exact > high + near) <= 0.025 + TOLERANCE
    assert np.mean(exact >= high - near) >= 0.025 - TOLERANCE


def prompts(seed: int, n_facts: int, n_prompts: int) -> tuple[np.ndarray, ...]:
    """circuit, clean, empty, fact_idx; F is .8 in truth."""
    rng = np.random.default_rng(seed)
    shape = (n_facts, n_prompts)
    empty = rng.standard_normal(shape)
    gap = 3 + rng.standard_normal(shape)
    circuit = empty + 0.8 * gap + 0.5 * rng.standard_normal(shape)
    fact_idx = np.repeat(np.arange(n_facts), n_prompts)
    return circuit.ravel(), (empty + gap).ravel(), empty.ravel(), fact_idx


def test_intervals_over_prompts_equal_all_possible_draws() -> None:
    circuit, clean, empty, fact_idx = prompts(0, 3, 4)
    found = bootstrap_faithfulness(circuit, clean, empty, fact_idx, 3, seed=1, n_draws=N_DRAWS)
    for fact in range(3):
        rows = np.flatnonzero(fact_idx == fact)
        exact = [
            np.mean([circuit[i] - empty[i] for i in drawn])
            / np.mean([clean[i] - empty[i] for i in drawn])
            for drawn in product(rows, repeat=4)
        ]
        assert_middle_of(np.array(exact), found.low[fact], found.high[fact])
        whole = (circuit - empty)[rows].mean() / (clean - empty)[rows].mean()
        assert found.estimate[fact] == pytest.approx(whole)
    assert found.n_units.tolist() == [4, 4, 4]


def test_intervals_over_facts_draw_whole_subjects() -> None:
    rng = np.random.default_rng(2)
    subjects = np.array(["Ada", "Bo", "Ada", "Cy", "Di", "Di", "Di", "Bo", "Cy"])
    top, bottom = rng.uniform(0, 3, 9), rng.uniform(1, 3, 9)
    ratio = bootstrap_ratio(top, bottom, subjects, seed=1, n_draws=N_DRAWS)
    mean = bootstrap_mean(top, subjects, seed=1, n_draws=N_DRAWS)
    members = [np.flatnonzero(subjects == name) for name in ("Ada", "Bo", "Cy", "Di")]
    drawn = [np.concatenate(rows) for rows in product(members, repeat=4)]
    assert_middle_of(
        np.array([top[rows].sum() / bottom[rows].sum() for rows in drawn]), ratio.low, ratio.high
    )
    assert_middle_of(np.array([top[rows].mean() for rows in drawn]), mean.low, mean.high)
    assert ratio.estimate == pytest.approx(top.sum() / bottom.sum())
    assert mean.estimate == pytest.approx(top.mean())
    assert ratio.n_units == mean.n_units == 4


def test_intervals_equal_a_loop_over_the_same_draws() -> None:
    """Several sizes at once, facts with other numbers of prompts, a gated one, one prompt."""
    rng = np.random.default_rng(3)
    fact_idx = np.array([0, 1, 0, 2, 1, 0, 3, 2, 0, 2])
    clean, empty = rng.uniform(2, 4, 10), rng.uniform(-1, 0, 10)
    circuit = rng.uniform(-1, 4, (10, 3))
    gated = np.array([False, True, False, False])
    found = bootstrap_faithfulness(
        circuit, clean, empty, fact_idx, 4, seed=9, is_gated=gated, n_draws=101, confidence=0.8
    )
    for fact, n_prompts in ((0, 4), (2, 3)):
        rows = np.flatnonzero(fact_idx == fact)
        for size in range(3):
            draws = []
            for counts in draw_counts(n_prompts, seed=9, n_draws=101):
                taken = [row for row, n in zip(rows, counts, strict=True) for _ in range(n)]
                gained = sum(circuit[row, size] - empty[row] for row in taken)
                draws.append(gained / sum(clean[row] - empty[row] for row in taken))
            draws = sorted(draws)  # the middle 80% of 101: from the 11th to the 91st
            assert found.low[fact, size] == pytest.approx(draws[10])
            assert found.high[fact, size] == pytest.approx(draws[90])
    assert np.isnan(found.estimate[1]).all()
    assert np.isnan(found.low[1]).all()
    assert np.isfinite(found.estimate[3]).all()
    assert np.isnan(found.low[3]).all()  # one prompt says nothing about others
    assert np.isnan(found.high[3]).all()
    assert found.n_units.tolist() == [4, 2, 3, 1]


def test_coverage_over_prompts() -> None:
    """1,000 facts of 12 prompts: 95% asked for, .90 to .93 expected, .01 standard error."""
    circuit, clean, empty, fact_idx = prompts(4, 1000, 12)
    found = bootstrap_faithfulness(circuit, clean, empty, fact_idx, 1000, seed=0, n_draws=500)
    covered = np.mean((found.low <= 0.8) & (found.high >= 0.8))
    assert 0.88 < covered < 0.95


def test_coverage_over_subjects_and_what_it_is_without() -> None:
    """400 sets of 20 subjects x 3 facts that share noise: .93 expected, .013 standard error."""
    rng = np.random.default_rng(5)
    subjects = np.repeat(np.arange(20), 3)
    covered = {"subject": 0, "fact": 0}
    for _ in range(400):
        bottom = 3 + rng.standard_normal(60)
        noise = 0.5 * rng.standard_normal(20)[subjects] + 0.3 * rng.standard_normal(60)
        top = 0.8 * bottom + noise
        for name, units in (("subject", subjects), ("fact", np.arange(60))):
            found = bootstrap_ratio(top, bottom, units, seed=0, n_draws=400)
            covered[name] += bool(found.low <= 0.8 <= found.high)
    assert 0.88 < covered["subject"] / 400 < 0.98
    assert covered["fact"] / 400 < 0.85  # too short: facts of a subject are not independent


def test_units_are_drawn_with_replacement_as_often_as_there_are() -> None:
    counts = draw_counts(5, seed=0, n_draws=20_000)
    assert (counts.sum(1) == 5).all()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.03)  # 4 standard errors
    np.testing.assert_allclose(counts.var(0), 0.8, atol=0.05)
    by_fact = draw_clusters(np.array(["b", "a", "b"]), seed=3, n_draws=50)
    np.testing.assert_array_equal(by_fact[:, 0], by_fact[:, 2])
    np.testing.assert_array_equal(by_fact[:, 0] + by_fact[:, 1], 2)


def test_other_facts_and_order_change_no_interval() -> None:
    circuit, clean, empty, fact_idx = prompts(6, 5, 6)
    whole = bootstrap_faithfulness(circuit, clean, empty, fact_idx, 5, seed=2)
    rows = np.flatnonzero(fact_idx == 3)
    alone = bootstrap_faithfulness(
        circuit[rows], clean[rows], empty[rows], np.zeros(6, dtype=int), 1, seed=2
    )
    assert alone.low[0] == whole.low[3]
    assert alone.high[0] == whole.high[3]
    subjects = np.array(["x", "y", "z", "x", "y"])
    values, turned = np.arange(5.0), np.array([3, 1, 0, 4, 2])
    first = bootstrap_mean(values, subjects, seed=2)
    second = bootstrap_mean(values[turned], subjects[turned], seed=2)
    assert (first.low, first.high) == (pytest.approx(second.low), pytest.approx(second.high))
    other = bootstrap_faithfulness(circuit, clean, empty, fact_idx, 5, seed=3)
    assert (other.low != whole.low).any()


def test_facts_without_a_number_are_left_out() -> None:
    subjects = np.array(["a", "a", "b", "c"])
    values = np.array([1.0, np.nan, 2.0, 4.0])
    found = bootstrap_mean(values, subjects, seed=0)
    clean = bootstrap_mean(values[[0, 2, 3]], subjects[[0, 2, 3]], seed=0)
    assert found.estimate == pytest.approx(7 / 3)
    assert (found.low, found.high) == (clean.low, clean.high)
    one = bootstrap_mean(values[:2], subjects[:2], seed=0)
    assert (one.estimate, one.n_units) == (1.0, 1)
    assert np.isnan(one.low)
    assert np.isnan(one.high)
    none = bootstrap_mean(np.array([np.nan]), np.array(["a"]), seed=0)
    assert np.isnan([none.estimate, none.low, none.high]).all()
    assert none.n_units == 0


def test_a_vanishing_denominator_leaves_the_interval_open() -> None:
    clean, circuit = np.array([-1.0, -1.0, 5.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0])
    empty, fact_idx = np.zeros(4), np.zeros(4, dtype=int)
    found = bootstrap_faithfulness(circuit, clean, empty, fact_idx, 1, seed=0)
    assert (found.low[0], found.high[0]) == (-np.inf, np.inf)
    lower_is_better = bootstrap_faithfulness(
        np.array([1.0, 2.0, 1.5, 0.5]), empty, np.array([4.0, 5.0, 3.0, 4.0]), fact_idx, 1, seed=0
    )
    assert 0 < lower_is_better.low[0] < lower_is_better.estimate[0] < lower_is_better.high[0] < 1


def test_settings_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="n_draws is 0; expected at least 1"):
        draw_counts(3, seed=0, n_draws=0)
    with pytest.raises(UsageError, match="confidence is 95; expected a number between 0 and 1"):
        percentiles(np.zeros(4), 95)
