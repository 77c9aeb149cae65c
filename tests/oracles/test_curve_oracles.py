"""Areas, sizes and intervals of faithfulness curves against loops over facts and sizes."""

from typing import Any

import numpy as np
import pytest

from kcircuits.core.bootstrap import draw_clusters
from kcircuits.core.curve import FaithfulnessCurve
from kcircuits.core.ranking import SIZES
from kcircuits.errors import UsageError


def make_curve(faithfulness: Any, *, sizes: Any = SIZES, gaps: Any = None, gated: Any = ()) -> Any:
    """A curve with the given F; the metric of the empty circuit is -1, 0, 1, ..."""
    faithfulness = np.asarray(faithfulness, dtype=float)
    n_facts, n_sizes = faithfulness.shape
    empty = np.arange(n_facts) - 1.0
    gap = np.full(n_facts, 2.0) if gaps is None else np.asarray(gaps, dtype=float)
    counts = np.arange(n_facts * n_sizes).reshape(n_facts, n_sizes)
    return FaithfulnessCurve(
        fact_ids=tuple(f"f{i}" for i in range(n_facts)),
        sizes=np.array(sizes),
        n_selected=counts + 5,
        n_edges=counts,
        n_ties=counts * 0,
        metric=empty[:, None] + faithfulness * gap[:, None],
        clean_metric=empty + gap,
        empty_metric=empty,
        is_gated=np.isin(np.arange(n_facts), gated),
        by="size",
        ablation="corrupt",
        prompts="evaluation",
    )


def random_curve(n_facts: int = 6, seed: int = 0, gated: Any = (2,)) -> Any:
    rng = np.random.default_rng(seed)
    values = rng.uniform(-0.3, 1.4, (n_facts, len(SIZES)))
    return make_curve(values, gaps=rng.uniform(0.6, 8, n_facts), gated=gated), values


def slow_area(values: Any, sizes: Any = SIZES) -> float:
    return sum(
        (sizes[i + 1] - sizes[i]) * (values[i] + values[i + 1]) / 2 for i in range(len(sizes) - 1)
    )


def test_faithful_everywhere_has_area_of_the_sizes() -> None:
    curve = make_curve(np.ones((2, 10)))
    np.testing.assert_allclose(curve.cpr(), 0.999)
    np.testing.assert_allclose(curve.cmd(), 0)
    half = make_curve(np.full((1, 10), 1.5))
    assert half.cpr()[0] == pytest.approx(1.5 * 0.999)
    assert half.cmd()[0] == pytest.approx(0.5 * 0.999)


def test_areas_equal_a_loop_over_sizes() -> None:
    curve, values = random_curve()
    np.testing.assert_allclose(curve.faithfulness[[0, 1, 3]], values[[0, 1, 3]], rtol=1e-12)
    assert np.isnan(curve.faithfulness[2]).all()
    kept = [0, 1, 3, 4, 5]
    for fact in kept:
        assert curve.cpr()[fact] == pytest.approx(slow_area(values[fact]))
        assert curve.cmd()[fact] == pytest.approx(slow_area([abs(1 - f) for f in values[fact]]))
    assert np.isnan(curve.cpr()[2])
    assert np.isnan(curve.cmd()[2])
    gaps = (curve.clean_metric - curve.empty_metric)[kept]
    gains = (curve.metric - curve.empty_metric[:, None])[kept]
    pooled = [sum(gains[:, j]) / sum(gaps) for j in range(len(SIZES))]
    np.testing.assert_allclose(curve.ratio_of_means, pooled)
    np.testing.assert_allclose(curve.mean_of_ratios, [np.mean(values[kept, j]) for j in range(10)])
    areas = curve.set_areas()
    assert areas["cpr_ratio_of_means"] == pytest.approx(slow_area(pooled))
    assert areas["cmd_ratio_of_means"] == pytest.approx(slow_area([abs(1 - f) for f in pooled]))
    per_fact = [slow_area(values[fact]) for fact in kept]
    assert areas["cpr_mean_over_facts"] == pytest.approx(np.mean(per_fact))
    distances = [slow_area(np.abs(1 - values[fact])) for fact in kept]
    assert areas["cmd_mean_over_facts"] == pytest.approx(np.mean(distances))
    assert len({round(value, 3) for value in areas.values()}) == 4


def test_a_part_of_the_span_needs_its_ends() -> None:
    curve, values = random_curve()
    part = curve.cmd(span=(0.005, 0.05))
    assert part[0] == pytest.approx(slow_area(np.abs(1 - values[0, 2:6]), SIZES[2:6]))
    short = make_curve(np.ones((1, 3)), sizes=(0.005, 0.01, 0.05))
    assert short.cpr(span=(0.005, 0.05))[0] == pytest.approx(0.045)
    for call in (short.cpr, short.cmd, short.set_areas):
        with pytest.raises(UsageError, match=r"from 0.001 to 1 needs circuits of both sizes"):
            call()
    for span in ((0.05, 0.005), (0.01, 0.01)):
        with pytest.raises(UsageError, match="needs circuits of both sizes"):
            short.cpr(span=span)


def test_size_at_reads_between_sizes_on_a_log_scale() -> None:
    values = np.array(
        [
            [0, 0.1, 0.2, 0.3, 0.4, 0.8, 1, 1, 1, 1],  # halfway from .05 to .1
            [0.95, 0.2, 0.2, 0.3, 0.4, 0.8, 0.8, 0.8, 0.8, 1],  # at once
            [0, 0.1, 0.2, 0.75, 0.4, 0.8, 1, 1, 1, 1],  # .75 exactly at .01, then falls again
            [0, 0.1, 0.2, 0.3, 0.4, 0.8, 0.8, 0.8, 0.8, 0.85],  # never
            [1] * 10,
        ]
    )
    curve = make_curve(values, gated=[4])
    found = curve.size_at(0.9)
    assert found[0] == pytest.approx(np.sqrt(0.05 * 0.1))
    assert found[1] == pytest.approx(0.001)
    assert curve.size_at(0.75)[2] == pytest.approx(0.01)
    assert found[3] == np.inf
    assert np.isnan(found[4])
    assert curve.size_at(0.25)[0] == pytest.approx(np.sqrt(0.005 * 0.01))
    line = make_curve([[0.0, 0.5, 1.0]], sizes=(0.01, 0.1, 1.0))
    for target in (0.1, 0.25, 0.5, 0.7, 1.0):
        assert line.size_at(target)[0] == pytest.approx(10 ** (-2 + 2 * target))


def test_intervals_of_a_set_equal_a_loop_over_draws() -> None:
    curve, values = random_curve(n_facts=7, gated=(2, 5))
    subjects = np.array(["a", "b", "a", "c", "b", "a", "d"])
    found = curve.set_intervals(subjects, seed=4, n_draws=101, confidence=0.8)
    kept = np.array([0, 1, 3, 4, 6])
    counts = draw_clusters(subjects[kept], seed=4, n_draws=101)
    gaps = (curve.clean_metric - curve.empty_metric)[kept]
    draws: dict[str, list[float]] = {name: [] for name in curve.set_areas()}
    for times in counts:
        rows = [i for i, n in enumerate(times) for _ in range(n)]
        drawn, weights = values[kept][rows], gaps[rows]
        pooled = (drawn * weights[:, None]).sum(0) / weights.sum()
        draws["cpr_ratio_of_means"].append(slow_area(pooled))
        draws["cmd_ratio_of_means"].append(slow_area(np.abs(1 - pooled)))
        draws["cpr_mean_over_facts"].append(np.mean([slow_area(f) for f in drawn]))
        draws["cmd_mean_over_facts"].append(np.mean([slow_area(np.abs(1 - f)) for f in drawn]))
    assert list(found) == list(draws)
    for name, interval in found.items():
        ordered = sorted(draws[name])
        assert interval.low == pytest.approx(ordered[10])
        assert interval.high == pytest.approx(ordered[90])
        assert interval.estimate == pytest.approx(curve.set_areas()[name])
        assert interval.n_units == 4


def test_sets_too_small_for_an_interval_have_none() -> None:
    curve, _ = random_curve(n_facts=3, gated=(0,))
    for interval in curve.set_intervals(np.array(["x", "y", "y"]), seed=0, n_draws=20).values():
        assert np.isfinite(interval.estimate)
        assert np.isnan([interval.low, interval.high]).all()
        assert interval.n_units == 1
    unknown, _ = random_curve(n_facts=2, gated=(0, 1))
    assert np.isnan(list(unknown.set_areas().values())).all()
    assert np.isnan(unknown.mean_of_ratios).all()
    for interval in unknown.set_intervals(np.array(["x", "y"]), seed=0, n_draws=20).values():
        assert np.isnan([interval.estimate, interval.low, interval.high]).all()
        assert interval.n_units == 0


def test_rows_are_tidy() -> None:
    curve, values = random_curve()
    rows = curve.rows()
    assert len(rows) == 60
    assert rows[13] == {
        "fact": "f1", "size": 0.01, "n_selected": 18, "n_edges": 13, "n_ties": 0,
        "metric": pytest.approx(curve.metric[1, 3]), "faithfulness": pytest.approx(values[1, 3]),
        "is_gated": False, "by": "size",
    }  # fmt: skip
    assert rows[20]["faithfulness"] is None
    assert rows[20]["is_gated"] is True
