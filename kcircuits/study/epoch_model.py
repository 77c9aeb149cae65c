"""The checkpoint of a run's epoch as a model, and the proof that it is the one that was scored."""

from pathlib import Path

import torch

from kcircuits.errors import CheckpointError
from kcircuits.io.manifest import load_manifest
from kcircuits.models import Model, load_model, swap_checkpoint
from kcircuits.study.run import Run


def load_epoch(
    run: Run,
    epoch: str,
    *,
    manifest: str | Path | None = None,
    device: str = "cpu",
    previous: Model | None = None,
) -> Model:
    """Loads the checkpoint of an epoch, in the run's floating-point type.

    Args:
        run: The run.
        epoch: Id of the checkpoint.
        manifest: Says where the checkpoint lies; default the manifest that the run was made from.
        device: Where to compute.
        previous: A model of the same architecture whose memory is used, and which is then spent.

    Raises:
        CheckpointError: The checkpoint is not the one that the run has scored.
    """
    file = run.path / run.record.manifest if manifest is None else Path(manifest)
    checkpoint = load_manifest(file)[epoch]
    if previous is None:
        dtype = getattr(torch, str(run.request.settings["dtype"]))
        model = load_model(checkpoint, dtype=dtype, device=device)
    else:
        model = swap_checkpoint(previous, checkpoint)
    scored = run.checkpoint(epoch).content_hash
    if model.content_hash != scored:
        raise CheckpointError(
            f"checkpoint {epoch} is not the one that the run has scored: its hash was "
            f"{(scored or '')[:12]} and is {(model.content_hash or '')[:12]} now",
            file=checkpoint.adapter or checkpoint.path,
            hint=f"score it anew with `kcircuits run --epochs {epoch}`",
        )
    return model
