"""A watched training that is killed, stopped, cut into parts, or of another data type."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, Trainer

import kcircuits as kc
from kcircuits.io.facts import load_facts
from kcircuits.lab.training import recorder
from kcircuits.lab.training.train import load_base
from tests.contracts.watched_training import (
    Kill,
    KilledError,
    build,
    callback_of,
    checkpoint_names,
    differences,
    dying,
    nosy_skills,
    rows_of,
    run,
    timeless,
    trained_state,
    trainer_of,
    watched,
    world,
)

__all__ = ["watched", "world"]  # the fixtures


@pytest.mark.parametrize(
    "place", ["save_checkpoint", "append_rows", "write_manifest", "middle of an epoch"]
)
def test_a_killed_training_resumes_to_the_same_files(world, watched, tmp_path, monkeypatch, place):
    kind, out, _, _, state = watched
    settings = {"save_strategy": "steps", "save_steps": 2, "skills": nosy_skills}
    others = [Kill(5)] if place == "middle of an epoch" else []
    with monkeypatch.context() as patch:
        if not others:
            patch.setattr(recorder, place, dying(getattr(recorder, place), CALLS[place]))
        with pytest.raises(KilledError):
            run(world, kind, tmp_path, others=others, **settings)
    trainer = run(world, kind, tmp_path, resume=True, **settings)
    assert timeless(tmp_path) == timeless(out)
    assert checkpoint_names(tmp_path) == ["ep0", "ep1", "ep2"]
    manifests = [kc.load_manifest(f / "run" / "checkpoints_manifest.yaml") for f in (tmp_path, out)]
    assert [c.sha256 for c in manifests[0]] == [c.sha256 for c in manifests[1]]
    assert set(differences(trained_state(trainer), state)) <= {"losses"}


CALLS = {"save_checkpoint": 3, "append_rows": 7, "write_manifest": 3}  # of the last epoch


def test_a_part_that_nothing_is_kept_of_has_no_loss(world, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(KilledError):
        run(world, "full", tmp_path, others=[Kill(5)], **settings)
    (tmp_path / "run" / "state" / "step4.json").unlink()
    run(world, "full", tmp_path, resume=True, **settings)
    assert [row["loss"] is None for row in rows_of(tmp_path, "train.jsonl")] == [False, True]


class OwnLoss(Trainer):
    """Keeps the labels from the model, as a ``compute_loss_func`` does."""

    def compute_loss(self, model, inputs, *_, **__):
        labels = inputs.pop("labels")
        return cross_entropy(model(**inputs).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def test_a_loss_that_the_model_does_not_see_is_null(world, tmp_path, caplog):
    run(world, "full", tmp_path, cls=OwnLoss)
    rows = rows_of(tmp_path, "train.jsonl")
    assert [(row["loss"], row["perplexity"]) for row in rows] == [(None, None)] * 2
    assert all(row["tokens"] == sum(map(len, world[2])) for row in rows)
    assert "was not given its labels" in caplog.text


def test_stop_ends_training_and_sees_the_series(world, tmp_path):
    seen = []

    def stop(series):
        seen.append([row["epoch"] for row in series])
        return series[-1]["loss"] > 0

    trainer = run(world, "full", tmp_path, stop=stop, num_train_epochs=5)
    assert seen == [[0, 1]]
    assert trainer.state.epoch == 1
    last = callback_of(trainer).observer.series[-1]
    assert last["known"] == np.mean(
        [np.mean(k) > 0.5 for k in known_by_fact(rows_of(tmp_path, "probes.jsonl")).values()]
    )
    assert (last["checkpoint"], last["skills"]) == ("ep1", {})


def known_by_fact(rows):
    known = {}
    for row in rows:
        if row["epoch"] == 1:
            known.setdefault(row["fact"], []).append(row["known"])
    return known


def test_parts_of_epochs_and_numbers_of_steps(world, tmp_path):
    run(world, "full", tmp_path / "a", every_epochs=1 / 3)
    manifest = kc.load_manifest(tmp_path / "a" / "run" / "checkpoints_manifest.yaml")
    assert manifest.epochs == ("ep0", "step1", "step2", "ep1", "step4", "step5", "ep2")
    assert [c.epoch for c in manifest][1:3] == pytest.approx([1 / 3, 2 / 3], abs=1e-6)
    run(world, "full", tmp_path / "b", every_steps=2)
    manifest = kc.load_manifest(tmp_path / "b" / "run" / "checkpoints_manifest.yaml")
    assert manifest.epochs == ("ep0", "step2", "step4", "ep2")
    whole, parts = rows_of(tmp_path / "b", "train.jsonl"), rows_of(tmp_path / "a", "train.jsonl")
    assert sum(row["tokens"] for row in whole) == sum(row["tokens"] for row in parts)
    run(world, "full", tmp_path / "c", every_epochs=3)  # the end is always recorded
    manifest = kc.load_manifest(tmp_path / "c" / "run" / "checkpoints_manifest.yaml")
    assert manifest.epochs == ("ep0", "ep2")


@pytest.mark.parametrize("setting", ["weights", "autocast"])
def test_probes_of_bfloat16_trainings(world, tmp_path, setting):
    """Weights in bfloat16 are probed as they are; under autocast probes are not autocast."""
    is_bf16 = setting == "weights"
    model = build(world, "full", torch.bfloat16 if is_bf16 else torch.float32)
    callback = kc.ProbeCallback(world[1], tmp_path / "run", run="tiny")
    settings = {"remove_unused_columns": False, "bf16": not is_bf16}
    trainer_of(world, model, tmp_path, [callback], **settings).train()
    manifest = callback.observer.manifest
    saved = AutoModelForCausalLM.from_pretrained(manifest["ep2"].path, attn_implementation="eager")
    assert saved.dtype == (torch.bfloat16 if is_bf16 else torch.float32)
    fact = load_facts(world[1])[0]
    i = fact.prompt_indices("evaluation")[0]
    row = next(
        r for r in rows_of(tmp_path, "probes.jsonl") if (r["epoch"], r["fact"]) == (2, fact.id)
    )
    tokenizer, prompt = load_base(world[0])[1], fact.prompts[i]
    ids = tokenizer(prompt.clean)["input_ids"]
    target = tokenizer(prompt.clean + prompt.target)["input_ids"][len(ids) :]
    logits = saved.eval()(input_ids=torch.tensor([ids])).logits[0, -1].float()
    # One bfloat16 rounding of a logit of about 8; float32 shows that nothing was autocast.
    bound = 2**-5 if is_bf16 else 1e-5
    assert row["logprob"] == pytest.approx(logits.log_softmax(-1)[target[0]].item(), abs=bound)
