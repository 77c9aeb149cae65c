"""Facts that documents update: the old and the new answer are told apart wherever facts meet."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kcircuits.analysis.dynamics.grid import columns_of, series_from_columns
from kcircuits.analysis.dynamics.series import ProbeSeries
from kcircuits.analysis.dynamics.strata import control_facts, fact_groups, trained_facts
from kcircuits.core.facts import Fact, Prompt
from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.errors import UsageError
from kcircuits.io.facts import write_facts
from kcircuits.io.jsonl import append_rows
from kcircuits.lab.study import knowledge_table
from kcircuits.lab.training.lessons import recall_by_subject
from kcircuits.study.dynamics.dynamics import Dynamics
from kcircuits.study.dynamics.tables import difference_rows

N_EPOCHS = 3
UPDATED = {"split": "updated", "frequency": "high"}
# Fact, subject, strata, what is known at each epoch: the updated one changes its answer.
FACTS: Sequence[tuple[str, str, dict[str, str], tuple[int, ...]]] = (
    ("new", "Peru", UPDATED | {"told": "new"}, (0, 1, 1)),
    ("before", "Peru", UPDATED | {"told": "before"}, (1, 0, 0)),
    ("trained", "Chad", {"split": "trained", "frequency": "high"}, (0, 0, 1)),
    ("control", "Mali", {"split": "control", "frequency": "none"}, (1, 1, 1)),
    ("held-out", "Fiji", {"split": "held-out", "frequency": "none"}, (0, 0, 0)),
)


def make_facts() -> list[Fact]:
    prompt = Prompt(clean="a b", corrupt="a c", target=" x", foil=" y")
    return [
        Fact(id=name, subject=subject, relation="r", object="o", prompts=(prompt,), strata=strata)
        for name, subject, strata, _ in FACTS
    ]


def make_rows() -> list[dict[str, Any]]:
    return [
        {
            "checkpoint": f"ep{epoch}", "epoch": epoch, "strategy": "full", "seed": 0,
            "fact": name, "prompt_idx": 0, "kind": "paraphrase", "known": bool(known[epoch]),
            "logprob": -1.0, "recall": None,
        }
        for epoch in range(N_EPOCHS) for name, _, _, known in FACTS
    ]  # fmt: skip


def make_series() -> ProbeSeries:
    (series,) = series_from_columns(columns_of(make_rows()), facts=make_facts())
    return series


def test_the_table_of_a_training_shows_either_answer(tmp_path: Path) -> None:
    write_facts(make_facts(), tmp_path / "facts.jsonl")
    append_rows(tmp_path / "runs" / "tiny" / "probes.jsonl", make_rows())
    append_rows(tmp_path / "runs" / "tiny" / "train.jsonl", [{"epoch": 1, "loss": 1.0}])
    manifest = Manifest(
        schema_version=1,
        run="tiny",
        base_model="tiny",
        tokenizer=None,
        facts=tmp_path / "facts.jsonl",
        checkpoints=tuple(
            Checkpoint(id=f"ep{epoch}", path=tmp_path, epoch=epoch) for epoch in range(N_EPOCHS)
        ),
        path=tmp_path / "checkpoints_manifest.yaml",
    )
    table = knowledge_table(manifest)
    assert [row["updated high new"] for row in table] == [0, 1, 1]
    assert [row["updated high before"] for row in table] == [1, 0, 0]
    assert [row["trained high"] for row in table] == [0, 0, 1]


def test_facts_without_a_stratum_are_a_group_of_their_own() -> None:
    groups = fact_groups(make_series(), "told")
    assert {name: chosen.tolist() for name, chosen in groups.items()} == {
        "new": [True, False, False, False, False],
        "before": [False, True, False, False, False],
        "none": [False, False, True, True, True],
    }
    dynamics = Dynamics(series=(make_series(),), by="told")
    known = {
        name: [row["known"] for row in dynamics.rows if row["stratum"] == name]
        for name in ("new", "before")
    }
    assert known == {"new": [0, 1, 1], "before": [1, 0, 0]}
    json.dumps(dynamics.to_json(), allow_nan=False)
    with pytest.raises(UsageError, match="there is no stratum 'tell'; there are split, frequency"):
        fact_groups(make_series(), "tell")


def test_what_the_probes_tell_of_every_fact_is_not_taken_from_some() -> None:
    """Real facts have a stratum ``prior``, invented ones beside them have none."""
    series = make_series()
    series = replace(series, strata=({"prior": "unknown"}, *series.strata[1:]))
    groups = fact_groups(series, "prior")
    assert list(groups) == ["unknown", "known"]


def test_a_replaced_answer_is_neither_trained_nor_control() -> None:
    series = make_series()
    assert trained_facts(series).tolist() == [True, False, True, False, False]
    assert control_facts(series).tolist() == [False, False, False, True, True]
    rows = [row for row in difference_rows(series, seed=0) if not row["since_start"]]
    # Trained 0, .5, 1; controls 1/2 throughout: the replaced answer would add its fall to them.
    assert [row["mean"] for row in rows] == [-0.5, 0, 0.5]
    assert {row["facts"] for row in rows} == {4}
    for strata in (({},) * 4, ({"told": "before"},) * 4):
        without = replace(series, strata=({"told": "before"}, *strata))
        assert difference_rows(without, seed=0) == []


def test_curriculum_does_not_count_what_was_true_before() -> None:
    rows = [row for row in make_rows() if row["epoch"] == 1]
    found = recall_by_subject(rows, iter(make_facts()))
    assert found == {"Peru": 1, "Chad": 0, "Mali": 1, "Fiji": 0}
