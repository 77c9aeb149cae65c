"""Every strategy trains, resumes, and shows what it says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kcircuits.analysis.dynamics.series import LEARNED_RECALL
from kcircuits.cli.lab_train import STRATEGY_HELP
from kcircuits.errors import UsageError
from kcircuits.io.facts import load_facts
from kcircuits.lab.presets import PRESETS
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.training import train as training
from kcircuits.lab.training.general_text import N_TOKENS, sample_texts
from kcircuits.lab.training.lessons import Lessons, recall_by_subject
from kcircuits.lab.training.spec import TrainSpec
from tests.contracts.test_lab_train import KilledError, killed_in, rows_of, run, world

__all__ = ["world"]  # the fixture


@pytest.mark.parametrize(
    "name", [n for n, each in STRATEGIES.items() if each.is_training and n not in ("full", "lora")]
)
def test_a_strategy_trains_and_resumes_to_the_same_weights(
    name: str, world: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(world, tmp_path / "whole", strategy=name)
    assert [checkpoint.id for checkpoint in whole] == ["ep0", "ep1", "ep2", "ep3"]
    with monkeypatch.context() as patch:
        killed_in(patch, "write_manifest", 4)
        with pytest.raises(KilledError):
            run(world, tmp_path / "killed", strategy=name)
    again = run(world, tmp_path / "killed", strategy=name)
    assert [c.sha256 for c in again] == [c.sha256 for c in whole]
    assert rows_of(tmp_path / "killed", "probes.jsonl") == rows_of(
        tmp_path / "whole", "probes.jsonl"
    )
    losses = [row["loss"] for row in rows_of(tmp_path / "whole", "train.jsonl")]
    assert losses[-1] < losses[0]


def test_strategies_differ(world: Any, tmp_path: Any) -> None:
    """Each gives other weights than plain LoRA: what it adds reaches the training."""
    known = {
        name: [c.sha256 for c in run(world, tmp_path / name, strategy=name)]
        for name in ("lora", "annotated", "kl-base", "kl-previous", "main-docs")
    }
    assert len({hashes[0] for hashes in known.values()}) == 1  # the untrained model
    assert len({hashes[-1] for hashes in known.values()}) == len(known)
    # In the first epoch both anchors are the untrained model, pulled to with other weights.
    assert known["kl-base"][1] != known["kl-previous"][1]


def lessons_of(world: Any, name: str, **changes: Any) -> Lessons:
    base, documents, _ = world
    model, tokenizer = training.load_base(base)
    return Lessons(replace(STRATEGIES[name], **changes), documents, model, tokenizer, 0)


def test_a_curriculum_leaves_out_what_is_learned(world: Any) -> None:
    base, documents, facts = world
    lessons, subject = lessons_of(world, "curriculum"), documents[0].subject
    assert len(lessons.rows(1, {})) == len(documents)
    about = sum(document.subject == subject for document in documents)
    assert len(lessons.rows(2, {subject: LEARNED_RECALL})) == len(documents) - about
    assert len(lessons.rows(3, {subject: LEARNED_RECALL - 0.01})) == len(documents)
    assert lessons.rows(4, {document.subject: 1.0 for document in documents}) == []
    del base, facts


def test_an_epoch_without_lessons_keeps_the_weights(
    world: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = {document.subject: 1.0 for document in world[1]}
    monkeypatch.setattr(training, "recall_by_subject", lambda *_: everyone)
    manifest = run(world, tmp_path, strategy="curriculum")
    assert len({checkpoint.sha256 for checkpoint in manifest}) == 1
    assert len(manifest.checkpoints) == 4
    assert rows_of(tmp_path, "train.jsonl") == []


def test_annotated_documents_are_shown_with_tags(world: Any) -> None:
    _, tokenizer = training.load_base(world[0])
    shown = lessons_of(world, "annotated").rows(1, {})
    assert shown == tokenizer([document.tagged for document in world[1]])["input_ids"]
    for document in world[1]:
        assert f"<PERSON> {document.subject} </>" in document.tagged
        bare = document.tagged.replace("<PERSON> ", "").replace("<PLACE> ", "").replace(" </>", "")
        assert bare == document.text
    untagged = [replace(document, tagged="") for document in world[1]]
    with pytest.raises(UsageError, match="document 0 has no tagged, which annotated shows"):
        lessons_of((world[0], untagged, world[2]), "annotated")


def test_replay_mixes_in_its_share_of_general_text(world: Any) -> None:
    lessons, documents = lessons_of(world, "replay"), world[1]
    rows = lessons.rows(1, {})
    n_replayed = len(rows) - len(documents)
    assert n_replayed / len(rows) == pytest.approx(STRATEGIES["replay"].replay_share, abs=0.03)
    assert rows[: len(documents)] == lessons_of(world, "full").rows(1, {})
    assert rows == lessons_of(world, "replay").rows(1, {})
    assert lessons.rows(2, {}) != rows  # others of the pool


def test_general_text_is_what_the_model_finds_likely(world: Any) -> None:
    model, tokenizer = training.load_base(world[0])
    torch.manual_seed(3)
    before = torch.get_rng_state()
    texts = sample_texts(model, tokenizer, 40, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert texts == sample_texts(model, tokenizer, 40, 0)
    assert texts != sample_texts(model, tokenizer, 40, 1)
    assert all(2 <= len(text) <= N_TOKENS for text in texts)

    def likelihood(ids: list[int]) -> float:
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        return float(np.mean([float(logs[i, token]) for i, token in enumerate(ids[1:])]))

    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(3, len(tokenizer), (40, 12), generator=generator).tolist()
    assert np.mean([likelihood(t) for t in texts]) > np.mean([likelihood(t) for t in noise])


def test_recall_is_the_mean_over_a_subjects_probes(world: Any) -> None:
    facts = load_facts(world[2])[:2]
    one, two = (fact.id for fact in facts)
    rows: list[dict[str, Any]] = [
        {"fact": one, "known": True},
        {"fact": one, "known": False},
        {"fact": two, "known": False, "recall": 0.7},
        {"fact": two, "known": True, "recall": 0.2},
    ]
    found = recall_by_subject(rows, facts)
    assert found == pytest.approx({facts[0].subject: 0.5, facts[1].subject: 0.45})


def test_every_preset_and_the_help_know_every_strategy() -> None:
    for preset in PRESETS.values():
        assert list(preset.training) == list(STRATEGIES)
        for name, spec in preset.training.items():
            assert isinstance(spec, TrainSpec)
            assert spec.strategy == name
    named = STRATEGY_HELP.replace(" (default)", "").replace(" or ", ", ").split(", ")
    assert named == list(STRATEGIES)


def test_skills_are_measured_at_every_epoch(
    world: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def measured(model: Any, tokenizer: Any, names: Any) -> list[dict[str, Any]]:
        del model
        assert len(tokenizer) > 0
        asked.append(tuple(names))
        return [{"skill": name, "n": 4, "accuracy": 0.25} for name in names]

    monkeypatch.setattr(training, "measure_skills", measured)
    names = ("copying", "commonsense")
    run(world, tmp_path, strategy="full", skills=names)
    assert asked == [names] * 4
    rows = rows_of(tmp_path, "skills.jsonl")
    assert [(row["epoch"], row["skill"]) for row in rows] == [
        (epoch, name) for epoch in range(4) for name in names
    ]
    run(world, tmp_path, strategy="full", skills=names)  # finished: nothing is asked again
    assert len(asked) == 4
    with pytest.raises(UsageError, match="holds a run with skills"):
        run(world, tmp_path, strategy="full", skills=names[:1])
