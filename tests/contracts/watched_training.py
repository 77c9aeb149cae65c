"""Tiny trainings to be watched, with dropout, so that the random state matters."""

import random

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

import kcircuits as kc
from kcircuits.io.facts import write_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.lab.benchmark.generate import generate
from kcircuits.lab.benchmark.spec import BenchmarkSpec
from kcircuits.lab.scratch import ScratchSpec, make_base
from kcircuits.lab.training.batches import pad
from kcircuits.lab.training.train import load_base
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
        name: [
            {k: v for k, v in row.items() if not k.endswith("seconds")}
            for row in rows_of(out, name)
        ]
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
