"""Full fine-tuning: every weight is trained, and a checkpoint is a whole model."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kcircuits.io.checkpoint_files import TOKENIZER_FILES
from kcircuits.lab.strategies.strategy import Strategy


def prepare(model: Any, seed: int) -> Any:
    """The same model, all of it trainable."""
    del seed
    return model.requires_grad_(True)


def save(model: Any, base: Path, folder: Path, dtype: str) -> None:
    """Weights, the base's config with their data type, the base's tokenizer.

    Tied tensors are stored once, as the transformers library does.
    """
    tensors = {
        name: tensor.detach().to(getattr(torch, dtype)).contiguous()
        for name, tensor in model.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    text = json.dumps(config | {"dtype": dtype}, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


FULL = Strategy(name="full", prepare=prepare, save=save, is_adapter=False, save_dtype="bfloat16")
