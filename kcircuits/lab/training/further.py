"""Trains a checkpoint a little further, on some texts, and saves it as what it was.

For controls of the way that checkpoints go: through training, onto the disk and back. A whole model
is saved whole, an adapter as an adapter of the same base. Nothing is probed or recorded.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kcircuits.core.manifest import Checkpoint
from kcircuits.io.checkpoint_files import adapter_files, content_hash, model_files
from kcircuits.lab.training.loss_meter import LossMeter
from kcircuits.lab.training.saving import saver_of_model
from kcircuits.lab.training.spec import TrainSpec
from kcircuits.lab.training.trainer import ContinualTrainer, Course, training_arguments
from kcircuits.lab.training.undisturbed import same_randomness
from kcircuits.models.adapters import with_adapter
from kcircuits.models.quiet import quiet
from kcircuits.models.reference import load_config, load_reference


def train_further(
    checkpoint: Checkpoint,
    tokenizer: Any,
    texts: Sequence[str],
    folder: Path,
    *,
    lr: float,
    seed: int = 0,
    batch_size: int = 8,
) -> Checkpoint:
    """Trains all weights of a model, or an adapter, for one epoch in float32.

    Args:
        checkpoint: Where training begins.
        tokenizer: Its tokenizer.
        texts: Training texts.
        folder: An empty folder for the checkpoint.
        lr: Learning rate.
        seed: Of the order of the texts.
        batch_size: Texts per optimiser step.

    Returns:
        The trained checkpoint.

    Raises:
        CheckpointError: The checkpoint is not, or not surely, a model.
        UsageError: Training diverged.
    """
    spec = TrainSpec(n_epochs=1, lr=lr, batch_size=batch_size, seed=seed)
    rows: list[list[int]] = [tokenizer(text)["input_ids"] for text in texts]
    with same_randomness():
        model = _trainable(checkpoint)
        saver = saver_of_model(
            model, tokenizer, None if checkpoint.adapter is None else checkpoint.path
        )
        args = training_arguments(spec, folder, name=checkpoint.id)
        course = Course(spec=spec, shown=lambda _: rows, n_most=len(rows))
        ContinualTrainer(model.to(args.device), args, course, meter=LossMeter()).train()
        with quiet():
            saver.save(model.cpu(), folder)
    place = {"adapter": folder} if checkpoint.adapter is not None else {"path": folder}
    trained = replace(checkpoint, **place)
    return replace(trained, sha256=content_hash(trained.path, trained.adapter))


def _trainable(checkpoint: Checkpoint) -> Any:
    """The plain transformers or PEFT model with its own trainable parameters marked."""
    files = model_files(checkpoint.path)
    with quiet():
        model = load_reference(files, load_config(files), torch.float32)
        if checkpoint.adapter is None:
            return model.requires_grad_(True)
        peft = with_adapter(model, adapter_files(checkpoint.adapter), checkpoint)
        peft.set_adapter(peft.active_adapter)  # marks the adapter's parameters, and no other
    return peft
