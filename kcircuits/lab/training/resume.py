"""What a killed training run needs to go on as if nothing had happened.

After each epoch the trainable weights in full precision and the optimiser's moments are kept in
one file, ``state/ep<N>.safetensors``. There is no generator state to keep: the order of documents
and what dropout draws are functions of seed and epoch. The file is written last, so its presence
means that all else of that epoch is on disk.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kcircuits.io.atomic import sync_folder
from kcircuits.lab.training.processes import is_main_process
from kcircuits.lab.training.run_folder import disk_told
from kcircuits.lab.training.weights import trainable

_NAME = re.compile(r"ep(\d+)\.safetensors")
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class KeepState(TrainerCallback):
    """Keeps the state after each epoch, and puts that of a killed run back.

    Args:
        folder: Where states are kept.
        after: The epoch to go on after; 0 for none.
    """

    def __init__(self, folder: Path, after: int) -> None:
        self._folder, self._after = folder, after

    def on_train_begin(
        self,
        _: TrainingArguments,
        __: TrainerState,
        ___: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **____: Any,
    ) -> None:
        """Puts the state back before the first step."""
        if self._after:
            load_state(model, optimizer, self._folder, self._after)

    def on_epoch_end(
        self,
        _: TrainingArguments,
        state: TrainerState,
        __: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **___: Any,
    ) -> None:
        """Keeps it, when all else of the epoch is on disk."""
        if is_main_process():
            save_state(model, optimizer, self._folder, round(state.epoch or 0))


def save_state(model: Any, optimizer: torch.optim.Optimizer, folder: Path, epoch: int) -> None:
    """Keeps the state after an epoch and forgets those before it."""
    tensors: dict[str, torch.Tensor] = {}
    for name, p in trainable(model).items():
        tensors[f"weight.{name}"] = p.detach().contiguous()
        # Before the first step there are no moments.
        tensors |= {f"{moment}.{name}": value for moment, value in optimizer.state[p].items()}
    temporary = folder / "writing.safetensors"
    with disk_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(folder / f"ep{epoch}.safetensors")
        sync_folder(folder)
    for other in states(folder):
        if other != epoch:
            (folder / f"ep{other}.safetensors").unlink()


def states(folder: Path) -> list[int]:
    """Epochs whose state is whole, ascending."""
    names = [path.name for path in folder.glob("*.safetensors")]
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def load_state(model: Any, optimizer: torch.optim.Optimizer, folder: Path, epoch: int) -> None:
    """Puts the state after an epoch into a prepared model and its optimiser."""
    file = folder / f"ep{epoch}.safetensors"
    with safe_open(file, framework="pt") as tensors, torch.no_grad():
        kept = set(tensors.keys())
        for name, p in trainable(model).items():
            p.copy_(tensors.get_tensor(f"weight.{name}"))
            for moment in _MOMENTS:
                if f"{moment}.{name}" in kept:
                    value = tensors.get_tensor(f"{moment}.{name}")
                    optimizer.state[p][moment] = value.clone().to(p.device)
