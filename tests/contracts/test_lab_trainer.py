"""The Trainer of ``lab train``: unnoticed probes, epochs of any length, trackers, refusals."""

import json
import math
import resource
import shutil
import signal

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.integrations import integration_utils

import kcircuits as kc
from kcircuits.errors import FileAccessError, UsageError
from kcircuits.io.jsonl import read_rows
from kcircuits.io.manifest import load_manifest
from kcircuits.lab.training import train as training
from kcircuits.lab.training import trainer as trainer_module
from kcircuits.lab.training.batches import IGNORED, EpochStream, collate, epoch_batches
from kcircuits.lab.training.loss_meter import LossMeter
from kcircuits.lab.training.step import batch_losses
from kcircuits.lab.training.train import load_base
from kcircuits.lab.training.weights import trainable
from tests.contracts.continual_training import trainer_of_rows
from tests.contracts.test_lab_train import KilledError, killed_in, rows_of, run, world
from tests.contracts.watched_training import nosy_skills

__all__ = ["world"]  # the fixture

ROWS = [[3, 4, 5, 6, 7], [8, 9, 10], [11, 12, 13, 14, 15, 16], [7, 7], [5, 9, 2]]


def with_dropout(world, tmp_path):
    """The world with a base whose training depends on the random state."""
    folder = tmp_path / "dropout"
    shutil.copytree(world[0], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.3}))
    return folder, *world[1:]


def trained(model):
    return {name: p.detach().clone() for name, p in trainable(model).items()}


@pytest.mark.parametrize("is_watched", [True, False])
def test_weights_are_the_same_with_probes_and_without(world, tmp_path, is_watched):
    base, _, facts = with_dropout(world, tmp_path)
    found = []
    for watched in (False, is_watched):
        model, meter = load_base(base)[0].requires_grad_(True), LossMeter()
        probes = kc.ProbeCallback(
            facts,
            tmp_path / f"out{len(found)}",
            run="tiny",
            tokenizer=load_base(base)[1],
            meter=meter,
            skills=nosy_skills,
        )
        callbacks = [probes] if watched else []
        trainer_of_rows(
            model,
            ROWS,
            tmp_path,
            n_epochs=3,
            batch_size=2,
            lr=1e-2,
            meter=meter,
            callbacks=callbacks,
            seed=0 if is_watched or not found else 1,
        ).train()
        found.append(trained(model))
    equal = [torch.equal(found[0][name], found[1][name]) for name in found[0]]
    # Another seed shows that the comparison can tell trainings apart.
    assert all(equal) if is_watched else not any(equal)


def test_a_killed_run_with_dropout_goes_on_to_the_same_weights(world, tmp_path, monkeypatch):
    world = with_dropout(world, tmp_path)
    whole = run(world, tmp_path / "whole")
    with monkeypatch.context() as patch:
        killed_in(patch, "write_manifest", 3)
        with pytest.raises(KilledError):
            run(world, tmp_path / "killed")
    again = run(world, tmp_path / "killed")
    assert [c.sha256 for c in again] == [c.sha256 for c in whole]
    with monkeypatch.context() as patch:  # without a random state of its own for each epoch
        patch.setattr(trainer_module, "set_seed", lambda _: None)
        killed_in(patch, "write_manifest", 3)
        with pytest.raises(KilledError):
            run(world, tmp_path / "unseeded")
        patch.undo()
        patch.setattr(trainer_module, "set_seed", lambda _: None)
        unseeded = run(world, tmp_path / "unseeded")
    assert unseeded["ep3"].sha256 != whole["ep3"].sha256


@pytest.mark.parametrize("n_before", [0, 1, 2])
def test_epochs_of_any_length_and_of_none(world, tmp_path, monkeypatch, n_before):
    """Some epochs show little or nothing; a killed run goes on after any of them."""
    shown = {1: 0, 2: 3, 3: 0, 4: 9}
    original = training.Lessons.rows

    def rows(self, epoch, recall):
        return original(self, epoch, recall)[: shown[epoch]]

    monkeypatch.setattr(training.Lessons, "rows", rows)
    steps = []
    if n_before:
        with monkeypatch.context() as patch:
            killed_in(patch, "write_manifest", 2 + n_before)  # of the epoch after
            with pytest.raises(KilledError):
                run(world, tmp_path, n_epochs=4)
    manifest = run(world, tmp_path, steps.append, n_epochs=4)
    assert [c.step for c in manifest] == [0, 0, 1, 1, 4]
    assert manifest["ep0"].sha256 == manifest["ep1"].sha256 != manifest["ep2"].sha256
    assert manifest["ep2"].sha256 == manifest["ep3"].sha256 != manifest["ep4"].sha256
    losses = rows_of(tmp_path, "train.jsonl")
    assert [(row["epoch"], row["step"]) for row in losses] == [(2, 1), (4, 4)]
    assert [(s.epoch, s.step, s.n_steps) for s in steps if s.epoch > 2] == [
        (4, 1, 3), (4, 2, 3), (4, 3, 3)
    ]  # fmt: skip
    assert len({s.n_epochs for s in steps}) == 1
    for row in losses:
        mine = [s for s in steps if s.epoch == row["epoch"]]
        if mine:
            assert row["tokens"] == sum(s.n_tokens for s in mine)


def test_a_stream_gives_each_process_its_share():
    streams = [EpochStream(lambda _: ROWS, len(ROWS), 2, 7, (i, 3)) for i in range(3)]
    for stream in streams:
        stream.epoch = 4
    batches = epoch_batches([len(row) for row in ROWS], 2, seed=7, epoch=4)
    for batch, *shares in zip(batches, *streams, strict=True):
        told = sorted(
            row[row != IGNORED].tolist()
            for share in shares
            for row in share["labels"]
            if (row != IGNORED).any()
        )
        assert told == sorted(ROWS[i] for i in batch)
        assert all(len(share["input_ids"]) for share in shares)
    assert [stream.n_steps for stream in streams] == [3, 3, 3] == [len(s) for s in streams]


def test_a_share_of_nothing_costs_nothing_and_leaves_no_gradient(world):
    model = load_base(world[0])[0].requires_grad_(True)
    found = batch_losses(model, collate([]), "float32")
    found.total.backward()
    assert (found.total.item(), int(found.n_predicted), int(found.n_tokens)) == (0, 0, 0)
    for p in trainable(model).values():
        assert p.grad is None or not p.grad.any()


def test_rows_of_a_step_are_what_was_trained(world, tmp_path):
    """Loss, perplexity and tokens of ``train.jsonl`` from the steps' own losses."""
    steps = []
    run(world, tmp_path, steps.append, strategy="kl-base", batch_size=3)
    for row in rows_of(tmp_path, "train.jsonl"):
        mine = [s for s in steps if s.epoch == row["epoch"]]
        n_predicted = [s.n_tokens - n for s, n in zip(mine, documents_of(world, mine), strict=True)]
        mean = sum(s.loss * n for s, n in zip(mine, n_predicted, strict=True)) / sum(n_predicted)
        assert row["loss"] == pytest.approx(mean, rel=1e-6)
        assert row["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)


def documents_of(world, steps):
    """Documents in each step's batch: all have three, but for one with the rest."""
    n, epoch = len(world[1]), steps[0].epoch
    tokens = load_base(world[0])[1]([document.text for document in world[1]])["input_ids"]
    batches = epoch_batches([len(row) for row in tokens], 3, seed=0, epoch=epoch)
    assert sum(map(len, batches)) == n
    return [len(batch) for batch in batches]


class Tracker(TrainerCallback):
    """Stands for TensorBoard: keeps what it is told."""

    told: list = []  # noqa: RUF012 - emptied by the test

    def on_log(self, _, state, __, logs=None, **___):
        self.told.append((state.global_step, dict(logs)))


def test_trackers_are_told_of_steps_and_epochs(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "ours", Tracker)
    Tracker.told = []
    steps = []
    base, documents, facts = world
    spec = training.TrainSpec(n_epochs=2, lr=1e-2, batch_size=8)
    manifest = training.train(
        base,
        documents,
        facts,
        tmp_path,
        spec,
        run="tiny",
        progress=steps.append,
        report_to=["ours"],
    )
    of_steps = [(step, logs) for step, logs in Tracker.told if "loss" in logs]
    assert [step for step, _ in of_steps] == list(range(1, len(steps) + 1))
    for (_, logs), step in zip(of_steps, steps, strict=True):
        assert logs["loss"] == step.loss
        assert logs["perplexity"] == pytest.approx(math.exp(step.loss))
        assert logs["learning_rate"] == 1e-2
        assert logs["tokens_per_second"] > 0
        assert logs["epoch"] == pytest.approx(step.epoch - 1 + step.step / step.n_steps)
    of_epochs = [(step, logs) for step, logs in Tracker.told if "known" in logs]
    assert [step for step, _ in of_epochs] == [c.step for c in manifest]
    losses = [row["loss"] for row in rows_of(tmp_path, "train.jsonl")]
    assert [logs.get("epoch_loss") for _, logs in of_epochs] == [None, *losses]
    assert len(Tracker.told) == len(of_steps) + len(of_epochs)  # no closing summary
    assert capsys.readouterr().out == ""  # nor prints of the Trainer's
    assert manifest == run_again(world, tmp_path, spec)  # a tracker is no part of the request


def run_again(world, out, spec):
    base, documents, facts = world
    return training.train(base, documents, facts, out, spec, run="tiny")


def test_an_absent_tracker_is_told_with_its_remedy(world, tmp_path, monkeypatch):
    def absent():
        raise RuntimeError("TensorBoardCallback requires tensorboard to be installed")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", absent)
    base, documents, facts = world
    for name, message, hint in (
        ("tensorboard", "tensorboard is not installed", "pip install tensorboard"),
        ("paper", "there is no tracker 'paper'", "tensorboard"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            training.train(
                base, documents, facts, tmp_path / "o", SPEC, run="tiny", report_to=[name]
            )
        assert hint in caught.value.hint
    assert not (tmp_path / "o").exists()


SPEC = training.TrainSpec(n_epochs=1)


def test_several_gpus_in_one_process_are_refused(world, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module.TrainingArguments, "n_gpu", 2)
    with pytest.raises(UsageError, match="one process trains on 2 GPUs") as caught:
        run(world, tmp_path / "out")
    assert "accelerate launch" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_gradients_are_neither_clipped_nor_measured(world, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a norm was taken")

    monkeypatch.setattr(Accelerator, "clip_grad_norm_", never)
    assert run(world, tmp_path, n_epochs=1).epochs == ("ep0", "ep1")


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(world, tmp_path):
    """A limit on the size of files stands for the end of the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(FileAccessError, match="File too large"):
            run(world, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert run(world, tmp_path, n_epochs=3).epochs == ("ep0", "ep1", "ep2", "ep3")


def test_a_place_that_cannot_be_written_is_refused(world, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileAccessError, match=r"Not a directory|File exists"):
        run(world, tmp_path / "file")


def test_a_base_may_be_named(world, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "fetch_model", lambda name: {"mine": world[0]}[name])
    base = run(("mine", *world[1:]), tmp_path, n_epochs=1)
    assert base.base_model == world[0].name


def test_every_probe_is_asked_of_the_weights_as_saved(world, tmp_path):
    """In bfloat16, which training is not in: its weights are rounded for the probe alone."""
    manifest = run(world, tmp_path, n_epochs=1, save_dtype="bfloat16")
    saved = AutoModelForCausalLM.from_pretrained(manifest["ep1"].path, dtype=torch.float32).eval()
    tokenizer = load_base(world[0])[1]
    fact = next(iter(kc.load_facts(manifest.facts)))
    i = fact.prompt_indices("evaluation")[0]
    ids = tokenizer(fact.prompts[i].clean)["input_ids"]
    target = tokenizer(fact.prompts[i].clean + fact.prompts[i].target)["input_ids"][len(ids)]
    expected = saved(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)[target].item()
    rows = read_rows(tmp_path / "runs" / "tiny" / "probes.jsonl")
    mine = next(r for r in rows if (r["epoch"], r["fact"], r["prompt_idx"]) == (1, fact.id, i))
    assert mine["logprob"] == pytest.approx(expected, abs=1e-5)
    assert load_manifest(manifest.path) == manifest
