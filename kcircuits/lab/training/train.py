"""Continual pre-training with probes: a checkpoint, its probes and its loss at every epoch.

Training is transformers' (``trainer``), and each epoch is recorded by the callback that records the
Trainers of others (``callback``). Beside its files lies ``state/``, for a run that was killed; it
goes when the run is finished, which is when the manifest has all epochs.

A run that was killed goes on after its last whole epoch, with the same weights bit for bit.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from kcircuits.core.manifest import Manifest
from kcircuits.errors import UsageError
from kcircuits.io.checkpoint_files import content_hash, model_files
from kcircuits.io.facts import load_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.io.lock import writer_lock
from kcircuits.io.manifest import load_manifest
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.skills import measure_skills
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.training.callback import ProbeCallback
from kcircuits.lab.training.lessons import Lessons, recall_by_subject
from kcircuits.lab.training.loss_meter import LossMeter
from kcircuits.lab.training.processes import on_main
from kcircuits.lab.training.resume import KeepState, states
from kcircuits.lab.training.run_folder import RunFolder, asked_before, recorded
from kcircuits.lab.training.saving import saver_of_strategy
from kcircuits.lab.training.spec import TrainSpec
from kcircuits.lab.training.step import Progress, choose_precision
from kcircuits.lab.training.trackers import EpochLog, check_trackers
from kcircuits.lab.training.trainer import ContinualTrainer, Course, training_arguments
from kcircuits.lab.training.undisturbed import same_randomness
from kcircuits.lab.training.weights import round_weights
from kcircuits.models.fetch import fetch_model
from kcircuits.models.quiet import quiet
from kcircuits.models.reference import load_config, load_reference
from kcircuits.models.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is asked of a run, and what there is of it already.

    Attributes:
        base: Folder of the untrained model.
        request: All that determines the weights and rows of the run.
        precision: What was chosen when the run began; None for a new one.
        epoch: The last epoch that a killed run has left whole, with its state; 0 for none.
        step: Optimiser steps up to there.
        is_finished: All epochs are recorded.
    """

    base: Path
    request: Mapping[str, Any]
    precision: str | None
    epoch: int
    step: int
    is_finished: bool


def train(
    base: str | Path,
    documents: Sequence[Document],
    facts: Path,
    out: Path,
    spec: TrainSpec,
    *,
    run: str,
    base_name: str | None = None,
    progress: Progress | None = None,
    report_to: Sequence[str] = (),
) -> Manifest:
    """Trains, saves and probes at every epoch; goes on where a killed run stopped.

    On one GPU where there is one, else on the CPU; on several in as many processes
    (``accelerate launch``), each of which calls this.

    Args:
        base: The untrained model: a folder, a Hub id, or a name for ``fetch_model``.
        documents: Training texts and whom they are about.
        facts: A facts file; its evaluation prompts are the probes.
        out: The run's folder (see ``kcircuits.lab.training.recorder``).
        spec: How to train.
        run: Name of the run.
        base_name: The base model's name in the manifest; default its folder's.
        progress: Called after every step, in the main process.
        report_to: Names of trackers (``tensorboard``, ``wandb``, ...) to report to.

    Raises:
        UsageError: The folder holds a run that was asked for otherwise, there are no documents,
            a tracker is not installed, training diverged, or one process has several GPUs.
        StoreBusyError: Another process trains in this folder.
        CheckpointError: The base is not, or not surely, a model.
        FileAccessError: The disk is full, or the folder may not be written.
    """
    if not documents:
        raise UsageError("there are no documents to train on", field="documents")
    if not STRATEGIES[spec.strategy].is_training:
        raise UsageError(
            f"{spec.strategy} trains nothing",
            field="strategy",
            hint="record it with kcircuits.lab.probing.alone.record_without_training",
        )
    check_trackers(report_to)
    folder = RunFolder(root=Path(out).absolute(), run=run)
    with same_randomness(), ExitStack() as held:
        training_arguments(spec, folder.root, name=run)  # the processes join before the first waits

        def begin() -> _Asked:
            held.enter_context(writer_lock(folder.root / ".training.lock"))
            return _asked(base, documents, facts, folder, spec)

        asked = on_main(begin)
        if not asked.is_finished:
            args = training_arguments(
                spec,
                folder.root / "trackers" if report_to else folder.root,
                name=run,
                n_before=asked.epoch,
                report_to=report_to,
            )
            course = _prepare(documents, facts, folder, spec, asked, base_name, args, progress)
            course.train()
        return on_main(lambda: _finished(folder))


def _asked(
    base: str | Path, documents: Sequence[Document], facts: Path, folder: RunFolder, spec: TrainSpec
) -> _Asked:
    """Compares a request with what the folder holds; UsageError where that is another run."""
    root = fetch_model(base)
    request = _request(root, documents, facts, spec, folder.run)
    before = asked_before(folder, request) or {}
    steps = {checkpoint.epoch: checkpoint.step or 0 for checkpoint in recorded(folder)}
    epoch = max((each for each in states(folder.state) if each in steps), default=0)
    return _Asked(
        base=root,
        request=request,
        precision=before.get("precision"),
        epoch=epoch,
        step=steps.get(epoch, 0),
        is_finished=len(steps) > spec.n_epochs,
    )


def _finished(folder: RunFolder) -> Manifest:
    shutil.rmtree(folder.state, ignore_errors=True)
    return load_manifest(folder.manifest)


def _prepare(
    documents: Sequence[Document],
    facts: Path,
    folder: RunFolder,
    spec: TrainSpec,
    asked: _Asked,
    base_name: str | None,
    args: TrainingArguments,
    progress: Progress | None,
) -> ContinualTrainer:
    """The Trainer of a run, with all that records it."""
    strategy, name = STRATEGIES[spec.strategy], base_name or asked.base.name
    model, tokenizer = load_base(asked.base)
    lessons = Lessons(
        strategy, documents, model.to(args.device), tokenizer, spec.seed, spec.max_tokens
    )
    # New weights are drawn on the CPU: the same ones on every device.
    model = strategy.prepare(model.cpu(), spec.seed)
    round_weights(model, _save_dtype(spec))
    model.to(args.device)
    precision = asked.precision or on_main(lambda: _precision(spec, model, lessons.rows(1, {})))
    course = Course(
        spec=spec,
        shown=partial(_shown, lessons, folder, facts),
        n_most=lessons.n_most,
        precision=precision,
        anchor=strategy.anchor,
        epoch=asked.epoch,
        step=asked.step,
    )
    meter, kept = LossMeter(), KeepState(folder.state, asked.epoch)
    probes = _probes(facts, folder, spec, asked, name, precision, tokenizer, meter)
    trainer = ContinualTrainer(
        model, args, course, meter=meter, progress=progress, callbacks=[probes, kept]
    )
    if args.report_to:
        trainer.add_callback(EpochLog(trainer.log, probes))
    return trainer


def _probes(
    facts: Path,
    folder: RunFolder,
    spec: TrainSpec,
    asked: _Asked,
    base_name: str,
    precision: str,
    tokenizer: Any,
    meter: LossMeter,
) -> ProbeCallback:
    """What records the run; it begins anew where there is no epoch to go on after."""
    return ProbeCallback(
        facts,
        folder.root,
        run=folder.run,
        tokenizer=tokenizer,
        meter=meter,
        strategy=spec.strategy,
        seed=spec.seed,
        base_model=base_name,
        skills=partial(measure_skills, names=spec.skills) if spec.skills else None,
        questions=spec.questions,
        saver=saver_of_strategy(STRATEGIES[spec.strategy], asked.base, _save_dtype(spec)),
        request=asked.request,
        decided={"precision": precision},
        overwrite=True,
    )


def _shown(lessons: Lessons, folder: RunFolder, facts: Path, epoch: int) -> list[list[int]]:
    """What an epoch shows, by the recall of each subject after the epoch before."""

    def recall() -> Mapping[str, float]:
        probes = (row for row in read_rows(folder.probes) if row["epoch"] == epoch - 1)
        return recall_by_subject(probes, load_facts(facts))

    return lessons.rows(epoch, on_main(recall))


def _request(
    base: Path, documents: Sequence[Document], facts: Path, spec: TrainSpec, run: str
) -> dict[str, Any]:
    """All that determines the weights and rows of a run."""
    told = [(document.subject, document.text, document.tagged) for document in documents]
    texts = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    asked = hashlib.sha256("".join(f.content_hash for f in load_facts(facts)).encode()).hexdigest()
    head = {"recorder": "lab train", "run": run, "base": content_hash(base)}
    head |= {"documents": texts, "facts": asked}
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
