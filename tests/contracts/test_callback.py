"""Watching a training that others run: it goes on untouched, and what is written is right."""

import json
import math
import random
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

import kcircuits as kc
from kcircuits.errors import (
    CheckpointError,
    FactsError,
    NonFiniteError,
    StoreBusyError,
    UsageError,
)
from kcircuits.io.checkpoint_files import content_hash
from kcircuits.io.facts import load_facts, write_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.lab import recorder, undisturbed
from kcircuits.lab.batches import pad
from kcircuits.lab.benchmark import generate
from kcircuits.lab.loop import trainable
from kcircuits.lab.scratch import ScratchSpec, make_base
from kcircuits.lab.spec import BenchmarkSpec
from kcircuits.lab.train import load_base
from kcircuits.models.quiet import quiet

SPEC = BenchmarkSpec(people={"high": 3}, relations=("birthplace",))
TINY = ScratchSpec(
    n_layers=2, n_heads=2, d_model=16, n_helpers=4, n_controls=2, n_texts=1, n_epochs=1
)
FILES = ("probes.jsonl", "train.jsonl", "skills.jsonl")


class KilledError(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny base model, its facts file and its training rows."""
    folder = tmp_path_factory.mktemp("world")
    controls = make_base(TINY, SPEC, folder / "model", seed=0)
    _, tokenizer = load_base(folder / "model")
    benchmark = generate(SPEC, tokenizer, seed=0)
    write_facts((*benchmark.facts, *controls), folder / "facts.jsonl")
    rows = tokenizer([document.text for document in benchmark.documents][:18])["input_ids"]
    return folder / "model", folder / "facts.jsonl", rows


def build(world, kind, dtype=torch.float32):
    """A model with dropout, so that its training depends on the random state."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(
        world[0], dtype=dtype, attn_implementation="eager", attention_dropout=0.2
    )
    if kind == "full":
        return model
    names = ["q_proj", "v_proj"]
    config = LoraConfig(r=4, target_modules=names, lora_dropout=0.2, task_type="CAUSAL_LM")
    with quiet():
        return get_peft_model(model, config)


def collate(rows):
    ids, mask, labels = pad([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def trainer_of(world, model, out, callbacks=(), cls=Trainer, **settings):
    settings = {"num_train_epochs": 2, "save_strategy": "no", "logging_steps": 2} | settings
    args = TrainingArguments(
        output_dir=str(out / "trainer"),
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=3,
        **settings,
    )
    return cls(
        model=model,
        args=args,
        train_dataset=[{"input_ids": row} for row in world[2]],
        data_collator=collate,
        processing_class=load_base(world[0])[1],
        callbacks=list(callbacks),
    )


def run(world, kind, out, *, callback=True, resume=None, cls=Trainer, others=(), **settings):
    """A whole training, watched or not; gives the trainer."""
    watch = {k: settings.pop(k) for k in WATCH if k in settings}
    callbacks = [kc.ProbeCallback(world[1], out / "run", run="tiny", **watch)]
    model = build(world, kind)
    used = [*(callbacks if callback else []), *others]
    trainer = trainer_of(world, model, out, used, cls, remove_unused_columns=False, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


WATCH = ("skills", "stop", "every_epochs", "every_steps", "overwrite", "tokenizer")


def rows_of(out, name):
    return read_rows(out / "run" / "runs" / "tiny" / name)


def timeless(out):
    """All rows that the run has written, without the time that training took."""
    return {
        name: [{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(out, name)]
        for name in FILES
    }


def trained_state(trainer):
    """All that a training leaves behind: weights, moments, random states, logged losses."""
    optimizer = trainer.optimizer.state_dict()["state"]
    return {
        "weights": {n: p.detach().clone() for n, p in trainer.model.named_parameters()},
        "moments": {(i, k): torch.as_tensor(v) for i, s in optimizer.items() for k, v in s.items()},
        "random": (
            random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()  # noqa: NPY002
        ),
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
    }  # fmt: skip


def differences(one, other):
    found = [k for k in ("random", "losses") if one[k] != other[k]]
    for part in ("weights", "moments"):
        assert one[part].keys() == other[part].keys()
        found += [k for k, tensor in one[part].items() if not torch.equal(tensor, other[part][k])]
    return found


def nosy_skills(model, tokenizer):
    """Does all that a probe must not do, but for changing weights."""
    assert not model.training
    torch.rand(3), np.random.rand(2), random.random()  # noqa: NPY002
    model.train()
    model.register_forward_hook(lambda *_: None)
    ids = torch.tensor([tokenizer("a")["input_ids"]])
    with torch.enable_grad():
        model(input_ids=ids, labels=ids).logits.sum().backward()
    return [{"skill": "nosiness", "n": 1, "accuracy": 1.0}]


@pytest.fixture(scope="module")
def unwatched(world, tmp_path_factory):
    return {
        kind: trained_state(run(world, kind, tmp_path_factory.mktemp(kind), callback=False))
        for kind in ("full", "lora")
    }


class ManifestReader(TrainerCallback):
    """Reads the manifest after each epoch, as somebody who looks at a running training does."""

    def __init__(self, out):
        self.file, self.seen = out / "run" / "checkpoints_manifest.yaml", []

    def on_step_begin(self, *_, **__):
        if not self.seen:
            self.seen.append(kc.load_manifest(self.file).epochs)

    def on_epoch_end(self, *_, **__):
        self.seen.append(kc.load_manifest(self.file).epochs)


class Counting(Trainer):
    """As TRL's trainers do: a loss of its own, from the outputs of the Trainer's."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        for logits, labels in zip(outputs.logits.detach(), inputs["labels"], strict=True):
            each = cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="none")
            self.terms += each[labels[1:] != -100].tolist()
            self.n_tokens += int((labels != -100).sum())
        return (loss, outputs) if return_outputs else loss

    terms: list = []  # noqa: RUF012 - one training a class
    n_tokens = 0


@pytest.fixture(scope="module", params=["full", "lora"])
def watched(request, world, tmp_path_factory):
    """A watched training, with skills that disturb what they can, of a Trainer's subclass."""
    out = tmp_path_factory.mktemp(request.param)
    counting = type("Counting", (Counting,), {"terms": []})
    reader = ManifestReader(out)
    trainer = run(world, request.param, out, skills=nosy_skills, cls=counting, others=[reader])
    return request.param, out, trainer, reader, trained_state(trainer)


def test_training_is_the_same_bit_for_bit(watched, unwatched):
    kind, _, trainer, _, state = watched
    assert differences(state, unwatched[kind]) == []
    assert len(state["losses"]) > 1
    assert not trainer.model._forward_hooks


@pytest.mark.parametrize("part", ["_same_randomness", "_same_gradients"])
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
    assert [row["seconds"] for row in rows_of(tmp_path, "train.jsonl")] == [n_steps, n_steps]


class Tick(TrainerCallback):
    """A clock that goes one second a step."""

    def __init__(self, clock):
        self.clock = clock

    def on_step_begin(self, *_, **__):
        self.clock[0] += 1


def callback_of(trainer):
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, kc.ProbeCallback))


class Kill(TrainerCallback):
    """Dies after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, _, state, *__, **___):
        if state.global_step == self.step:
            raise KilledError


def checkpoint_names(out):
    return sorted(path.name for path in (out / "run" / "checkpoints").iterdir())


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


def dying(function, call):
    """The function, which dies after its work at the call-th time."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(function)
        result = function(*args, **kwargs)
        if len(calls) == call:
            raise KilledError
        return result

    return wrapped


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


def plain_loop(model, rows, n_epochs, watch):
    """A loop that is no Trainer; calls ``watch(epoch, model, losses)``."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(1, n_epochs + 1):
        order = torch.randperm(len(rows)).tolist()
        model.train()
        for start in range(0, len(rows), 6):
            batch = collate([{"input_ids": rows[i]} for i in order[start : start + 6]])
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        watch(epoch, model, {"loss": 1.0 / epoch, "step": 3 * epoch, "lr": 1e-2, "tokens": 7})
    return model


def test_a_loop_of_ones_own_is_watched_alike(world, tmp_path):
    facts, tokenizer = world[1], load_base(world[0])[1]
    unwatched_model = plain_loop(build(world, "full"), world[2], 2, lambda *_: None)
    model = build(world, "full")
    observer = kc.TrainingObserver(facts, tmp_path / "a" / "run", run="tiny", tokenizer=tokenizer)
    config = dict(vars(model.config))
    observer.begin(model)
    assert vars(model.config) == config
    plain_loop(model, world[2], 2, lambda n, live, losses: observer.epoch(n, live, **losses))
    other = build(world, "full")
    settings = {"facts": facts, "out": tmp_path / "b" / "run", "run": "tiny"}
    settings |= {"tokenizer": tokenizer, "stop": lambda series: series[-1]["loss"] < 0.6}
    stops = [kc.observe(other, 0, **settings)]
    watch = lambda n, live, losses: stops.append(kc.observe(live, n, **settings, **losses))  # noqa: E731
    plain_loop(other, world[2], 2, watch)
    assert stops == [False, False, True]
    for name, p in unwatched_model.named_parameters():
        assert torch.equal(p, model.get_parameter(name))
        assert torch.equal(p, other.get_parameter(name))
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")
    losses = rows_of(tmp_path / "a", "train.jsonl")
    assert [row["perplexity"] for row in losses] == pytest.approx([math.e, math.exp(0.5)])
    assert observer.manifest.epochs == ("ep0", "ep1", "ep2")
    before = timeless(tmp_path / "b")
    kc.observe(other, 2, **settings, loss=0.5, step=6, lr=1e-2, tokens=7)  # again: no second row
    assert timeless(tmp_path / "b") == before


def test_errors_come_before_training(world, tmp_path):
    facts, out = world[1], tmp_path / "run"
    trainer = trainer_of(world, build(world, "full"), tmp_path, [kc.ProbeCallback(facts, out)])
    trainer.processing_class = trainer.callback_handler.processing_class = None
    with pytest.raises(UsageError, match="there is no tokenizer") as caught:
        trainer.train()
    assert caught.value.hint
    fact = json.loads(facts.read_text().splitlines()[0])
    fact["prompts"][0]["corrupt"] += " and more"
    unfit = tmp_path / "unfit.jsonl"
    unfit.write_text(json.dumps(fact) + "\n")
    other = trainer_of(world, build(world, "full"), tmp_path, [kc.ProbeCallback(unfit, out)])
    with pytest.raises(FactsError, match="clean has"):
        other.train()
    assert trainer.state.global_step == other.state.global_step == 0
    with pytest.raises(FactsError):
        kc.ProbeCallback(tmp_path / "absent.jsonl", out)
    with pytest.raises(UsageError, match="cannot name a folder"):
        kc.ProbeCallback(facts, out, run="../up")
    with pytest.raises(UsageError, match="every_epochs is 0"):
        kc.ProbeCallback(facts, out, every_epochs=0)
    assert not out.exists()


def observer_of(world, out, **settings):
    tokenizer = load_base(world[0])[1]
    settings = {"run": "tiny", "tokenizer": tokenizer} | settings
    return kc.TrainingObserver(world[1], out, **settings)


def test_a_folder_with_another_run_is_refused(world, tmp_path):
    model = build(world, "full")
    first = observer_of(world, tmp_path)
    first.begin(model)
    with pytest.raises(UsageError, match="holds a run with run 'tiny', not 'other'"):
        observer_of(world, tmp_path, run="other").begin(model)
    with pytest.raises(UsageError, match="holds a run with seed 0, not 1"):
        observer_of(world, tmp_path, seed=1).begin(model)
    first.epoch(1, model, loss=1.0)
    with pytest.raises(UsageError, match=r"holds epochs up to 1[\s\S]*overwrite=True"):
        observer_of(world, tmp_path).begin(model)
    with pytest.raises(UsageError, match="epoch 1 does not come after epoch 1"):
        first.epoch(1, model, loss=1.0)
    second = observer_of(world, tmp_path, overwrite=True)
    second.begin(model)
    assert second.manifest.epochs == ("ep0",)
    with pytest.raises(StoreBusyError, match="another process has recorded"):
        first.epoch(2, model, loss=1.0)
    (tmp_path / "foreign" / "checkpoints" / "mine").mkdir(parents=True)
    with pytest.raises(UsageError, match="is there already"):
        observer_of(world, tmp_path / "foreign").begin(model)
    with pytest.raises(UsageError, match="holds no epoch 0"):
        observer_of(world, tmp_path / "new").begin(model, after=2)


def test_what_is_not_a_number_is_refused_and_not_written(world, tmp_path):
    model = build(world, "full")
    observer = observer_of(world, tmp_path)
    observer.begin(model)
    with pytest.raises(UsageError, match="the loss is nan in epoch 1") as caught:
        observer.epoch(1, model, loss=float("nan"))
    assert "learning rate" in caught.value.hint
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="ep1: the log-probability of fact"):
        observer.epoch(1, model, loss=1.0)
    assert observer.manifest.epochs == ("ep0",)
    with pytest.raises(UsageError, match=r"epoch\(\) came before begin\(\)"):
        observer_of(world, tmp_path).epoch(1, model)


def test_a_failed_recording_leaves_nothing_for_the_next(world, tmp_path, monkeypatch):
    model = build(world, "full")
    observer = observer_of(world, tmp_path)
    observer.begin(model)
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "write_manifest", dying(lambda *_: None, 1))
        with pytest.raises(KilledError):
            observer.epoch(1, model, loss=1.0)
    observer.epoch(1, model, loss=2.0)
    folder = tmp_path / "runs" / "tiny"
    assert [row["loss"] for row in read_rows(folder / "train.jsonl")] == [2.0]
    ids = [row["checkpoint"] for row in read_rows(folder / "probes.jsonl")]
    assert ids.count("ep0") == ids.count("ep1") > 0
    assert observer.manifest.epochs == ("ep0", "ep1")


def test_models_that_would_load_as_others_are_refused(world, tmp_path):
    model = build(world, "full")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with pytest.raises(UsageError, match="two matrices"):
        observer_of(world, tmp_path).begin(model)
    with pytest.raises(UsageError, match="a transformers or PEFT model was expected"):
        observer_of(world, tmp_path).begin(torch.nn.Linear(2, 2))
    adapted = build(world, "lora")
    with torch.no_grad():
        adapted.base_model.model.model.norm.weight.add_(1)
    with pytest.raises(CheckpointError, match="is not the one in the base's folder"):
        observer_of(world, tmp_path, base=world[0]).begin(adapted)
    with pytest.raises(UsageError, match="is no model folder"):
        observer_of(world, tmp_path, base=tmp_path).begin(build(world, "lora"))
    with pytest.raises(UsageError, match="the model is no PEFT adapter"):
        observer_of(world, tmp_path, base=world[0]).begin(build(world, "full"))
    small = build(world, "full")
    small.resize_token_embeddings(8)
    with pytest.raises(FactsError, match="beyond the 8 rows of the embedding"):
        observer_of(world, tmp_path).begin(small)
    observer = observer_of(world, tmp_path, skills=lambda *_: [{"skill": "sums", "n": 3}])
    with pytest.raises(UsageError, match="a row of skills"):
        observer.begin(build(world, "full"))


@pytest.mark.parametrize("is_tied", [True, False])
def test_embeddings_tied_or_trained_apart_load_as_themselves(world, tmp_path, is_tied):
    model, folder = build(world, "full"), tmp_path / "base"
    assert model.config.tie_word_embeddings
    if not is_tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 0.1)
    model.save_pretrained(folder)
    load_base(world[0])[1].save_pretrained(folder)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    with quiet():
        adapted = get_peft_model(model, config)
    observer = observer_of(world, tmp_path / "out", base=folder)
    observer.begin(adapted)
    with torch.no_grad():
        for p in trainable(adapted).values():
            p.add_(torch.randn_like(p) * 0.1)
    observer.epoch(1, adapted, loss=1.0)
    ids = torch.tensor([world[2][0]])
    expected = adapted.eval()(input_ids=ids).logits
    for checkpoint in observer.manifest:
        hooked = kc.load_model(checkpoint).hooked
    assert torch.allclose(hooked(ids, prepend_bos=False), expected, atol=1e-4)
