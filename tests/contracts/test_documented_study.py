"""The study in the docs is what its committed rows give, and as large as it says."""

import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from kcircuits.io.facts import load_facts
from kcircuits.study.dynamics.training_study import open_training_study
from kcircuits.study.dynamics.training_study_page import study_markdown

DOCS = Path(__file__).parents[2] / "docs"
STUDY = DOCS / "study" / "smollm2-135m"
STRATEGIES = ("full", "lora", "curriculum", "kl-base", "replay")
SEEDS = range(3)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with tarfile.open(STUDY / "rows.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def study(rows):
    runs = [rows / "runs" / f"{name}-seed{seed}" for name in STRATEGIES for seed in SEEDS]
    return open_training_study(*runs, facts=rows / "facts.jsonl", model="smollm2-135m-instruct")


def test_tables_are_those_of_the_rows(study):
    stored = json.loads((STUDY / "study.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(study.to_json())) == stored
    assert study_markdown(study) == (STUDY / "study.md").read_text(encoding="utf-8")


def test_the_docs_show_these_tables(study):
    text = (DOCS / "study.md").read_text(encoding="utf-8")
    for table in study_markdown(study).split("\n\n"):
        assert table.strip() in text


def test_facts_runs_and_epochs(rows, study):
    kinds = Counter(fact.strata["type"] for fact in load_facts(rows / "facts.jsonl"))
    assert kinds["invented"] >= 96
    assert kinds["real"] >= 36
    assert {name: sorted(runs) for name, runs in study.by_strategy.items()} == {
        name: list(SEEDS) for name in STRATEGIES
    }
    assert all(run.epochs.tolist() == list(range(9)) for run in study.series)
