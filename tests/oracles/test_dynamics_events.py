"""Events, lifetimes, exposure and trends against slow twins and cases worked out by hand."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from kcircuits.analysis.dynamics.events import consolidation, fact_events
from kcircuits.analysis.dynamics.exposure import (
    MIN_GAIN,
    RE_EXPOSED,
    RETAINABILITY,
    fact_exposure,
    mean_effectivity,
    retention,
)
from kcircuits.analysis.dynamics.lifetimes import window_table
from kcircuits.analysis.dynamics.steps import knowledge_step, step_counts
from kcircuits.analysis.dynamics.trend import divergence, nonmonotonicity, spearman

Known = Sequence[Sequence[bool]]


def random_known(seed: int, n_facts: int, n_epochs: int, stay: float = 0.7) -> np.ndarray:
    """Facts that keep their state from epoch to epoch with some probability."""
    rng = np.random.default_rng(seed)
    known = np.zeros((n_facts, n_epochs), dtype=bool)
    known[:, 0] = rng.random(n_facts) < 0.3
    for t in range(1, n_epochs):
        known[:, t] = np.where(rng.random(n_facts) < stay, known[:, t - 1], ~known[:, t - 1])
    return known


def windows(line: Sequence[bool]) -> list[tuple[int, int]]:
    """(first epoch, epochs) of each run of known epochs."""
    found: list[tuple[int, int]] = []
    for t, value in enumerate(line):
        if value and (t == 0 or not line[t - 1]):
            found.append((t, 1))
        elif value:
            found[-1] = (found[-1][0], found[-1][1] + 1)
    return found


def slow_events(line: Sequence[bool]) -> dict[str, int]:
    learned = forgotten = relearned = 0
    for before, after in itertools.pairwise(line):
        if after and not before:
            learned += 1
            if forgotten:
                relearned += 1
        if before and not after:
            forgotten += 1
    first = -1
    for t, value in enumerate(line):
        if value:
            first = t
            break
    final = 0
    for value in reversed(line):
        if not value:
            break
        final += 1
    longest = max((length for _, length in windows(line)), default=0)
    return {
        "n_learned": learned, "n_forgotten": forgotten, "n_relearned": relearned,
        "acquisition_idx": first, "longest": longest, "final": final,
    }  # fmt: skip


def slow_life_table(known: Known) -> list[tuple[int, int, float | None]]:
    """(d_k, n_k, S_k) for k = 1, 2, ...; S_k None where no window was at risk."""
    n_epochs = len(known[0])
    rows: list[tuple[int, int, float | None]] = []
    survival: float | None = 1.0
    for k in range(1, n_epochs):
        forgotten = at_risk = 0
        for line in known:
            for start, length in windows(line):
                if start == 0 or start + k >= n_epochs or length < k:
                    continue  # began before anyone looked; not looked at again; ended earlier
                at_risk += 1
                if not line[start + k]:
                    forgotten += 1
        survival = (
            survival * (1 - forgotten / at_risk) if survival is not None and at_risk else None
        )
        rows.append((forgotten, at_risk, survival))
    return rows


def slow_nonmonotonicity(values: Sequence[float]) -> float | None:
    drops = changes = 0.0
    for before, after in itertools.pairwise(values):
        changes += abs(after - before)
        if after < before:
            drops += before - after
    return drops / changes if changes else None


def slow_exposure(logprob: Sequence[float], exposed: Sequence[bool]) -> dict[str, float] | None:
    """Effectivity, gain and what is kept after k epochs, of one fact."""
    n_epochs = len(logprob)
    at = [t for t in range(1, n_epochs) if exposed[t]]
    if not at:
        return None
    start = at[0] if at[-1] == n_epochs - 1 else at[-1]
    peak = start
    for t in range(start, n_epochs):
        if logprob[t] > logprob[peak]:
            peak = t
    pre = logprob[at[0] - 1]
    found = {"effectivity": logprob[peak] - logprob[start - 1], "gain": logprob[peak] - pre}
    for k in range(1, n_epochs - peak):
        found[f"kept_{k}"] = logprob[peak + k] - pre
    return found


SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
def test_fact_events_equal_the_slow_twin(seed: int) -> None:
    known = random_known(seed, 40, 2 + seed)
    found = fact_events(known)
    for i, line in enumerate(known.tolist()):
        assert {name: int(getattr(found, name)[i]) for name in vars(found)} == slow_events(line)


def test_events_of_a_fact_by_hand() -> None:
    # Known before training, lost, learned again twice, known at the end.
    known = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]], dtype=bool)
    found = fact_events(known)
    assert found.n_learned.tolist() == [2, 0, 1]
    assert found.n_forgotten.tolist() == [2, 0, 0]
    assert found.n_relearned.tolist() == [2, 0, 0]
    assert found.acquisition_idx.tolist() == [0, -1, 3]
    assert found.longest.tolist() == [2, 0, 3]
    assert found.final.tolist() == [1, 0, 3]


def test_consolidation_leaves_out_what_came_too_late() -> None:
    known = np.array(
        [
            [0, 0, 1, 1, 1],  # known for the last three epochs
            [0, 0, 0, 1, 1],  # acquired in the last two: cannot tell
            [0, 0, 0, 0, 1],  # likewise
            [0, 1, 0, 1, 1],  # acquired early, lost, back for two epochs: not consolidated
            [1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0],
        ],
        dtype=bool,
    )
    found = consolidation(known, k=3)
    assert found.is_consolidated.tolist() == [True, False, False, False, True, False]
    assert found.is_evaluable.tolist() == [True, False, False, True, True, True]
    assert found.is_acquired.tolist() == [True] * 5 + [False]
    # With k = 1 everything can be told, and consolidated means known at the end.
    assert consolidation(known, k=1).is_evaluable.all()
    assert consolidation(known, k=1).is_consolidated.tolist() == known[:, -1].tolist()


@pytest.mark.parametrize("n_epochs", [1, 3, 4, 5])
def test_a_run_too_short_for_k_epochs_can_tell_of_no_fact(n_epochs: int) -> None:
    known = np.array([[True] * n_epochs, [False] * n_epochs])
    for k in (n_epochs + 1, n_epochs + 2, 2 * n_epochs + 3):
        found = consolidation(known, k)
        assert found.is_evaluable.tolist() == [False, False]
        assert found.is_consolidated.tolist() == [False, False]
    assert consolidation(known, n_epochs).is_evaluable.tolist() == [True, True]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_consolidation_equals_the_slow_twin(seed: int, k: int) -> None:
    known = random_known(seed, 60, 8)
    found = consolidation(known, k)
    for i, line in enumerate(known.tolist()):
        late = any(line) and line.index(True) in range(len(line) - (k - 1), len(line))
        assert found.is_evaluable[i] == (not late)
        assert found.is_consolidated[i] == all(line[-k:])  # a late fact has not k epochs behind it


@pytest.mark.parametrize("seed", SEEDS)
def test_step_counts_equal_the_named_step(seed: int) -> None:
    known = random_known(seed, 30, 6)
    names = [f"f{i}" for i in range(len(known))]
    found = step_counts(known)
    for t in range(1, known.shape[1]):
        before, after = (dict(zip(names, known[:, s].tolist(), strict=True)) for s in (t - 1, t))
        step = knowledge_step(names, before, after)
        counts = [int(getattr(found, n)[t - 1]) for n in ("acquired", "retained", "forgotten")]
        assert counts == [len(step.acquired), len(step.retained), len(step.forgotten)]
        assert found.learned[t] == sum(after.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_life_table_equals_the_slow_twin(seed: int) -> None:
    known = random_known(seed, 25, 3 + seed, stay=0.8)
    found = window_table(known, np.arange(25) // 2, n_draws=50)
    for i, (forgotten, at_risk, survival) in enumerate(slow_life_table(known.tolist())):
        assert found.ended[i] == forgotten
        assert found.at_risk[i] == at_risk
        assert found.survival[i] == pytest.approx(
            np.nan if survival is None else survival, nan_ok=True
        )
    starts = [w for line in known.tolist() for w in windows(line) if w[0] > 0]
    assert found.n_spells == len(starts)


def test_life_table_by_hand() -> None:
    known = np.array(
        [
            [0, 1, 0, 0],  # forgotten after 1
            [0, 1, 1, 0],  # forgotten after 2
            [0, 1, 1, 1],  # never seen to be forgotten: at risk after 1 and after 2
            [0, 0, 0, 1],  # acquired at the last epoch: never at risk
            [1, 1, 0, 0],  # known before anyone looked: left out
        ],
        dtype=bool,
    )
    found = window_table(known, np.arange(5))
    assert found.n_spells == 4
    assert found.at_risk.tolist() == [3, 2, 0]
    assert found.ended.tolist() == [1, 1, 0]
    np.testing.assert_allclose(found.survival, [2 / 3, 1 / 3, np.nan])


def test_life_table_bands_hold_the_estimate_and_shrink_with_entities() -> None:
    widths = []
    for n_facts in (40, 640):
        found = window_table(random_known(3, n_facts, 8, stay=0.75), np.arange(n_facts))
        assert (found.low[:3] <= found.survival[:3]).all()
        assert (found.survival[:3] <= found.high[:3]).all()
        widths.append(found.high[0] - found.low[0])
    assert widths[1] < widths[0] / 2  # sixteen times the entities: about a quarter


@pytest.mark.parametrize("seed", SEEDS)
def test_exposure_equals_the_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logprob, exposed = -rng.exponential(size=(30, 7)), rng.random((30, 7)) < 0.3
    exposed[:, 0] = False
    found = fact_exposure(logprob, exposed)
    for i in range(30):
        twin = slow_exposure(logprob[i].tolist(), exposed[i].tolist())
        if twin is None:
            assert np.isnan(found.effectivity[i])
            assert found.peak_idx[i] == -1
            continue
        assert found.effectivity[i] == pytest.approx(twin.pop("effectivity"))
        assert found.gain[i] == pytest.approx(twin.pop("gain"))
        kept = {f"kept_{k + 1}": v for k, v in enumerate(found.kept[i].tolist()) if not np.isnan(v)}
        assert kept == pytest.approx(twin)


def test_retainability_by_hand() -> None:
    # Told at epochs 1 and 2; the best after the last telling is at epoch 3; then it fades.
    fades = [-4.0, -3.0, -2.0, -1.0, -2.5, -4.0]
    little = [-4.0, -3.9, -3.8, -3.7, -3.9, -4.0]  # gains less than half a nat: undefined
    told = [False, True, True, False, False, False]
    exposure = fact_exposure(np.array([fades, little]), np.array([told, told]))
    assert exposure.peak_idx.tolist() == [3, 3]
    assert exposure.effectivity.tolist() == pytest.approx([2.0, 0.2])  # l(3) - l(1)
    assert exposure.gain.tolist() == pytest.approx([3.0, 0.3])
    assert exposure.gain[1] < MIN_GAIN
    (one,) = retention(exposure, 1, np.array(["a", "b"]))
    assert (one.name, one.n_facts, one.value) == (RETAINABILITY, 1, pytest.approx(0.5))
    (two,) = retention(exposure, 2, np.array(["a", "b"]))
    assert two.value == pytest.approx(0.0)
    (three,) = retention(exposure, 3, np.array(["a", "b"]))
    assert three.n_facts == 0
    assert np.isnan(three.value)


def test_retainability_is_a_ratio_of_sums() -> None:
    gains, left = np.array([1.0, 4.0, 2.0]), np.array([1.0, 1.0, 0.0])
    logprob = np.stack([np.full(3, -5.0), -5.0 + gains, -5.0 + left], axis=1)
    exposure = fact_exposure(logprob, np.array([[False, True, False]] * 3))
    (found,) = retention(exposure, 1, np.array(["a", "b", "c"]))
    assert found.value == pytest.approx(2 / 7)
    assert found.value != pytest.approx((1 + 1 / 4 + 0) / 3)


def test_facts_told_at_every_epoch_are_named_apart() -> None:
    always = np.array([[True] * 4, [True, True, False, False]])
    logprob = np.array([[-4.0, -2.0, -1.0, -2.5], [-4.0, -1.0, -2.0, -4.0]])
    exposure = fact_exposure(logprob, always)
    results = retention(exposure, 1, np.array(["a", "b"]))
    assert {r.name: r.value for r in results} == {
        RETAINABILITY: pytest.approx(2 / 3),
        RE_EXPOSED: pytest.approx(0.5),
    }
    assert mean_effectivity(exposure, np.array(["a", "b"]))[0] == pytest.approx(3.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_nonmonotonicity_equals_the_slow_twin(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 4, size=(20, 6)) / 4
    found = nonmonotonicity(values)
    for i, line in enumerate(values.tolist()):
        twin = slow_nonmonotonicity(line)
        assert found[i] == pytest.approx(np.nan if twin is None else twin, nan_ok=True)


def test_nonmonotonicity_of_flat_noise_is_near_a_half() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 50))
    # The mean of 400 values with a spread of about .07 each.
    assert nonmonotonicity(noise).mean() == pytest.approx(0.5, abs=0.02)
    assert nonmonotonicity(np.arange(5.0)) == 0
    assert nonmonotonicity(-np.arange(5.0)) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_spearman_equals_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, size=(2, 12)).astype(float)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_divergence_by_hand() -> None:
    loss = np.array([np.nan, 3.0, 2.0, 1.0, 1.5])
    knowledge = np.array([0.1, 0.4, 0.4, 0.2, 0.9])
    found = divergence(loss, knowledge)
    # Steps 1-2 (falls, flat) and 2-3 (falls, drops) diverge; 3-4 rises in both.
    assert (found.n_epochs, found.n_steps, found.n_diverging) == (4, 3, 2)
    assert found.share == pytest.approx(2 / 3)
    assert (found.best_epoch, found.lowest_loss_epoch) == (4, 3)
    assert found.regret == pytest.approx(0.7)
    assert found.spearman == pytest.approx(stats.spearmanr(-loss[1:], knowledge[1:]).statistic)


def test_divergence_without_a_loss_says_so() -> None:
    found = divergence(np.full(3, np.nan), np.array([0.0, 0.5, 0.4]))
    assert (found.n_epochs, found.n_steps, found.lowest_loss_epoch) == (0, 0, -1)
    assert np.isnan([found.spearman, found.share, found.regret]).all()
