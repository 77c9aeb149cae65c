"""Stopping rules: hand-made histories, contracts over the registry, and the bias of maxima."""

from dataclasses import replace

import numpy as np
import pytest

from kcircuits.analysis.dynamics.series import ProbeSeries, Skill
from kcircuits.analysis.stopping.online import history_of, stop_when
from kcircuits.analysis.stopping.registry import RULES, stopping_rule
from kcircuits.analysis.stopping.replay import Stop, replay, split_run
from kcircuits.analysis.stopping.rule import Decision, History, StoppingRule
from kcircuits.errors import UsageError

NAN = float("nan")


def history(**series: list[float]) -> History:
    n_epochs = len(next(iter(series.values())))
    names = ("loss", "knowledge", "ood", "turnover")
    given = {name: np.array(series.get(name, [NAN] * n_epochs), dtype=float) for name in names}
    return History(epochs=np.arange(n_epochs, dtype=float), **given)


def random_history(seed: int) -> History:
    rng = np.random.default_rng(seed)
    lines = {name: rng.random(9).tolist() for name in ("loss", "knowledge", "ood", "turnover")}
    lines["loss"][0] = lines["turnover"][0] = NAN
    return history(**lines)


CASES = {
    # rule, settings, series, (epoch kept, epoch after which training ended)
    "lowest loss": ("lowest-loss", {}, {"loss": [NAN, 3, 1, 2, 1.5]}, (2, 4)),
    "lowest loss, no loss": ("lowest-loss", {}, {"knowledge": [0, 0.5, 1]}, (2, 2)),
    "loss falls on": ("loss-plateau", {}, {"loss": [NAN, 4, 3, 2, 1]}, (4, 4)),
    "loss rests": (
        "loss-plateau", {"patience": 2, "min_drop": 0.1},
        {"loss": [NAN, 4, 3, 2.95, 2.93, 1]}, (4, 4),
    ),
    "loss creeps past the drop": (
        # 2.95 and 2.85: the second is .15 below the last fall that counted.
        "loss-plateau", {"patience": 2, "min_drop": 0.1}, {"loss": [NAN, 3, 2.95, 2.85, 2.8]},
        (4, 4),
    ),
    "probes rest": (
        "probe-plateau", {"patience": 2, "min_rise": 0.1}, {"knowledge": [0, 0.5, 0.55, 0.5, 0.9]},
        (3, 3),
    ),
    "probes peak": (
        "probe-peak", {"patience": 2}, {"knowledge": [0.1, 0.6, 0.8, 0.7, 0.8, 0.9]}, (2, 4),
    ),
    "probes rise on": ("probe-peak", {"patience": 1}, {"knowledge": [0.1, 0.2, 0.3]}, (2, 2)),
    "probes fall": ("probe-peak", {"patience": 2}, {"knowledge": [0.5, 0.4, 0.3, 0.6]}, (0, 2)),
    "ood holds": ("ood-guard", {"max_fall": 0.1}, {"ood": [0.9, 0.85, 0.81]}, (2, 2)),
    "ood falls": ("ood-guard", {"max_fall": 0.1}, {"ood": [0.9, 0.85, 0.7, 0.9]}, (1, 2)),
    "ood falls at once": ("ood-guard", {"max_fall": 0.1}, {"ood": [0.9, 0.5, 0.4]}, (0, 1)),
    "circuits rest": (
        "circuit-turnover", {"patience": 2, "max_turnover": 0.1},
        {"turnover": [NAN, 0.5, 0.05, 0.3, 0.1, 0.02, 0.01]}, (5, 5),
    ),
    "a gap is no rest": (
        "circuit-turnover", {"patience": 2, "max_turnover": 0.1},
        {"turnover": [NAN, 0.05, NAN, 0.05]}, (3, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rule_by_hand(name: str) -> None:
    rule, settings, series, (pick, spent) = CASES[name]
    found = replay(stopping_rule(rule, **settings), history(**series))
    assert found == Stop(pick=pick, spent=spent)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", range(20))
def test_every_rule_sees_only_the_past(name: str, seed: int) -> None:
    """Online and on a finished run are one: what comes later changes nothing."""
    rule, whole = stopping_rule(name), random_history(seed)
    assert isinstance(rule, StoppingRule)
    for n_epochs in range(1, 10):
        past = whole.until(n_epochs)
        decision = rule.decide(past)
        assert isinstance(decision, Decision)
        assert 0 <= decision.pick < n_epochs
        # A pure function: asked again, and of a longer run cut short, it says the same.
        assert rule.decide(past) == rule.decide(whole.until(9).until(n_epochs)) == decision
        if decision.is_stop:
            assert replay(rule, whole) == Stop(pick=decision.pick, spent=n_epochs - 1)
            break


@pytest.mark.parametrize("name", RULES)
def test_every_rule_survives_a_run_without_its_series(name: str) -> None:
    empty = history(loss=[NAN] * 4)
    assert replay(stopping_rule(name), empty) == Stop(pick=3, spent=3)
    assert stopping_rule(name).decide(empty.until(1)).pick == 0


def test_wrong_rules_and_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="no stopping rule 'peak'"):
        stopping_rule("peak")
    with pytest.raises(UsageError, match="no setting 'patince'") as caught:
        stopping_rule("probe-peak", patince=2)
    assert "patience" in str(caught.value.hint)
    with pytest.raises(UsageError, match="patience is 0; expected at least 1"):
        stopping_rule("probe-peak", patience=0)
    with pytest.raises(UsageError, match="max_fall is -1"):
        stopping_rule("ood-guard", max_fall=-1)
    with pytest.raises(UsageError, match="max_turnover is nan; expected at least 0"):
        stopping_rule("circuit-turnover", max_turnover=NAN)


@pytest.mark.parametrize("name", [n for n, r in RULES.items() if hasattr(r, "patience")])
def test_patience_counts_epochs(name: str) -> None:
    for patience in (1.5, 2.0, NAN):
        with pytest.raises(UsageError, match=f"patience is {patience}; expected a whole number"):
            stopping_rule(name, patience=patience)
    assert stopping_rule(name, patience=np.int64(2)) == stopping_rule(name, patience=2)


def test_online_in_a_loop_it_stops_where_the_replay_does() -> None:
    whole, moments = random_history(3), []
    for name in RULES:
        rule, expected = stopping_rule(name), replay(stopping_rule(name), whole)
        moments, stopped = [], 8
        for t in range(9):
            moments.append(
                {
                    "checkpoint": f"ep{t}", "epoch": t, "step": t, "perplexity": None,
                    "loss": None if t == 0 else float(whole.loss[t]),
                    "known": float(whole.knowledge[t]), "skills": {"s": float(whole.ood[t])},
                    "turnover": None if t == 0 else float(whole.turnover[t]),
                }
            )  # fmt: skip
            if stop_when(rule)(moments):
                stopped = t
                break
        assert stopped == expected.spent
        assert rule.decide(history_of(moments)).pick == expected.pick
    assert not stop_when(stopping_rule("probe-peak"))([])


def noise_series(seed: int, n_facts: int = 24, n_epochs: int = 12) -> ProbeSeries:
    """Every epoch is as good as every other: known by the toss of a coin."""
    rng = np.random.default_rng(seed)
    none = np.full((n_facts, n_epochs), np.nan)
    items = (rng.random((40, n_epochs)) < 0.5).astype(float)
    return ProbeSeries(
        seed=seed, epochs=np.arange(n_epochs, dtype=float),
        fact_ids=tuple(f"f{i}" for i in range(n_facts)),
        entities=tuple(f"e{i // 2}" for i in range(n_facts)),
        strata=tuple({} for _ in range(n_facts)), fact_idx=np.arange(n_facts),
        is_known=rng.random((n_facts, n_epochs)) < 0.5, logprob=none - 1, recall=none,
        loss=rng.random(n_epochs), perplexity=none[0],
        skills={"s": Skill(accuracy=items.mean(0), per_item=items)},
    )  # fmt: skip


def test_hindsight_on_noise_is_not_better_than_chance() -> None:
    naive, split, costs = [], [], []
    for seed in range(60):
        run = split_run(noise_series(seed), n_splits=4)
        naive.append(run.whole.knowledge.max())
        split.append(run.hindsight().knowledge)
        costs.append(run.replay(stopping_rule("lowest-loss")).cost)
    # 60 runs of 24 coins: a standard error of about .02.
    assert np.mean(naive) > 0.6
    assert np.mean(split) == pytest.approx(0.5, abs=0.05)
    assert np.mean(costs) == pytest.approx(0.0, abs=0.05)


def test_halves_share_no_entity_and_are_swapped() -> None:
    series = noise_series(0)
    run = split_run(series, n_splits=3)
    assert len(run.halves) == 6
    whole = series.is_known.mean(0)
    for (own, other), (swapped_own, swapped_other) in zip(
        run.halves[::2], run.halves[1::2], strict=True
    ):
        assert own is swapped_other
        assert other is swapped_own
        # Halves of equal size: knowledge and accuracy of the whole are their means.
        np.testing.assert_allclose((own.knowledge + other.knowledge) / 2, whole)
        np.testing.assert_allclose((own.ood + other.ood) / 2, series.skills["s"].accuracy)
    assert run.has_item_halves


def test_every_split_deals_the_entities_anew() -> None:
    run = split_run(noise_series(4, n_facts=96), n_splits=6)
    dealt = {tuple(own.knowledge.tolist()) for own, _ in run.halves}
    assert len(dealt) == 12  # 96 facts of noise: no two halves are alike
    again = split_run(noise_series(4, n_facts=96), n_splits=6)
    other = split_run(noise_series(4, n_facts=96), n_splits=6, seed=1)
    assert dealt == {tuple(own.knowledge.tolist()) for own, _ in again.halves}
    assert dealt.isdisjoint(tuple(own.knowledge.tolist()) for own, _ in other.halves)


def test_items_out_of_domain_are_dealt_to_the_halves_too() -> None:
    rng = np.random.default_rng(3)
    items = rng.random((10, 12)).round()
    skill = Skill(accuracy=items.mean(0), per_item=items)
    run = split_run(replace(noise_series(4), skills={"copying": skill}), n_splits=4)
    for own, other in run.halves:
        # Five items each, none in both: the two halves' means are those of all items together.
        np.testing.assert_allclose((own.ood + other.ood) / 2, items.mean(0))
        assert np.abs(own.ood - other.ood).max() > 0


def test_replay_equals_a_slow_twin() -> None:
    run = split_run(noise_series(7), n_splits=5)
    rule = stopping_rule("probe-peak", patience=2)
    knowledge, best, spent = [], [], []
    for own, other in run.halves:
        values = own.knowledge.tolist()
        stopped = len(values) - 1
        for t in range(len(values)):
            peak = values.index(max(values[: t + 1]))
            if t - peak >= 2:
                stopped = t
                break
        peak = values.index(max(values[: stopped + 1]))
        knowledge.append(other.knowledge[peak])
        spent.append(stopped)
        best.append(other.knowledge[values.index(max(values))])
    found = run.replay(rule)
    assert found.knowledge == pytest.approx(np.mean(knowledge))
    assert found.spent == pytest.approx(np.mean(spent))
    assert found.cost == pytest.approx(np.mean(best) - np.mean(knowledge))


def test_control_facts_do_not_vote() -> None:
    series = noise_series(1)
    strata = tuple({"split": "control" if i < 12 else "trained"} for i in range(24))
    run = split_run(replace(series, strata=strata))
    np.testing.assert_allclose(run.whole.knowledge, series.is_known[12:].mean(0))


def test_one_entity_cannot_be_split() -> None:
    run = split_run(replace(noise_series(2), entities=("e",) * 24))
    with pytest.raises(UsageError, match="has 1 entity; expected at least 2"):
        run.hindsight()
