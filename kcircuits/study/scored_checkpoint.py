"""The checkpoint behind an epoch of a run, loaded anew: it has to be the one that was scored."""

from pathlib import Path

import torch

from kcircuits.core.manifest import Checkpoint
from kcircuits.errors import CheckpointError
from kcircuits.io.checkpoint_files import content_hash
from kcircuits.io.manifest import load_manifest
from kcircuits.models import Model, load_model, swap_checkpoint
from kcircuits.study.run import Run


def find_checkpoint(run: Run, epoch: str, manifest: str | Path | None = None) -> Checkpoint:
    """Where the checkpoint of an epoch lies, by a manifest or the one that the run was made from.

    Raises:
        ManifestError: The manifest breaks a rule.
        UsageError: It has no such checkpoint.
    """
    file = run.path / run.record.manifest if manifest is None else Path(manifest)
    return load_manifest(file)[epoch]


def load_scored(
    run: Run,
    epoch: str,
    *,
    manifest: str | Path | None = None,
    device: str = "cpu",
    previous: Model | None = None,
) -> Model:
    """The model of an epoch, in the floating-point type of the run.

    Args:
        run: The run.
        epoch: Id of the checkpoint.
        manifest: Says where the checkpoint lies; default the manifest that the run was made from.
        device: Where to compute.
        previous: A model of the same architecture whose memory is used, and which is then spent.

    Raises:
        CheckpointError: The checkpoint is not the one that the run has scored.
        UsageError: The manifest does not know the epoch, or there is no such device.
    """
    checkpoint = find_checkpoint(run, epoch, manifest)
    if previous is None:
        dtype = getattr(torch, str(run.request.settings["dtype"]))
        model = load_model(checkpoint, dtype=dtype, device=device)
    else:
        model = swap_checkpoint(previous, checkpoint)
    _require(run, checkpoint, model.content_hash)
    return model


def check_scored(run: Run, epoch: str, manifest: str | Path | None) -> None:
    """CheckpointError where an epoch's checkpoint is not, or no longer, the one scored."""
    checkpoint = find_checkpoint(run, epoch, manifest)
    _require(run, checkpoint, content_hash(checkpoint.path, checkpoint.adapter))


def _require(run: Run, checkpoint: Checkpoint, found: str) -> None:
    scored = run.checkpoint(checkpoint.id).content_hash
    if found != scored:
        raise CheckpointError(
            f"checkpoint {checkpoint.id} is not the one that the run has scored: its hash was "
            f"{(scored or '')[:12]} and is {found[:12]} now",
            file=checkpoint.adapter or checkpoint.path,
            hint=f"score it anew with `kcircuits run --epochs {checkpoint.id}`",
        )
