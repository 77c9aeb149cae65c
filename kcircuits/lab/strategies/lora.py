"""LoRA on the query and value projections, with the token embedding trained in full.

The embedding is trained apart from an output layer that was tied to it, which stays as it was:
whoever merges such an adapter has to untie the two, or gets another model.

Source: Hu et al. 2021, arXiv:2106.09685; rank, scale and modules as in Mousavi, Alghisi, Riccardi
2026, arXiv:2601.03858 (r 32, alpha 64, no dropout here).
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from kcircuits.errors import UsageError
from kcircuits.io.checkpoint_files import BASE_RECORD, base_record, content_hash
from kcircuits.lab.strategies.strategy import Strategy
from kcircuits.models.quiet import quiet

RANK = 32
ALPHA = 64
TARGETS = ("q_proj", "v_proj")
EMBEDDING = "embed_tokens"


def prepare(model: Any, seed: int) -> Any:
    """A PEFT model around the base; A is drawn from the seed, B is zero.

    Raises:
        UsageError: The architecture has no modules of these names.
    """
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if absent := sorted({*TARGETS, EMBEDDING} - names):
        raise UsageError(
            f"model_type {model.config.model_type!r} has no module {absent[0]}",
            field="strategy",
            hint="train it with --strategy full",
        )
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=list(TARGETS),
        modules_to_save=[EMBEDDING],
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def save(model: Any, base: Path, folder: Path, dtype: str) -> None:
    """The adapter's weights and config, and a record of the base that they belong to."""
    tensors = {
        name: tensor.detach().to(getattr(torch, dtype)).contiguous()
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"]
    was_inference, named = config.inference_mode, config.base_model_name_or_path
    # Where the base happens to lie on this machine is no part of the checkpoint.
    config.inference_mode, config.base_model_name_or_path = True, base.name
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode, config.base_model_name_or_path = was_inference, named
    record = base_record(content_hash(base))
    (folder / BASE_RECORD).write_text(record, encoding="utf-8")


LORA = Strategy(name="lora", prepare=prepare, save=save, is_adapter=True, save_dtype="float32")
