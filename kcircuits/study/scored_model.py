"""The checkpoint of an epoch, which has to be the one that the run has scored."""

from pathlib import Path

import torch

from kcircuits.core.manifest import Checkpoint
from kcircuits.errors import CheckpointError
from kcircuits.io.checkpoint_files import content_hash
from kcircuits.io.manifest import load_manifest
from kcircuits.models import Model, load_model
from kcircuits.study.run import Run


def load_scored(run: Run, epoch: str, manifest: str | Path | None, device: str) -> Model:
    """Loads the checkpoint of an epoch.

    Args:
        run: The run.
        epoch: Id of the checkpoint.
        manifest: Says where the checkpoint lies; default the manifest that the run was made from.
        device: Where to compute.

    Raises:
        CheckpointError: It is not the one that the run has scored, or no sound one.
        UsageError: The manifest does not know the epoch, or there is no such device.
    """
    checkpoint = _checkpoint(run, epoch, manifest)
    dtype = getattr(torch, str(run.request.settings["dtype"]))
    model = load_model(checkpoint, dtype=dtype, device=device)
    _require(run, checkpoint, model.content_hash)
    return model


def check_scored(run: Run, epoch: str, manifest: str | Path | None) -> None:
    """CheckpointError where an epoch's checkpoint is not, or no longer, the one scored."""
    checkpoint = _checkpoint(run, epoch, manifest)
    _require(run, checkpoint, content_hash(checkpoint.path, checkpoint.adapter))


def _checkpoint(run: Run, epoch: str, manifest: str | Path | None) -> Checkpoint:
    return load_manifest(run.path / run.record.manifest if manifest is None else manifest)[epoch]


def _require(run: Run, checkpoint: Checkpoint, found: str) -> None:
    scored = run.checkpoint(checkpoint.id).content_hash
    if found != scored:
        raise CheckpointError(
            f"checkpoint {checkpoint.id} is not the one that the run has scored: its hash was "
            f"{(scored or '')[:12]} and is {found[:12]} now",
            file=checkpoint.adapter or checkpoint.path,
            hint=f"score it anew with `kcircuits run --epochs {checkpoint.id}`",
        )
