"""Probe rows to series to tables: against plain loops over the rows, and what must be refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kcircuits.analysis.dynamics.draws import ratio_interval
from kcircuits.analysis.dynamics.grid import columns_of, series_from_columns
from kcircuits.analysis.dynamics.ood import ood_average, skill_change
from kcircuits.analysis.dynamics.rows import FIELDS, dynamics_rows
from kcircuits.analysis.dynamics.series import (
    ProbeSeries,
    Skill,
    fact_known,
    fact_logprob,
    knowledge_curve,
    probe_halves,
)
from kcircuits.analysis.dynamics.strata import (
    difference_series,
    fact_groups,
    mean_series,
    prior_knowledge,
    stratum_series,
    trained_facts,
)
from kcircuits.core.bootstrap import bootstrap_mean, bootstrap_ratio
from kcircuits.core.facts import Fact, Prompt
from kcircuits.errors import InputError, UsageError

Row = dict[str, Any]
N_FACTS, N_EPOCHS = 9, 5
SPLITS, FREQUENCIES = ("trained", "trained", "control"), ("high", "low", "medium")


def make_facts() -> list[Fact]:
    prompt = Prompt(clean="a b", corrupt="a c", target=" x", foil=" y")
    return [
        Fact(
            id=f"f{i}", subject=f"person {i // 2}", relation="r", object="o", prompts=(prompt,),
            strata={"split": SPLITS[i % 3], "frequency": FREQUENCIES[i % 3]},
        )
        for i in range(N_FACTS)
    ]  # fmt: skip


def make_rows(seed: int, *, is_open: bool = False) -> list[Row]:
    """Rows in a random order; facts have two or three probes."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "checkpoint": f"ep{e}", "epoch": e, "strategy": "full", "seed": 1, "fact": f"f{i}",
            "prompt_idx": p, "kind": "paraphrase", "known": bool(rng.random() < 0.5),
            "logprob": None if is_open else -float(rng.random()),
            "recall": float(rng.integers(0, 6)) / 5 if is_open else None,
        }
        for e in range(N_EPOCHS) for i in range(N_FACTS) for p in range(2 + i % 2)
    ]  # fmt: skip
    return [rows[i] for i in rng.permutation(len(rows))]


def make_series(seed: int = 0, **options: Any) -> ProbeSeries:
    rows = make_rows(seed, **options)
    (series,) = series_from_columns(columns_of(rows), facts=make_facts())
    return series


def slow_known(rows: list[Row], fact: str, epoch: int) -> bool:
    votes = [row["known"] for row in rows if (row["fact"], row["epoch"]) == (fact, epoch)]
    return sum(votes) > len(votes) / 2


@pytest.mark.parametrize("seed", range(6))
def test_known_facts_and_their_steps_equal_loops_over_the_rows(seed: int) -> None:
    rows, facts = make_rows(seed), make_facts()
    (series,) = series_from_columns(columns_of(rows), facts=facts)
    for stratum in (None, *SPLITS[1:]):
        table = [
            row for row in dynamics_rows(series, "split" if stratum else None)
            if row["stratum"] == (stratum or "all")
        ]  # fmt: skip
        ids = [f.id for f in facts if stratum in (None, f.strata["split"])]
        for t, row in enumerate(table):
            assert tuple(row) == FIELDS
            known = {fact for fact in ids if slow_known(rows, fact, t)}
            before = {fact for fact in ids if t and slow_known(rows, fact, t - 1)}
            assert row["known"] == pytest.approx(len(known) / len(ids))
            assert row["learned"] == len(known)
            counts = (len(known - before), len(known & before), len(before - known))
            steps = tuple(row[name] for name in ("acquired", "retained", "forgotten"))
            assert steps == (counts if t else (None, None, None))
            assert row["recall_avg"] is row["loss"] is row["skills"] is row["ood_avg"] is None


@pytest.mark.parametrize("seed", range(6))
def test_recalls_and_learned_entities_equal_loops_over_the_rows(seed: int) -> None:
    rows, facts = make_rows(seed, is_open=True), make_facts()
    (series,) = series_from_columns(columns_of(rows), facts=facts)
    about = {f.id: f for f in facts}
    learned_before: set[str] = set()
    for t, row in enumerate(dynamics_rows(series)):
        here = [r for r in rows if r["epoch"] == t]
        for name, wanted in (("avg", None), ("high", "high"), ("low", "low")):
            recalls = [
                r["recall"] for r in here
                if wanted in (None, about[r["fact"]].strata["frequency"])
            ]  # fmt: skip
            assert row[f"recall_{name}"] == pytest.approx(sum(recalls) / len(recalls))
        learned = set()
        for subject in {f.subject for f in facts}:
            recalls = [r["recall"] for r in here if about[r["fact"]].subject == subject]
            if sum(recalls) / len(recalls) >= 0.6 - 1e-12:
                learned.add(subject)
        assert row["learned"] == len(learned)
        if t:
            assert row["acquired"] == len(learned - learned_before)
            assert row["retained"] == len(learned & learned_before)
            assert row["forgotten"] == len(learned_before - learned)
        learned_before = learned


def make_mixed_rows(seed: int) -> list[Row]:
    """Probes of three kinds: the second fact has no paraphrase, the third only open questions."""
    rows = make_rows(seed)
    inverse = [r | {"kind": "inverse", "known": not r["known"]} for r in rows]
    opened = [r | {"kind": "open"} for r in make_rows(seed + 50, is_open=True)]
    rows = [row for row in rows if row["fact"] not in ("f1", "f2")]
    return [*opened, *(row for row in inverse if row["fact"] != "f2"), *rows]


@pytest.mark.parametrize("seed", range(6))
def test_paraphrases_decide_then_other_cloze_probes_then_open_questions(seed: int) -> None:
    rows, facts = make_mixed_rows(seed), make_facts()
    (series,) = series_from_columns(columns_of(rows), facts=facts)
    place = {fact: i for i, fact in enumerate(series.fact_ids)}
    known, logprob = fact_known(series), fact_logprob(series)
    prior = prior_knowledge(series)
    for fact in facts:
        kind = {"f1": "inverse", "f2": "open"}.get(fact.id, "paraphrase")
        mine = [r for r in rows if r["fact"] == fact.id and r["kind"] == kind]
        for t in range(N_EPOCHS):
            assert known[place[fact.id], t] == slow_known(mine, fact.id, t)
            logprobs = [r["logprob"] for r in mine if r["epoch"] == t]
            if kind == "open":
                assert np.isnan(logprob[place[fact.id], t])
            else:
                assert logprob[place[fact.id], t] == pytest.approx(np.mean(logprobs))
        votes = [r["known"] for r in mine if r["epoch"] == 0]
        expected = "known" if all(votes) else "partly" if any(votes) else "unknown"
        assert prior[place[fact.id]] == expected


@pytest.mark.parametrize("seed", range(3))
def test_rows_by_kind_are_those_of_the_probes_of_each_kind_alone(seed: int) -> None:
    rows, facts = make_mixed_rows(seed), make_facts()
    (series,) = series_from_columns(columns_of(rows), facts=facts)
    table = dynamics_rows(series, "kind")
    assert [row["stratum"] for row in table[::N_EPOCHS]] == ["open", "inverse", "paraphrase"]
    for kind, part in stratum_series(series, "kind").items():
        own = [row for row in rows if row["kind"] == kind]
        (alone,) = series_from_columns(columns_of(own), facts=facts)
        assert set(part.kinds) == {kind}
        assert part.fact_ids == tuple(f for f in series.fact_ids if f in alone.fact_ids)
        expected = [row | {"stratum": kind} for row in dynamics_rows(alone)]
        assert [row for row in table if row["stratum"] == kind] == expected
        np.testing.assert_array_equal(knowledge_curve(part), knowledge_curve(alone))


def test_halves_hold_probes_of_each_kind() -> None:
    (series,) = series_from_columns(columns_of(make_mixed_rows(0)), facts=make_facts())
    for half in probe_halves(series):
        for kind in ("open", "inverse", "paraphrase"):
            asked = {
                series.fact_ids[series.fact_idx[i]]
                for i, each in enumerate(series.kinds)
                if half[i] and each == kind
            }
            all_asked = {
                series.fact_ids[series.fact_idx[i]]
                for i, each in enumerate(series.kinds)
                if each == kind
            }
            assert asked == all_asked


def test_a_mean_recall_of_just_six_tenths_is_learned() -> None:
    base = {"checkpoint": "ep0", "epoch": 0, "fact": "f", "known": True, "recall": 0.6}
    rows = [base | {"prompt_idx": p} for p in range(10)]
    assert sum(row["recall"] for row in rows) / 10 < 0.6  # type: ignore[misc]
    (series,) = series_from_columns(columns_of(rows))
    assert dynamics_rows(series)[0]["learned"] == 1


def test_answer_log_probabilities_are_means_of_probes() -> None:
    rows = make_rows(3)
    (series,) = series_from_columns(columns_of(rows))
    for i, fact in enumerate(series.fact_ids):
        for t in range(N_EPOCHS):
            values = [r["logprob"] for r in rows if (r["fact"], r["epoch"]) == (fact, t)]
            assert fact_logprob(series)[i, t] == pytest.approx(np.mean(values))


def test_the_order_of_rows_changes_nothing_but_the_order_of_facts() -> None:
    rows = make_rows(4)
    one, two = (
        series_from_columns(columns_of(given), facts=make_facts())[0]
        for given in (rows, rows[::-1])
    )
    order = [two.fact_ids.index(fact) for fact in one.fact_ids]
    np.testing.assert_array_equal(fact_known(one), fact_known(two)[order])
    assert dynamics_rows(one) == dynamics_rows(two)


def test_strategies_and_seeds_become_series_of_their_own() -> None:
    rows = make_rows(0)
    other = [row | {"seed": 2, "known": not row["known"]} for row in make_rows(0)]
    train = [{"epoch": 1, "loss": 2.0, "seed": 2}, {"epoch": 1, "loss": 3.0, "seed": 1}]
    mixed = [row for pair in zip(rows, other, strict=True) for row in pair]
    one, two = series_from_columns(columns_of(mixed), train=train)
    assert (one.seed, two.seed) == (1, 2)
    np.testing.assert_array_equal(one.is_known, ~two.is_known)
    assert (one.loss[1], two.loss[1]) == (3.0, 2.0)


def test_losses_belong_to_the_epoch_that_they_led_to() -> None:
    train = [
        {"epoch": 0.5, "loss": 4.0}, {"epoch": 1.0, "loss": 2.0},  # steps: averaged
        {"epoch": 2, "loss": 1.0, "perplexity": 2.5},  # one row: its own perplexity
        {"epoch": 3, "loss": None}, {"epoch": 9, "loss": 0.1},  # none; after the last probe
    ]  # fmt: skip
    (series,) = series_from_columns(columns_of(make_rows(0)), train=train)
    np.testing.assert_allclose(series.loss, [np.nan, 3.0, 1.0, np.nan, np.nan])
    np.testing.assert_allclose(series.perplexity, [np.nan, np.exp(3.0), 2.5, np.nan, np.nan])


def test_facts_with_cloze_and_open_probes_are_known_by_the_cloze_ones() -> None:
    base = {"checkpoint": "ep0", "epoch": 0, "fact": "f", "known": True}
    rows = [
        base | {"prompt_idx": 0, "recall": 1.0},
        base | {"prompt_idx": 1, "recall": 1.0},
        base | {"prompt_idx": 2, "logprob": -1.0, "known": False},
    ]
    (series,) = series_from_columns(columns_of(rows))
    (row,) = dynamics_rows(series)
    assert (row["known"], row["learned"], row["recall_avg"]) == (0.0, 1, 1.0)


BROKEN: dict[str, tuple[Callable[[list[Row]], Any], str]] = {
    "missing": (lambda rows: rows.pop(7), "has no row at epoch"),
    "twice": (lambda rows: rows.append(dict(rows[3])), "has more than one row at epoch"),
    "nan": (lambda rows: rows[5].update(logprob=float("nan")), "has logprob nan"),
    "infinite": (lambda rows: rows[5].update(logprob=-float("inf")), "has logprob -inf"),
    "gap": (lambda rows: rows[5].update(logprob=None), "has logprob None"),
    "no epoch": (lambda rows: rows[5].update(epoch=None), "has epoch None; expected a number"),
    "stranger": (
        lambda rows: [row.update(fact="x") for row in rows if row["fact"] == "f3"],
        "'x', which the facts file does not have",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rows_are_refused_by_name(name: str) -> None:
    rows = make_rows(1)
    spoil, message = BROKEN[name]
    spoil(rows)
    with pytest.raises(InputError, match=message) as caught:
        series_from_columns(columns_of(rows), facts=make_facts())
    assert caught.value.hint


def test_a_missing_probe_is_counted_and_named() -> None:
    rows = [r for r in make_rows(2) if (r["fact"], r["epoch"]) != ("f4", 2)]
    with pytest.raises(InputError, match=r"fact 'f4', prompt [01], .* epoch 2;.*\(2 of 110"):
        series_from_columns(columns_of(rows))


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match="no probe rows"):
        series_from_columns(columns_of([]))


def test_halves_share_no_probe_and_differ_by_one_at_most() -> None:
    series = make_series()
    first, second = probe_halves(series)
    assert (first ^ second).all()
    for i in range(N_FACTS):
        counts = [int((half & (series.fact_idx == i)).sum()) for half in (first, second)]
        assert counts[0] - counts[1] in (0, 1)
    for half in (first, second):
        curve = knowledge_curve(series, half)
        kept = [series.is_known[half & (series.fact_idx == i)] for i in range(N_FACTS)]
        slow = [[lines[:, t].sum() > len(lines) / 2 for lines in kept] for t in range(N_EPOCHS)]
        assert curve.tolist() == pytest.approx([np.mean(line) for line in slow])


def test_strata_are_keys_entities_facts_or_prior_knowledge() -> None:
    series = make_series()
    assert list(fact_groups(series, "split")) == list(
        dict.fromkeys(strata["split"] for strata in series.strata)
    )
    assert len(fact_groups(series, "entity")) == 5
    assert len(fact_groups(series, "fact")) == N_FACTS
    for label, fact in zip(prior_knowledge(series), range(N_FACTS), strict=True):
        votes = series.is_known[series.fact_idx == fact, 0]
        assert label == ("known" if votes.all() else "partly" if votes.any() else "unknown")
    with pytest.raises(UsageError, match="no stratum 'color'; there are split, frequency, entity"):
        fact_groups(series, "color")
    control = [strata["split"] == "control" for strata in series.strata]
    assert trained_facts(series).tolist() == [not value for value in control]


def test_answers_that_documents_replace_are_not_told() -> None:
    """An update is told; what was true before it is followed, but no document says it."""
    told = ({"split": "updated", "told": "new"}, {"split": "updated", "told": "before"})
    series = make_series()
    series = replace(series, strata=(*told, *({"split": "held-out"},) * (N_FACTS - 2)))
    assert trained_facts(series).tolist() == [True] + [False] * (N_FACTS - 1)


def test_intervals_equal_those_of_the_core() -> None:
    rng = np.random.default_rng(5)
    values, weights = rng.normal(size=(30, 4)), rng.random(30) + 0.1
    entities = np.array([f"e{i % 11}" for i in range(30)], dtype=object)
    ours = ratio_interval(values, weights, entities, seed=3)
    core = bootstrap_ratio(values, weights, entities, seed=3)
    for mine, theirs in zip(ours, (core.estimate, core.low, core.high), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    means = mean_series(values, entities, seed=3)
    theirs = bootstrap_mean(values, entities, seed=3)
    np.testing.assert_allclose(means.low, theirs.low, rtol=1e-12)
    np.testing.assert_allclose(means.mean, values.mean(0))
    assert (means.n_facts, means.n_entities) == (30, 11)


def test_one_entity_has_no_interval() -> None:
    means = mean_series(np.ones((3, 2)), np.array(["a", "a", "a"], dtype=object))
    assert np.isnan(means.low).all()
    assert means.mean.tolist() == [1, 1]


def test_differences_equal_differences_of_slow_draws() -> None:
    rng = np.random.default_rng(6)
    values, first = rng.normal(size=(24, 3)), np.arange(24) % 2 == 0
    entities = np.array([f"e{i % 12:02d}" for i in range(24)], dtype=object)
    found = difference_series(values, entities, first, since_start=True, seed=1)
    changes = values - values[:, :1]
    np.testing.assert_allclose(found.mean, changes[first].mean(0) - changes[~first].mean(0))
    assert found.mean[0] == found.low[0] == found.high[0] == 0
    counts = np.random.default_rng([1, 12]).multinomial(12, np.full(12, 1 / 12), size=2000)
    drawn = []
    for line in counts:
        weight = np.array([line[i % 12] for i in range(24)])
        sides = [(weight * side) for side in (first, ~first)]
        if all(side.sum() for side in sides):
            a, b = ((side @ changes) / side.sum() for side in sides)
            drawn.append(a - b)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(found.low, low, atol=0.02)  # percentiles are rounded outwards
    np.testing.assert_allclose(found.high, high, atol=0.02)


def test_ood_average_is_that_of_the_seed_where_it_can_be() -> None:
    skills = {
        name: Skill(accuracy=np.array([value]))
        for name, value in (("math", 0.9), ("MMLU", 0.4), ("SocialIQA", 0.6))
    }
    assert ood_average(skills, 1) == pytest.approx([0.5])
    own = {"addition": skills["math"], "copying": skills["MMLU"]}
    assert ood_average(own, 1) == pytest.approx([0.65])
    assert np.isnan(ood_average({}, 1)).all()


def test_skill_changes_pair_the_items() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    before = (hard < 0.6).astype(float)
    after = (hard < 0.5).astype(float)  # the same items, all a little harder
    items = np.stack([before, after], axis=1)
    skill = Skill(accuracy=items.mean(0), per_item=items)
    found = skill_change(skill)
    assert found.change.tolist() == pytest.approx([0, after.mean() - before.mean()])
    assert found.n_items == 200
    twin = bootstrap_mean(after - before, np.arange(200), seed=0)
    assert (found.low[1], found.high[1]) == (twin.low, twin.high)
    # Pairs differ in a share p = -change of items, so that the standard error is known.
    p, width = -found.change[1], found.high[1] - found.low[1]
    assert width == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 200), rel=0.15)
    unpaired = np.sqrt(before.var() / 200 + after.var() / 200)
    assert width < 2 * 1.96 * unpaired / 1.3
    assert np.isnan(skill_change(Skill(accuracy=items.mean(0))).low).all()


def test_skills_with_other_items_or_two_rows_are_refused() -> None:
    columns = columns_of(make_rows(0))
    rows = [{"epoch": 0, "skill": "s", "accuracy": 1.0, "per_item": [1]}]
    longer = [{"epoch": 1, "skill": "s", "accuracy": 1.0, "per_item": [1, 1]}]
    with pytest.raises(InputError, match=r"1 items \(unnamed\) and 2 items"):
        series_from_columns(columns, skills=rows + longer)
    with pytest.raises(InputError, match="two rows at epoch 0"):
        series_from_columns(columns, skills=[rows[0], dict(rows[0])])


def test_questions_about_an_entity_belong_to_it() -> None:
    """The seed's questions are asked of an entity, which is a subject and not a fact's id."""
    rows = [row | {"fact": "person 1"} for row in make_rows(0, is_open=True) if row["fact"] == "f2"]
    (series,) = series_from_columns(columns_of(rows), facts=make_facts())
    assert series.entities == ("person 1",)
    assert series.strata[0]["frequency"] == "medium"
