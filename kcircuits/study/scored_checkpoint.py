"""The checkpoint behind an epoch of a run, loaded anew: it has to be the one that was scored."""

from pathlib import Path

import torch

from kcircuits.core.manifest import Checkpoint
from kcircuits.errors import CheckpointError
from kcircuits.io.manifest import load_manifest
from kcircuits.models import Model, load_model
from kcircuits.study.run import Run


def find_checkpoint(run: Run, epoch: str, manifest: str | Path | None = None) -> Checkpoint:
    """Where the checkpoint of an epoch lies, by a manifest or the one that the run was made from.

    Raises:
        ManifestError: The manifest breaks a rule.
        UsageError: It has no such checkpoint.
    """
    file = run.path / run.record.manifest if manifest is None else Path(manifest)
    return load_manifest(file)[epoch]


def load_scored(run: Run, epoch: str, checkpoint: Checkpoint, device: str = "cpu") -> Model:
    """The model of an epoch, in the data type of the run.

    Raises:
        CheckpointError: The checkpoint is not the one that the run has scored.
        UsageError: The device is not there.
    """
    dtype = getattr(torch, str(run.request.settings["dtype"]))
    model = load_model(checkpoint, dtype=dtype, device=device)
    scored = run.checkpoint(epoch).content_hash
    if model.content_hash != scored:
        raise CheckpointError(
            f"checkpoint {epoch} is not the one that the run has scored: its hash was "
            f"{(scored or '')[:12]} and is {(model.content_hash or '')[:12]} now",
            file=checkpoint.adapter or checkpoint.path,
            hint=f"score it anew with `kcircuits run --epochs {epoch}`",
        )
    return model
