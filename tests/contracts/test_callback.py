"""Watching a training that others run: it goes on untouched, and what is written is right."""

import math
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import kcircuits as kc
from kcircuits.io.checkpoint_files import content_hash
from kcircuits.io.facts import load_facts
from kcircuits.lab.training import undisturbed
from kcircuits.lab.training.train import load_base
from kcircuits.lab.training.weights import trainable
from kcircuits.models.quiet import quiet
from tests.contracts.watched_training import (
    Tick,
    build,
    callback_of,
    differences,
    nosy_skills,
    rows_of,
    run,
    trained_state,
    unwatched,
    watched,
    world,
)

__all__ = ["unwatched", "watched", "world"]  # the fixtures


def test_training_is_the_same_bit_for_bit(watched, unwatched):
    kind, _, trainer, _, state = watched
    assert differences(state, unwatched[kind]) == []
    assert len(state["losses"]) > 1
    assert not trainer.model._forward_hooks


@pytest.mark.parametrize("part", ["same_randomness", "_same_gradients"])
def test_the_comparison_notices_a_disturbed_training(world, unwatched, tmp_path, monkeypatch, part):
    monkeypatch.setattr(undisturbed, part, lambda *_: nullcontext())
    trainer = run(world, "full", tmp_path, skills=nosy_skills)
    assert differences(trained_state(trainer), unwatched["full"])


def test_module_modes_hooks_and_gradients_are_put_back(world):
    model = build(world, "lora").train()
    model.base_model.model.lm_head.eval()
    handle = model.register_forward_hook(lambda *_: None)
    modes = [module.training for module in model.modules()]
    for p in trainable(model).values():
        p.grad = torch.ones_like(p)
    hooks = dict(model._forward_hooks)
    with undisturbed.undisturbed(model):
        assert not any(module.training for module in model.modules())
        nosy_skills(model, load_base(world[0])[1])
    assert [module.training for module in model.modules()] == modes
    assert dict(model._forward_hooks) == hooks
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in trainable(model).values())
    handle.remove()
    assert not model._forward_hooks


def test_manifest_is_valid_after_every_epoch(watched, world):
    kind, out, trainer, reader, _ = watched
    assert reader.seen == [("ep0",), ("ep0", "ep1"), ("ep0", "ep1", "ep2")]
    manifest = kc.load_manifest(out / "run" / "checkpoints_manifest.yaml")
    steps = trainer.state.global_step // 2
    assert [c.step for c in manifest] == [0, steps, 2 * steps]
    assert [c.is_identity for c in manifest] == [kind == "lora", False, False]
    assert len({c.sha256 for c in manifest}) == 3
    for checkpoint in manifest:
        assert checkpoint.sha256 == content_hash(checkpoint.path, checkpoint.adapter)
        assert kc.load_model(checkpoint).is_verified
    assert not (out / "run" / "state").exists()


def plain(checkpoint):
    """The model of a checkpoint by transformers and PEFT alone."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path, attn_implementation="eager")
    if checkpoint.adapter is not None:
        with quiet():
            model = PeftModel.from_pretrained(model, str(checkpoint.adapter))
    return model.float().eval()


def test_probes_are_what_the_saved_weights_answer(watched):
    kind, out, trainer, _, _ = watched
    manifest = kc.load_manifest(out / "run" / "checkpoints_manifest.yaml")
    tokenizer, facts = trainer.processing_class, load_facts(manifest.facts)
    rows = rows_of(out, "probes.jsonl")
    asked = [(f, i) for f in facts for i in f.prompt_indices("evaluation")]
    assert [(r["checkpoint"], r["fact"], r["prompt_idx"]) for r in rows] == [
        (c.id, f.id, i) for c in manifest for f, i in asked
    ]
    last = manifest["ep2"]
    model = plain(last)
    for row, (fact, i) in zip(rows[-len(asked) :], asked, strict=True):
        prompt = fact.prompts[i]
        n = len(tokenizer(prompt.clean)["input_ids"])
        ids = torch.tensor([tokenizer(prompt.clean + prompt.target)["input_ids"]])
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        expected = sum(logprobs[k - 1, ids[0, k]].item() for k in range(n, ids.shape[1]))
        assert row["logprob"] == pytest.approx(expected, abs=1e-5)
        assert (row["epoch"], row["strategy"], row["seed"]) == (2, kind, 3)


def test_losses_are_token_means_of_each_epoch(watched, world):
    _, out, trainer, _, _ = watched
    rows = rows_of(out, "train.jsonl")
    steps, n_terms = trainer.state.global_step // 2, len(trainer.terms) // 2
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, steps), (2, 2 * steps)]
    for i, row in enumerate(rows):
        mean = np.mean(trainer.terms[i * n_terms : (i + 1) * n_terms])
        assert row["loss"] == pytest.approx(mean, rel=1e-6)  # the model's own sum is float32
        assert row["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
        assert row["tokens"] == sum(map(len, world[2])) == trainer.n_tokens // 2
        assert row["seconds"] > 0
    # Linear decay to 0: the rate of the last step taken, not of the next one.
    assert [row["lr"] for row in rows] == pytest.approx(
        [1e-2 * (1 - (k - 1) / (2 * steps)) for k in (steps, 2 * steps)]
    )
    skills = rows_of(out, "skills.jsonl")
    assert [(s["checkpoint"], s["epoch"], s["skill"]) for s in skills] == [
        (f"ep{n}", n, "nosiness") for n in range(3)
    ]


def test_time_of_probing_is_no_training_time(world, tmp_path, monkeypatch):
    def slow(model, tokenizer):
        clock[0] += 1000.0
        return []

    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    steps = [Tick(clock)]
    trainer = run(world, "full", tmp_path, skills=slow, others=steps)
    assert callback_of(trainer).observer.seconds == 3000
    n_steps = trainer.state.global_step // 2
    rows = rows_of(tmp_path, "train.jsonl")
    assert [row["seconds"] for row in rows] == [n_steps, n_steps]
    assert [row["probing_seconds"] for row in rows] == [1000, 1000]
