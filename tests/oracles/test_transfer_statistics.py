"""Statistics of transfer against slow twins, and on simulations whose truth is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kcircuits.analysis.overlap.half_circuits import top_mask
from kcircuits.analysis.transfer.lines import (
    NONE,
    Sources,
    chosen_measures,
    line_choices,
    source_shares,
)
from kcircuits.analysis.transfer.rows import (
    MEASURES,
    OnWeights,
    is_apart,
    loss_both_ways,
    transfer_rows,
)
from kcircuits.core.bootstrap import bootstrap_mean, bootstrap_ratio, draw_clusters, percentiles
from kcircuits.core.leave_one_out import leave_one_out

N_FACTS = 24


def random_at(rng: np.random.Generator, n_facts: int = N_FACTS) -> OnWeights:
    """Numbers as large as logit differences; two facts a subject."""
    clean = rng.normal(6, 1, n_facts)
    return OnWeights(
        clean=clean,
        empty=rng.normal(-2, 1, n_facts),
        is_known=rng.random(n_facts) < 0.8,
        own=measures(rng, n_facts),
        half=measures(rng, n_facts),
        subjects=np.arange(n_facts) // 2,
    )


def measures(rng: np.random.Generator, n_facts: int = N_FACTS) -> np.ndarray:
    hits = rng.integers(0, 3, (2, n_facts)) / 2
    return np.stack([rng.normal(3, 1, n_facts), *hits, rng.integers(1, 99, n_facts).astype(float)])


@pytest.mark.parametrize("sign", [1, -1])
def test_rows_equal_those_of_the_bootstrap_of_evaluations(sign: int) -> None:
    """One fact at a time; intervals by the functions that ``kcircuits evaluate`` uses.

    With -1 all metrics are such that lower is better: the same shares come out.
    """
    rng = np.random.default_rng(0)
    at, moved, random = random_at(rng), measures(rng), measures(rng)
    passes = rng.random(N_FACTS) < 0.8
    moved[:, 3] = np.nan
    own = at.own.copy()
    own[:, 5] = np.nan
    half = at.half.copy()
    half[:, 7:11] = np.nan
    at = replace(at, own=own, half=half)
    kept = [
        i for i in range(N_FACTS)
        if i not in (3, 5) and passes[i] and at.is_known[i]
    ]  # fmt: skip
    n_gated = sum(i not in (3, 5) for i in range(N_FACTS)) - len(kept)
    gap = (at.clean - at.empty)[kept]
    numbers = {
        "faithfulness": (moved[0] - at.empty)[kept],
        "own": (own[0] - at.empty)[kept],
        "half": (half[0] - at.empty)[kept],
        "random": (random[0] - at.empty)[kept],
        "loss": (own[0] - moved[0])[kept],
        "half_loss": (own[0] - half[0])[kept],
    }
    turned = replace(
        at, clean=sign * at.clean, empty=sign * at.empty, own=turn(own, sign), half=turn(half, sign)
    )
    rows = transfer_rows(turned, turn(moved, sign), turn(random, sign), passes, seed=4)
    assert [row["set"] for row in rows] == ["ratio of means", "mean of ratios"]
    for row, is_ratio in zip(rows, (True, False), strict=True):
        assert (row["facts"], row["gated"], row["failed"]) == (len(kept), n_gated, 2)
        assert row["subjects"] == len({i // 2 for i in kept})
        for name, values in numbers.items():
            there = np.isfinite(values)
            units = at.subjects[kept][there]
            wanted = (
                bootstrap_ratio(values[there], gap[there], units, seed=4)
                if is_ratio
                else bootstrap_mean(values[there] / gap[there], units, seed=4)
            )
            assert row[name] == pytest.approx(float(wanted.estimate), rel=1e-9)
            assert row[f"{name}_low"] == pytest.approx(float(wanted.low), rel=1e-9)
            assert row[f"{name}_high"] == pytest.approx(float(wanted.high), rel=1e-9)
        for name, values, k in (
            ("hit_at_1", moved, 1), ("hit_at_10", moved, 2), ("own_hit_at_10", own, 2),
            ("random_hit_at_10", random, 2),
        ):  # fmt: skip
            assert row[name] == pytest.approx(sum(values[k][i] for i in kept) / len(kept))
        assert row["target_rank"] == np.median([moved[3][i] for i in kept])
        assert row["own_target_rank"] == np.median([own[3][i] for i in kept])


def turn(values: np.ndarray, sign: int) -> np.ndarray:
    return np.concatenate([sign * values[:1], values[1:]])


def test_no_fact_and_one_subject_give_no_number_and_no_interval() -> None:
    rng = np.random.default_rng(1)
    at, moved = random_at(rng), measures(rng)
    nobody = np.zeros(N_FACTS, dtype=bool)
    for row in transfer_rows(at, moved, moved, nobody, seed=0):
        assert (row["facts"], row["gated"]) == (0, N_FACTS)
        assert all(row[name] is None for name in ("faithfulness", "loss_low", "target_rank"))
    one = replace(at, is_known=np.arange(N_FACTS) == 4)
    for row in transfer_rows(one, moved, moved, ~nobody, seed=0):
        assert row["loss"] == pytest.approx(
            (at.own[0, 4] - moved[0, 4]) / (at.clean[4] - at.empty[4])
        )
        assert row["loss_low"] is row["loss_high"] is None
    both = loss_both_ways(replace(at, is_known=nobody), moved, at, moved, seed=0)
    assert [row["loss_both_ways"] for row in both] == [None, None]


def test_a_star_needs_an_interval_beside_0_and_10_subjects() -> None:
    row = {"loss_low": 0.1, "loss_high": 0.2, "subjects": 10}
    assert is_apart(row, "loss")
    assert is_apart({**row, "loss_low": -0.2, "loss_high": -0.1}, "loss")
    for change in ({"subjects": 9}, {"loss_low": -0.1}, {"loss_low": None, "loss_high": None}):
        assert not is_apart({**row, **change}, "loss")


def test_loss_both_ways_is_the_mean_of_both_losses_over_common_draws() -> None:
    rng = np.random.default_rng(2)
    there, back = random_at(rng), random_at(rng)
    moved, moved_back = measures(rng), measures(rng)
    kept = there.is_known & back.is_known
    parts = [
        ((one.own[0] - values[0])[kept], (one.clean - one.empty)[kept])
        for one, values in ((there, moved), (back, moved_back))
    ]
    counts = draw_clusters(there.subjects[kept], seed=3)
    for way, row in enumerate(loss_both_ways(there, moved, back, moved_back, seed=3)):
        if way == 0:
            estimate = np.mean([top.sum() / bottom.sum() for top, bottom in parts])
            drawn = np.mean([(counts @ top) / (counts @ bottom) for top, bottom in parts], axis=0)
        else:
            ratios = np.mean([top / bottom for top, bottom in parts], axis=0)
            estimate, drawn = ratios.mean(), (counts @ ratios) / counts.sum(1)
        low, high = percentiles(drawn, 0.95)
        assert row["loss_both_ways"] == pytest.approx(float(estimate))
        assert row["loss_both_ways_low"] == pytest.approx(float(low))
        assert row["loss_both_ways_high"] == pytest.approx(float(high))


# --- simulated circuits: scores of an edge are its true share of the metric, seen through noise


N_SIMULATED, N_PROMPTS, N_TOTAL, N_EDGES = 30, 8, 300, 30
EVALUATION_NOISE = 0.02


def simulated(
    rng: np.random.Generator, noise: tuple[float, float], moved_share: float = 0.0
) -> tuple[Any, Any]:
    """Own and moved circuits on the weights of t, then on those of s.

    A circuit's metric is the sum of the true shares of its edges, but for what the wording of the
    evaluation prompts adds. ``noise`` is that of the scores at s and at t.
    """
    true = rng.lognormal(0, 1.5, (N_SIMULATED, N_TOTAL))
    later = true.copy()
    for signal in later:  # some of the largest edges change places with others
        order = np.argsort(-signal)
        n_moved = round(moved_share * N_EDGES)
        places = np.concatenate([order[:n_moved], rng.choice(order[N_EDGES:], n_moved)])
        signal[places] = signal[np.roll(places, n_moved)]
    full, half = [], []
    for signal, size in ((true, noise[0]), (later, noise[1])):
        seen = signal[:, None] * (
            1 + size * rng.standard_normal((N_SIMULATED, N_PROMPTS, N_TOTAL))
        ) + size * rng.standard_normal((N_SIMULATED, N_PROMPTS, N_TOTAL))
        full.append(top_mask(np.abs(seen.mean(1)), N_EDGES))
        half.append(top_mask(np.abs(seen[:, : N_PROMPTS // 2].mean(1)), N_EDGES))

    def on(signal: np.ndarray, own: int) -> tuple[OnWeights, np.ndarray]:
        def measured(mask: np.ndarray) -> np.ndarray:
            wording = EVALUATION_NOISE * rng.standard_normal(N_SIMULATED)
            metric = (signal * mask).sum(1) + wording * signal.sum(1)
            return np.concatenate([metric[None], np.zeros((3, N_SIMULATED))])

        at = OnWeights(
            clean=signal.sum(1),
            empty=np.zeros(N_SIMULATED),
            is_known=np.ones(N_SIMULATED, dtype=bool),
            own=measured(full[own]),
            half=measured(half[own]),
            subjects=np.arange(N_SIMULATED),
        )
        return at, measured(full[1 - own])

    return on(later, 1), on(true, 0)


def losses(noise: tuple[float, float], moved_share: float, n_repeats: int) -> dict[str, np.ndarray]:
    """Estimates [repeat] and whether their intervals exclude 0."""
    rng, everyone = np.random.default_rng(7), np.ones(N_SIMULATED, dtype=bool)
    found: dict[str, list[float]] = {}
    for _ in range(n_repeats):
        (at, moved), (back, moved_back) = simulated(rng, noise, moved_share)
        row = transfer_rows(at, moved, np.full_like(moved, np.nan), everyone, seed=0)[1]
        row |= loss_both_ways(at, moved, back, moved_back, seed=0)[1]
        for name in ("loss", "half_loss", "loss_both_ways"):
            found.setdefault(name, []).append(row[name])
            low, high = row[f"{name}_low"], row[f"{name}_high"]
            found.setdefault(f"{name} alarm", []).append(low > 0 or high < 0)
        against_half = at.half[0] - moved[0]
        found.setdefault("against half", []).append(float((against_half / at.clean).mean()))
    return {name: np.array(values, dtype=float) for name, values in found.items()}


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def test_loss_is_0_on_average_where_nothing_changed() -> None:
    """And the half-sample yardstick is not: it calls the moved circuit better than no change."""
    found = losses((1.0, 1.0), 0.0, 120)
    assert abs(found["loss"].mean()) < 3 * standard_error(found["loss"])
    assert abs(found["loss_both_ways"].mean()) < 3 * standard_error(found["loss_both_ways"])
    assert found["half_loss"].mean() > 5 * standard_error(found["half_loss"])
    assert found["against half"].mean() < -5 * standard_error(found["against half"])
    # 95% percentile intervals over 30 subjects hold the truth in 93%.
    assert found["loss alarm"].mean() < 0.12
    assert found["loss_both_ways alarm"].mean() < 0.12


def test_unequal_noise_passes_for_loss_one_way_and_not_both_ways() -> None:
    found = losses((2.0, 0.8), 0.0, 120)
    assert found["loss alarm"].mean() > 0.9
    assert found["loss"].mean() > 0
    assert abs(found["loss_both_ways"].mean()) < 3 * standard_error(found["loss_both_ways"])
    assert found["loss_both_ways alarm"].mean() < 0.12


def test_a_true_change_is_a_loss_both_ways() -> None:
    found = losses((1.0, 1.0), 0.3, 30)
    assert found["loss"].min() > 0.05
    assert found["loss_both_ways"].min() > 0.05
    assert found["loss_both_ways alarm"].all()


# --- which circuit stands for a fact


def sources_of(rng: np.random.Generator, n_sources: int = 4, n_facts: int = N_FACTS) -> Sources:
    return Sources(
        is_known=rng.random((n_sources, n_facts)) < 0.6,
        is_answered=rng.random((n_sources, n_facts)) < 0.5,
        gained=rng.normal(2, 1, (n_sources, n_facts)),
        gap=rng.uniform(3, 5, (n_sources, n_facts)),
        subjects=np.arange(n_facts) // 3,
    )


def test_before_after_and_first_known_are_those_epochs() -> None:
    sources = sources_of(np.random.default_rng(3))
    sources.is_known[:, 5] = False
    choices = line_choices(sources, seed=0)
    assert list(choices) == [
        "before", "first known", "after", "best by knowledge", "best by faithfulness"
    ]  # fmt: skip
    assert (choices["before"] == 0).all()
    assert (choices["after"] == 3).all()
    for fact, chosen in enumerate(choices["first known"][0].tolist()):
        known = [s for s in range(4) if sources.is_known[s, fact]]
        assert chosen == (known[0] if known else NONE)


@pytest.mark.parametrize("line", ["best by knowledge", "best by faithfulness"])
def test_the_best_epoch_is_chosen_by_other_subjects(line: str) -> None:
    """For every fact and split: the best by hand over the subjects of the other half."""
    sources = sources_of(np.random.default_rng(4))
    choice = line_choices(sources, seed=5, n_splits=6)[line]
    generator, n_subjects = np.random.default_rng(5), len(set(sources.subjects.tolist()))
    for split in range(6):
        first = set(np.flatnonzero(generator.permutation(n_subjects) < n_subjects // 2).tolist())
        for fact, subject in enumerate(sources.subjects.tolist()):
            others = [
                i for i, other in enumerate(sources.subjects.tolist())
                if (other in first) != (subject in first)
            ]  # fmt: skip
            values = []
            for s in range(4):
                if line == "best by knowledge":
                    values.append(sum(bool(sources.is_answered[s, i]) for i in others))
                else:
                    known = [i for i in others if sources.is_known[s, i]]
                    top = sum(sources.gained[s, i] for i in known)
                    values.append(top / sum(sources.gap[s, i] for i in known))
            assert choice[split, fact] == values.index(max(values))


def test_the_best_of_equals_is_not_better_than_the_others() -> None:
    """All epochs are alike; the best in hindsight looks better, the one shown does not."""
    rng, hindsight, shown = np.random.default_rng(6), [], []
    for _ in range(60):
        sources = replace(
            sources_of(rng, 8, 40), is_known=np.ones((8, 40), dtype=bool), gap=np.ones((8, 40))
        )
        moved = np.repeat(sources.gained[:, None], len(MEASURES), 1)
        choice = line_choices(sources, seed=0)["best by faithfulness"]
        means, _ = chosen_measures(choice, moved, sources.is_known)
        shown.append(means[0].mean())
        hindsight.append(sources.gained.mean(1).max())
    assert np.mean(hindsight) - 2 > 0.1
    assert abs(np.mean(shown) - 2) < 3 * standard_error(np.array(shown))


def test_chosen_measures_are_means_over_the_splits_at_which_the_fact_is_known() -> None:
    rng = np.random.default_rng(8)
    moved = rng.normal(size=(3, len(MEASURES), 10))
    moved[1, :, 2] = np.nan
    is_known = rng.random((3, 10)) < 0.5
    is_known[1, 2] = False
    choice = rng.integers(0, 3, (5, 10))
    choice[:, 9] = NONE
    means, enters = chosen_measures(choice, moved, is_known)
    for fact in range(10):
        kept = [s for s in choice[:, fact].tolist() if s != NONE and is_known[s, fact]]
        assert enters[fact] == bool(kept)
        if kept:
            wanted = np.mean([moved[s, :, fact] for s in kept], axis=0)
            np.testing.assert_allclose(means[:, fact], wanted)
    assert np.isnan(means[:, 9]).all()
    shares = source_shares(choice, np.arange(10) == 4, ["a", "b", "c"])
    counts = np.bincount(choice[:, 4], minlength=3) / 5
    assert shares == {name: n for name, n in zip("abc", counts.tolist(), strict=True) if n}


def test_leaving_one_out_is_the_sum_of_the_others_without_a_trace() -> None:
    rng = np.random.default_rng(9)
    for n_units in (0, 1, 2, 3, 7, 16):
        values = rng.normal(size=(n_units, 5))
        values[:, 0] = 0.0
        if n_units:
            values[n_units // 2, 0] = 1 / 3  # an edge that one unit alone uses
        found = list(leave_one_out(values))
        assert len(found) == n_units
        for unit, total in enumerate(found):
            others = np.delete(values, unit, 0)
            np.testing.assert_allclose(total, others.sum(0), rtol=1e-12, atol=1e-15)
            assert (total[0] == 0) == (unit == n_units // 2)
    values = rng.normal(size=(16, 1)) * [[1e-3]]
    values[3] = 1 / 3
    plain = values.sum(0) - values[3]  # what subtracting leaves is not the sum of the others
    assert plain != list(leave_one_out(values))[3]
