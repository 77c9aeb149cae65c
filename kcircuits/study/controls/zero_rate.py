"""Training at learning rate 0: the weights stay, and so do the scores.

What it goes through is what checkpoints go through: loading for training, optimiser steps, saving,
loading for circuits. A rounding on the way, or embeddings tied again, would show here.
"""

import tempfile
from pathlib import Path

import torch

from kcircuits.lab.training.further import train_further
from kcircuits.models import Model, load_model
from kcircuits.study.controls.bench import Bench
from kcircuits.study.controls.control import Check, Outcome
from kcircuits.study.controls.same_checkpoint import identity_checks

RATE = 0.0
# Prompts of each fact that become texts; twelve facts make six steps of eight.
N_TEXTS = 4


def control(bench: Bench) -> Outcome:
    """Trains the checkpoint on the facts' own prompts, and scores what comes of it."""
    texts = [
        f"{prompt.clean}{prompt.target}"
        for record in bench.facts
        for prompt in record.fact.prompts[:N_TEXTS]
    ]
    with tempfile.TemporaryDirectory() as folder:
        trained = train_further(
            bench.checkpoint,
            bench.model.tokenizer,
            texts,
            Path(folder),
            lr=RATE,
            seed=bench.seed,
        )
        model = load_model(trained, dtype=bench.model.dtype, device=bench.model.device)
    return Outcome(
        did=f"trained {bench.epoch} on {len(texts)} texts made of the facts' prompts at learning "
        f"rate {RATE:g}, saved it and loaded it again",
        checks=(_weights_check(bench.model, model), *identity_checks(bench, bench.cells(model))),
    )


def _weights_check(before: Model, after: Model) -> Check:
    old, new = (dict(model.hooked.named_parameters()) for model in (before, after))
    moved = [name for name in old if not torch.equal(old[name], new[name])]
    return Check(
        expected="every weight equal",
        measured=f"{len(moved)} of {len(old)} tensors differ"
        + (f", e.g. {moved[0]}" if moved else ""),
        is_met=not moved,
    )
