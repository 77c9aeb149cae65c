"""Continual pre-training with probes: a checkpoint, its probes and its loss at every epoch.

Each epoch is recorded as ``kcircuits.lab.recorder`` says. Beside its files lies ``state/``, for a
run that was killed; it goes when the run is finished, which is when the manifest has all epochs.

A run that was killed goes on after its last whole epoch, with the same weights bit for bit.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kcircuits.core.manifest import Manifest
from kcircuits.errors import UsageError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.checkpoint_files import content_hash, model_files
from kcircuits.io.facts import load_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.io.lock import writer_lock
from kcircuits.io.manifest import load_manifest
from kcircuits.lab.anchor import Anchored
from kcircuits.lab.document import Document
from kcircuits.lab.lessons import Lessons, recall_by_subject
from kcircuits.lab.loop import (
    Progress,
    Trained,
    choose_precision,
    make_optimizer,
    round_weights,
    train_epoch,
)
from kcircuits.lab.recorder import Recorder, RunLabels
from kcircuits.lab.resume import load_state, save_state, states
from kcircuits.lab.run_folder import RunFolder, asked_before, recorded
from kcircuits.lab.saving import saver_of_strategy
from kcircuits.lab.skills import measure_skills
from kcircuits.lab.spec import TrainSpec
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.models.prompts import tokenize_facts
from kcircuits.models.quiet import quiet
from kcircuits.models.reference import load_config, load_reference
from kcircuits.models.tokenizer import load_tokenizer


def train(
    base: Path,
    documents: Sequence[Document],
    facts: Path,
    out: Path,
    spec: TrainSpec,
    *,
    run: str,
    base_name: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Trains, saves and probes at every epoch; goes on where a killed run stopped.

    Args:
        base: Folder of the untrained model.
        documents: Training texts and whom they are about.
        facts: A facts file; its evaluation prompts are the probes.
        out: The run's folder (see ``kcircuits.lab.recorder``).
        spec: How to train.
        run: Name of the run.
        base_name: The base model's name in the manifest; default its folder's.
        progress: Called after every step.

    Raises:
        UsageError: The folder holds a run that was asked for otherwise, or there are no documents.
        StoreBusyError: Another process trains in this folder.
        CheckpointError: The base is not, or not surely, a model.
    """
    if not documents:
        raise UsageError("there are no documents to train on", field="documents")
    folder, base = RunFolder(root=Path(out), run=run), Path(base)
    with writer_lock(folder.root / ".training.lock"):
        request = _request(base, documents, facts, spec, run)
        before = asked_before(folder, request)
        if len(recorded(folder)) <= spec.n_epochs:
            labels = RunLabels(
                strategy=spec.strategy,
                seed=spec.seed,
                facts=facts,
                base_model=base_name or base.name,
            )
            training = _Training(base, documents, labels, folder, spec, request, before)
            training.run(progress)
        shutil.rmtree(folder.state, ignore_errors=True)
        return load_manifest(folder.manifest)


class _Training:
    """A prepared run: the model, what it is shown, and what records it."""

    def __init__(
        self,
        base: Path,
        documents: Sequence[Document],
        labels: RunLabels,
        folder: RunFolder,
        spec: TrainSpec,
        request: dict[str, Any],
        before: dict[str, Any] | None,
    ) -> None:
        self.spec, self.folder, self.strategy = spec, folder, STRATEGIES[spec.strategy]
        model, tokenizer = load_base(base)
        self.lessons = Lessons(self.strategy, documents, model, tokenizer, spec.seed)
        self.model = self.strategy.prepare(model, spec.seed)
        round_weights(self.model, _save_dtype(spec))
        self.facts = load_facts(labels.facts)
        rows = self.lessons.rows(1, {})
        self.precision = (before or {}).get("precision") or _precision(spec, self.model, rows)
        content = {"request": request, "precision": self.precision}
        write_atomic(folder.request, json.dumps(content, indent=2, sort_keys=True) + "\n")
        self.optimizer = make_optimizer(self.model, spec.lr)
        self.anchored = self._anchored_here()
        skills = None
        if spec.skills:
            skills = partial(measure_skills, tokenizer=tokenizer, names=spec.skills)
        saver = saver_of_strategy(self.strategy, base, _save_dtype(spec))
        batch = tokenize_facts(tokenizer, self.facts)
        self.recorder = Recorder(folder, labels, batch, saver, skills)

    def run(self, progress: Progress | None) -> None:
        """Trains and records every epoch that is not recorded yet."""
        done = _back_to_last_epoch(self.recorder)
        if done:
            load_state(self.model, self.optimizer, self.folder.state, done)
        else:
            self.recorder.record(self.model, 0, step=0)
        for epoch in range(done + 1, self.spec.n_epochs + 1):
            rows = self.lessons.rows(epoch, self._recall(epoch - 1))
            # Where all subjects are learned, an epoch shows nothing.
            trained = self._train(rows, epoch, progress) if rows else None
            before = self.recorder.checkpoints[-1].step or 0
            step = before + math.ceil(len(rows) / self.spec.batch_size)
            self.recorder.record(self.model, epoch, step=step, trained=trained)
            save_state(self.model, self.optimizer, self.folder.state, epoch)

    def _train(
        self, rows: Sequence[Sequence[int]], epoch: int, progress: Progress | None
    ) -> Trained:
        if self.strategy.anchor is not None and self.strategy.anchor.to == "previous":
            self.anchored = self._anchored_here()
        return train_epoch(
            self.model,
            self.optimizer,
            rows,
            self.spec,
            epoch,
            precision=self.precision,
            anchored=self.anchored,
            progress=progress,
        )

    def _recall(self, epoch: int) -> Mapping[str, float]:
        """Of each subject after an epoch."""
        probes = (row for row in read_rows(self.folder.probes) if row["epoch"] == epoch)
        return recall_by_subject(probes, self.facts)

    def _anchored_here(self) -> Anchored | None:
        anchor = self.strategy.anchor
        return None if anchor is None else Anchored.at(self.model, anchor.weight)


def _back_to_last_epoch(recorder: Recorder) -> int:
    """Drops all that was recorded after the last epoch whose state was kept; 0 for none."""
    done = max(states(recorder.folder.state), default=0)
    if done not in [checkpoint.epoch for checkpoint in recorder.checkpoints]:
        done = 0
    recorder.rewind(done or -1)
    return done


def _request(
    base: Path, documents: Sequence[Document], facts: Path, spec: TrainSpec, run: str
) -> dict[str, Any]:
    """All that determines the weights and rows of a run."""
    told = [(document.subject, document.text, document.tagged) for document in documents]
    texts = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    asked = hashlib.sha256("".join(f.content_hash for f in load_facts(facts)).encode()).hexdigest()
    head = {"run": run, "base": content_hash(base), "documents": texts, "facts": asked}
    return head | asdict(spec) | {"skills": list(spec.skills)}  # as JSON gives it back


def load_base(base: Path) -> tuple[Any, Any]:
    """The transformers model (float32, nothing trainable) and tokenizer of a folder.

    Raises:
        CheckpointError: The folder is not, or not surely, a model, or has no tokenizer.
    """
    files = model_files(base)
    with quiet():
        model = load_reference(files, load_config(files), torch.float32)
    return model, load_tokenizer(base)


def _precision(spec: TrainSpec, model: Any, rows: Sequence[Sequence[int]]) -> str:
    if spec.precision != "auto":
        return spec.precision
    return choose_precision(model, rows[: spec.batch_size])


def _save_dtype(spec: TrainSpec) -> str:
    return spec.save_dtype or STRATEGIES[spec.strategy].save_dtype
