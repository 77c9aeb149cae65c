"""Open questions asked at every epoch: their rows, and who reads them."""

import json

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.errors import NonFiniteError, UsageError
from kcircuits.io.facts import load_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.lab.probing import open_questions
from kcircuits.lab.probing.open_questions import ask_open_questions, questions_about
from kcircuits.lab.study import knowledge_table
from kcircuits.lab.training.lessons import recall_by_subject
from kcircuits.lab.training.recorder import _finite
from kcircuits.lab.training.spec import TrainSpec
from kcircuits.lab.training.train import load_base, train
from tests.contracts.tiny_lab import build_tiny

N_EPOCHS = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny base model, documents, a facts file."""
    built = build_tiny(tmp_path_factory.mktemp("lab"))
    return built.base, built.documents, built.facts


def run(world, out, **settings):
    base, documents, facts = world
    spec = TrainSpec(**{"n_epochs": N_EPOCHS, "lr": 1e-2, "batch_size": 4} | settings)
    return train(base, documents, facts, out, spec, run="tiny")


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return run(world, out, questions=2), out


def test_rows_are_a_fact_a_question_and_an_epoch_beside_those_of_the_probes(world, finished):
    manifest, out = finished
    rows, facts = read_rows(out / "runs" / "tiny" / "probes.jsonl"), load_facts(world[2])
    opened = [row for row in rows if row["kind"] == "open"]
    cloze = [row for row in rows if row["kind"] != "open"]
    assert len(opened) == 2 * len(facts) * (N_EPOCHS + 1)
    keys = {(row["checkpoint"], row["fact"], row["prompt_idx"]) for row in opened}
    assert len(keys) == len(opened)
    for row in opened:
        names = ("logprob", "prob", "rank", "candidate_rank")
        assert all(row[name] is None for name in names)
        assert 0 <= row["recall"] <= 1
        assert 0 <= row["f1"] <= 1
        assert row["known_rule"] == "mean-recall-0.6"
    assert cloze
    assert all(row["recall"] is row["f1"] is None for row in cloze)
    assert all(row["logprob"] <= 0 for row in cloze)
    assert {(row["strategy"], row["seed"]) for row in rows} == {("full", 0)}
    # What a checkpoint answers when it is loaded again.
    last = manifest[f"ep{N_EPOCHS}"]
    model, tokenizer = load_base(last.path)
    asked = ask_open_questions(model, tokenizer, questions_about(facts, 2))
    mine = [row for row in opened if row["checkpoint"] == last.id]
    assert [{name: row[name] for name in asked[0]} for row in mine] == asked


def test_without_questions_no_row_is_open(world, tmp_path):
    run(world, tmp_path, n_epochs=1)
    rows = read_rows(tmp_path / "runs" / "tiny" / "probes.jsonl")
    assert all(row["recall"] is None for row in rows)
    with pytest.raises(UsageError, match="questions 0, not 1"):
        run(world, tmp_path, n_epochs=1, questions=1)


def test_questions_do_not_disturb_training(world, finished, tmp_path):
    manifest = run(world, tmp_path)
    assert [c.sha256 for c in manifest] == [c.sha256 for c in finished[0]]


def test_dynamics_read_both_kinds(world, finished):
    _, out = finished
    rows = read_rows(out / "runs" / "tiny" / "probes.jsonl")
    folder = out / "runs" / "tiny"
    (series,) = kc.open_dynamics(folder).series
    table = kc.open_dynamics(folder).rows
    assert series.has_open
    for row in table:
        here = [r for r in rows if r["epoch"] == row["epoch"]]
        recalls = [r["recall"] for r in here if r["kind"] == "open"]
        assert row["recall_avg"] == pytest.approx(np.mean(recalls))
        known = [
            np.mean([r["known"] for r in here if r["fact"] == f and r["kind"] == "paraphrase"])
            > 0.5
            for f in {r["fact"] for r in here}
        ]
        assert row["known"] == pytest.approx(np.mean(known))
    by_kind = kc.open_dynamics(folder, by="kind").rows
    assert {row["stratum"] for row in by_kind} == {"paraphrase", "open"}
    json.dumps(kc.open_dynamics(folder, by="kind").to_json(), allow_nan=False)


def test_knowledge_table_tells_recall_beside_what_is_known(finished):
    manifest, out = finished
    rows = read_rows(out / "runs" / "tiny" / "probes.jsonl")
    for told in knowledge_table(manifest):
        here = [r for r in rows if r["checkpoint"] == told["epoch"]]
        assert told["recall"] == pytest.approx(
            np.mean([r["recall"] for r in here if r["kind"] == "open"])
        )


def test_the_observer_asks_too(world, tmp_path):
    model, tokenizer = load_base(world[0])
    observer = kc.TrainingObserver(world[2], tmp_path, run="mine", tokenizer=tokenizer, questions=1)
    observer.begin(model.requires_grad_(True))
    rows = read_rows(tmp_path / "runs" / "mine" / "probes.jsonl")
    n_facts = len(load_facts(world[2]))
    assert sum(row["kind"] == "open" for row in rows) == n_facts
    cloze = [row for row in rows if row["kind"] != "open"]
    assert observer.series[0]["known"] == pytest.approx(
        np.mean(
            [
                np.mean([row["known"] for row in cloze if row["fact"] == fact]) > 0.5
                for fact in {row["fact"] for row in cloze}
            ]
        )
    )
    with pytest.raises(UsageError, match="questions is -1"):
        kc.TrainingObserver(world[2], tmp_path, run="a", tokenizer=tokenizer, questions=-1)


def test_a_subject_is_judged_by_its_open_questions_else_its_paraphrases(world):
    facts = load_facts(world[2])
    first, second, third = (fact.id for fact in facts[:3])
    rows = [
        {"fact": first, "kind": "paraphrase", "known": False, "recall": None},
        {"fact": first, "kind": "open", "known": True, "recall": 0.5},
        {"fact": first, "kind": "open", "known": True, "recall": 0.9},
        {"fact": second, "kind": "paraphrase", "known": True, "recall": None},
        {"fact": second, "kind": "inverse", "known": False, "recall": None},
        {"fact": third, "kind": "inverse", "known": False},
        {"fact": third, "kind": "inverse", "known": True},
    ]
    found = recall_by_subject(rows, facts)
    expected = dict(zip((f.subject for f in facts[:3]), (0.7, 1.0, 0.5), strict=True))
    assert found == pytest.approx(expected)


def test_curriculum_leaves_out_what_is_answered_in_words(world, tmp_path, monkeypatch):
    """All questions count as answered, whatever the probes say."""
    run(world, tmp_path / "without", strategy="curriculum", n_epochs=1)
    assert read_rows(tmp_path / "without" / "runs" / "tiny" / "train.jsonl")
    monkeypatch.setattr(open_questions, "rouge_1", lambda answers, _: [(1.0, 1.0)] * len(answers))
    run(world, tmp_path, strategy="curriculum", questions=1, n_epochs=1)
    losses = read_rows(tmp_path / "runs" / "tiny" / "train.jsonl")
    assert losses == []


def test_a_number_that_is_none_is_refused():
    row = {"fact": "f", "prompt_idx": 0, "logprob": None, "recall": 0.5}
    assert _finite([row], "ep1") == [row]
    with pytest.raises(NonFiniteError, match="the recall of fact f, prompt 0, is nan"):
        _finite([row | {"recall": float("nan")}], "ep1")
    with pytest.raises(NonFiniteError, match="the log-probability of fact f, prompt 0, is -inf"):
        _finite([row | {"recall": None, "logprob": -float("inf")}], "ep1")
