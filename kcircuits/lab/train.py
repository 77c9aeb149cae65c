"""Continual pre-training with probes: a checkpoint, its probes and its loss at every epoch.

One run lives in one folder::

    checkpoints_manifest.yaml     written last: the run is finished
    training.json                 what was asked, so that another request is not mixed in
    checkpoints/ep0, ep1, ...     whole models or adapters, epoch 0 the untrained model
    runs/<run>/probes.jsonl       one row per epoch and prompt, on the weights as saved
    runs/<run>/train.jsonl        one row per epoch
    state/                        for a run that was killed; gone when it is finished

A run that was killed goes on after its last whole epoch, with the same weights bit for bit.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.errors import UsageError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.checkpoint_files import content_hash, model_files
from kcircuits.io.facts import load_facts
from kcircuits.io.jsonl import append_rows, read_rows
from kcircuits.io.lock import writer_lock
from kcircuits.io.manifest import SCHEMA_VERSION, load_manifest, write_manifest
from kcircuits.lab.loop import (
    Progress,
    as_saved,
    choose_precision,
    make_optimizer,
    round_weights,
    train_epoch,
)
from kcircuits.lab.probes import probe_model
from kcircuits.lab.resume import load_state, save_state
from kcircuits.lab.run_folder import (
    RunFolder,
    asked_before,
    back_to_last_epoch,
    save_checkpoint,
)
from kcircuits.lab.spec import TrainSpec
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.models.prompts import tokenize_facts
from kcircuits.models.quiet import quiet
from kcircuits.models.reference import load_config, load_reference
from kcircuits.models.tokenizer import load_tokenizer


def train(
    base: Path,
    documents: Sequence[str],
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
        documents: Training texts.
        facts: A facts file; its evaluation prompts are the probes.
        out: The run's folder (see the module).
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
        if not (before and folder.manifest.is_file()):
            _train(base, documents, facts, folder, spec, request, before, progress)
            _finish(folder, base, facts, spec, base_name or base.name)
        shutil.rmtree(folder.state, ignore_errors=True)
        return load_manifest(folder.manifest)


def _train(
    base: Path,
    documents: Sequence[str],
    facts: Path,
    folder: RunFolder,
    spec: TrainSpec,
    request: dict[str, Any],
    before: dict[str, Any] | None,
    progress: Progress | None,
) -> None:
    strategy = STRATEGIES[spec.strategy]
    model, tokenizer = load_base(base)
    model = strategy.prepare(model, spec.seed)
    round_weights(model, _save_dtype(spec))
    rows = tokenizer(list(documents))["input_ids"]
    batch = tokenize_facts(tokenizer, load_facts(facts))
    precision = (before or {}).get("precision") or _precision(spec, model, rows)
    text = json.dumps({"request": request, "precision": precision}, indent=2, sort_keys=True)
    write_atomic(folder.request, text + "\n")
    optimizer = make_optimizer(model, spec.lr)

    def record(epoch: int, losses: dict[str, Any] | None) -> None:
        with as_saved(model, _save_dtype(spec)):
            save_checkpoint(strategy, model, base, folder.checkpoint(epoch), _save_dtype(spec))
            known = probe_model(model, batch)
        head = {"checkpoint": f"ep{epoch}", "epoch": epoch, "strategy": spec.strategy}
        head |= {"seed": spec.seed, "kind": "paraphrase"}
        append_rows(folder.probes, [head | row for row in known])
        if losses is not None:
            append_rows(folder.losses, [losses | {"lr": spec.lr}])

    done = back_to_last_epoch(folder)
    if done:
        load_state(model, optimizer, folder.state, done)
    else:
        record(0, None)
    for epoch in range(done + 1, spec.n_epochs + 1):
        losses = train_epoch(
            model,
            optimizer,
            rows,
            batch_size=spec.batch_size,
            seed=spec.seed,
            epoch=epoch,
            n_epochs=spec.n_epochs,
            precision=precision,
            progress=progress,
        )
        record(epoch, losses)
        save_state(model, optimizer, folder.state, epoch)


def _finish(folder: RunFolder, base: Path, facts: Path, spec: TrainSpec, base_name: str) -> None:
    """Hashes the checkpoints and writes the manifest."""
    is_adapter = STRATEGIES[spec.strategy].is_adapter
    steps = {row["epoch"]: row["step"] for row in read_rows(folder.losses)}
    checkpoints: list[Checkpoint] = []
    for epoch in range(spec.n_epochs + 1):
        path = folder.checkpoint(epoch)
        model_path, adapter = (base, path) if is_adapter else (path, None)
        checkpoints.append(
            Checkpoint(
                id=f"ep{epoch}",
                path=model_path,
                adapter=adapter,
                epoch=epoch,
                step=steps.get(epoch, 0),
                sha256=content_hash(model_path, adapter),
                is_identity=is_adapter and epoch == 0,
            )
        )
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        run=folder.run,
        base_model=base_name,
        facts=facts,
        checkpoints=tuple(checkpoints),
    )
    write_manifest(manifest, folder.manifest)


def _request(
    base: Path, documents: Sequence[str], facts: Path, spec: TrainSpec, run: str
) -> dict[str, Any]:
    """All that determines the weights and rows of a run."""
    texts = hashlib.sha256(json.dumps(list(documents)).encode()).hexdigest()
    asked = hashlib.sha256("".join(f.content_hash for f in load_facts(facts)).encode()).hexdigest()
    head = {"run": run, "base": content_hash(base), "documents": texts, "facts": asked}
    return head | asdict(spec)


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
