"""A study of strategies against loops over rows made by hand, and what it must refuse."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from kcircuits.analysis.dynamics.measures import (
    MEASURES,
    controls_lost,
    dropped_probes,
    forgetting_rate,
    forgotten_share,
    ood_early,
    relearned_share,
)
from kcircuits.analysis.dynamics.seeds import seed_mean
from kcircuits.core.facts import Fact, Prompt
from kcircuits.errors import UsageError
from kcircuits.io.facts import write_facts
from kcircuits.study.dynamics.dynamics import open_dynamics
from kcircuits.study.dynamics.training_study import open_training_study
from kcircuits.study.dynamics.training_study_page import study_markdown, training_study_page

N_EPOCHS, N_PROBES = 5, 2
STRATEGIES, SEEDS = ("full", "replay"), (0, 1, 2)
SPLITS = ("trained", "trained", "control", "trained", "held-out", "control")


def make_facts() -> list[Fact]:
    prompt = Prompt(clean="a b", corrupt="a c", target=" x", foil=" y")
    return [
        Fact(
            id=f"f{i}",
            subject=f"person {i // 2}",
            relation="r",
            object="o",
            prompts=(prompt, prompt),
            strata={"split": split, "frequency": ("high", "low")[i % 2]},
        )
        for i, split in enumerate(SPLITS * 2)
    ]


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    """Runs with random rows; the same strategy and seed have the same rows in every test."""
    write_facts(tuple(make_facts()), tmp_path / "facts.jsonl")
    for strategy, seed in itertools.product(STRATEGIES, SEEDS):
        write_run(tmp_path / "runs" / f"{strategy}-seed{seed}", strategy, seed)
    return tmp_path


def write_run(folder: Path, strategy: str, seed: int, n_epochs: int = N_EPOCHS) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng([STRATEGIES.index(strategy), seed])
    probes = [
        {
            "checkpoint": f"ep{e}",
            "epoch": e,
            "strategy": strategy,
            "seed": seed,
            "fact": fact.id,
            "prompt_idx": p,
            "kind": "paraphrase",
            "known": bool(rng.random() < 0.8),
            "logprob": -3 * float(rng.random()),
        }
        for e in range(n_epochs)
        for fact in make_facts()
        for p in range(N_PROBES)
    ]
    losses = [{"epoch": e, "loss": 3 - 0.5 * e + 0.1 * rng.random()} for e in range(1, n_epochs)]
    skills = [
        {"epoch": e, "skill": name, "accuracy": float(rng.random())}
        for e in range(n_epochs)
        for name in ("addition", "copying")
    ]
    for name, rows in (("probes", probes), ("train", losses), ("skills", skills)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def slow_known(probes: list[dict[str, Any]]) -> dict[str, list[bool]]:
    """More than half of a fact's probes, epoch by epoch."""
    found = {}
    for fact in make_facts():
        line = []
        for e in range(N_EPOCHS):
            votes = [r["known"] for r in probes if r["fact"] == fact.id and r["epoch"] == e]
            line.append(sum(votes) > len(votes) / 2)
        found[fact.id] = line
    return found


def slow_measures(folder: Path) -> dict[str, float]:
    """What can be said in plain loops."""
    probes = rows_of(folder, "probes")
    known, split = slow_known(probes), {f.id: f.strata["split"] for f in make_facts()}
    told = [line for fact, line in known.items() if split[fact] == "trained"]
    controls = [line for fact, line in known.items() if split[fact] == "control"]
    shares = [sum(line[e] for line in told) / len(told) for e in range(N_EPOCHS)]
    loss = {r["epoch"]: r["loss"] for r in rows_of(folder, "train")}
    ood = []
    for e in range(N_EPOCHS):
        here = [r["accuracy"] for r in rows_of(folder, "skills") if r["epoch"] == e]
        ood.append(sum(here) / len(here))
    steps = [(line[e], line[e + 1]) for line in told for e in range(N_EPOCHS - 1)]
    lost = [(a, b) for a, b in steps if a]
    series: dict[tuple[str, int], list[float]] = {}
    for row in probes:
        if split[row["fact"]] == "trained":
            series.setdefault((row["fact"], row["prompt_idx"]), []).append(row["logprob"])
    dropped = [any(b - a < -0.5 for a, b in itertools.pairwise(line)) for line in series.values()]
    diverging = [
        loss[e] < loss[e - 1] and not shares[e] > shares[e - 1] for e in range(2, N_EPOCHS)
    ]
    lowest = min(loss, key=lambda e: loss[e])
    return {
        "loss_fall": loss[1] - loss[N_EPOCHS - 1],
        "known_last": shares[-1],
        "known_best": max(shares),
        "diverging": sum(diverging) / len(diverging),
        "regret": max(shares) - shares[lowest],
        "dropped_probes": sum(dropped) / len(dropped),
        "forgetting_rate": sum(not b for _, b in lost) / len(lost),
        "controls_lost": sum(not line[-1] for line in controls if line[0])
        / sum(line[0] for line in controls),
        "ood_first": ood[1] - ood[0],
        "ood_last": ood[-1] - ood[0],
    }


def test_measures_equal_loops_over_the_rows(study_folder: Path) -> None:
    for folder in sorted((study_folder / "runs").iterdir()):
        (series,) = open_dynamics(folder, facts=study_folder / "facts.jsonl").series
        for name, value in slow_measures(folder).items():
            assert MEASURES[name][1](series) == pytest.approx(value, abs=1e-12), name


def test_forgetting_is_counted_as_in_cases_worked_out_by_hand() -> None:
    known = np.array(
        [
            [0, 1, 0, 1, 1],  # forgotten once, known again
            [0, 1, 1, 1, 0],  # forgotten on the last step: nothing could come after
            [1, 0, 0, 0, 0],  # forgotten for good
            [0, 0, 0, 0, 1],  # known at the last epoch alone: could not be forgotten
            [0, 0, 0, 0, 0],
        ],
        dtype=bool,
    )
    assert forgotten_share(known) == pytest.approx(3 / 3)
    assert forgetting_rate(known) == pytest.approx(3 / 6)
    assert relearned_share(known) == pytest.approx(1 / 2)


def test_measures_without_anything_to_count_have_no_number(study_folder: Path) -> None:
    never = np.zeros((3, 4), dtype=bool)
    assert np.isnan([forgotten_share(never), forgetting_rate(never), relearned_share(never)]).all()
    folder = study_folder / "runs" / "full-seed0"
    (folder / "skills.jsonl").unlink()
    (series,) = open_dynamics(folder).series  # no facts file: no controls
    assert np.isnan(controls_lost(series))
    assert np.isnan(ood_early(series))
    assert 0 <= dropped_probes(series) <= 1


def test_seeds_give_students_interval_from_three_on() -> None:
    values = np.array([0.2, 0.5, np.nan, 0.3])
    found, kept = seed_mean(values), values[[0, 1, 3]]
    low, high = stats.t.interval(0.95, 2, kept.mean(), stats.sem(kept))
    assert (found.mean, found.low, found.high) == pytest.approx((kept.mean(), low, high), rel=1e-5)
    assert found.n_seeds == 3
    assert np.isnan(seed_mean(values[:2]).low)
    assert np.isnan(seed_mean(np.array([np.nan])).mean)


def test_tables_of_a_study_are_means_over_its_runs(study_folder: Path) -> None:
    study = open_study(study_folder)
    slow = {
        (strategy, seed): slow_measures(study_folder / "runs" / f"{strategy}-seed{seed}")
        for strategy, seed in itertools.product(STRATEGIES, SEEDS)
    }
    for row in study.measures:
        name, strategy = row["measure"], row["strategy"]
        if name not in slow[strategy, 0]:
            continue
        mine = np.array([slow[strategy, seed][name] for seed in SEEDS])
        theirs = np.array([slow["full", seed][name] for seed in SEEDS])
        assert row["mean"] == pytest.approx(mine.mean(), abs=1e-12)
        assert row["difference"] == pytest.approx((mine - theirs).mean(), abs=1e-12)
        if strategy == "replay":
            error = stats.sem(mine - theirs) * stats.t.ppf(0.975, 2)
            assert row["difference_high"] - row["difference"] == pytest.approx(error, rel=1e-5)
    assert len(study.epochs) == len(STRATEGIES) * N_EPOCHS
    last = study.epochs[N_EPOCHS - 1]
    expected = np.mean([slow["full", seed]["known_last"] for seed in SEEDS])
    assert (last["strategy"], last["epoch"]) == ("full", N_EPOCHS - 1)
    assert last["known"] == pytest.approx(expected, abs=1e-12)


def test_strata_are_means_over_seeds_of_the_facts_of_a_split(study_folder: Path) -> None:
    study = open_study(study_folder)
    rows = {
        (row["strategy"], row["split"], row["value"], row["epoch"]): row for row in study.strata
    }
    known = [slow_known(rows_of(study_folder / "runs" / f"full-seed{s}", "probes")) for s in SEEDS]
    for value in ("all", "high", "low"):
        chosen = [
            fact.id
            for fact in make_facts()
            if fact.strata["split"] == "trained" and value in ("all", fact.strata["frequency"])
        ]
        row = rows["full", "trained", value, 3.0]
        expected = np.mean([line[fact][3] for line in known for fact in chosen])
        assert row["mean"] == pytest.approx(expected, abs=1e-12)
        assert row["facts"] == len(chosen)


def test_the_page_and_the_tables_hold_every_strategy(study_folder: Path) -> None:
    study = open_study(study_folder)
    json.dumps(study.to_json(), allow_nan=False)
    text, page = study_markdown(study), training_study_page(study, "tiny")
    for strategy in STRATEGIES:
        assert f"`{strategy}`" in text
        assert strategy in page
    assert {row["rule"] for row in study.rules} >= {"lowest-loss", "probe-peak"}
    mean = np.mean(
        [row["cost"] for row in study.stopping.rows if row["rule"] == "probe-peak"][: len(SEEDS)]
    )
    found = next(row for row in study.rules if row["rule"] == "probe-peak")
    assert found["cost"] == pytest.approx(mean, abs=1e-12)


def test_runs_that_cannot_be_compared_are_refused(study_folder: Path) -> None:
    with pytest.raises(UsageError, match="no run has the strategy 'lora'"):
        open_study(study_folder, reference="lora")
    folder = study_folder / "runs" / "full-seed7"
    write_run(folder, "full", 7, n_epochs=3)
    with pytest.raises(UsageError, match=r"full, seed 7 has epochs up to 2, .* up to 4"):
        open_study(study_folder)


def open_study(folder: Path, **options: Any) -> Any:
    runs = sorted((folder / "runs").iterdir())
    return open_training_study(*runs, facts=folder / "facts.jsonl", **options)
