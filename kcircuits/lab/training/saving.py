"""Saves a model that is being trained so that ``load_model`` gives that very model.

Two kinds: a whole model (config, safetensors, tokenizer) and a LoRA adapter (its config and
safetensors, the tokenizer, and a record of the base that it belongs to). What could be loaded as
another model than the one in memory is refused before training starts: sharded, quantised or
doubly adapted weights, a config that ties embeddings which are not tied, an adapter whose base in
memory is not the one in the folder.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from kcircuits.errors import CheckpointError, KCircuitsError, UsageError
from kcircuits.io.checkpoint_files import BASE_RECORD, base_record, content_hash, model_files
from kcircuits.lab.strategies import Strategy
from kcircuits.lab.training.weights import as_saved
from kcircuits.models.fetch import fetch_model
from kcircuits.models.quiet import quiet

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Saver:
    """How the weights of one training run are saved.

    Attributes:
        save: Writes the files of a checkpoint of the model into an empty folder.
        base: Folder of the model below an adapter; None where whole models are saved.
        dtype: Data type that trainable weights are rounded to when saved; None leaves them.
    """

    save: Callable[[Any, Path], None]
    base: Path | None = None
    dtype: str | None = None

    @contextmanager
    def as_saved(self, model: Any) -> Iterator[None]:
        """Inside, the model's weights are what its checkpoint gives when loaded."""
        if self.dtype is None:
            yield
        else:
            with as_saved(model, self.dtype):
                yield


def saver_of_strategy(strategy: Strategy, base: Path, dtype: str) -> Saver:
    """Saves as a training strategy does, on the base model in a folder."""

    def save(model: Any, folder: Path) -> None:
        strategy.save(model, base, folder, dtype)

    return Saver(save=save, base=base if strategy.is_adapter else None, dtype=dtype)


def saver_of_model(model: Any, tokenizer: Any, base: str | Path | None) -> Saver:
    """Saves a transformers or PEFT model of somebody else's training, as it is in memory.

    Args:
        model: Before its first step.
        tokenizer: Saved beside the weights.
        base: Folder of the base model of an adapter; default what the adapter names.

    Raises:
        UsageError: A kind of model that cannot be saved so that it loads as itself.
        CheckpointError: The base in the folder is not the one in memory.
    """
    _require_plain_weights(model)
    if not isinstance(model, PeftModel):
        if base is not None:
            raise UsageError(
                f"base is {str(base)!r}, but the model is no PEFT adapter",
                field="base",
                hint="leave base out: whole models are saved",
            )
        _require_whole(model)
        return Saver(save=lambda live, folder: _save_whole(live, tokenizer, folder))
    name = _adapter_name(model)
    below = _base_folder(model.peft_config[name].base_model_name_or_path, base)
    _require_same_base(model, below)
    record = base_record(content_hash(below))

    def save(live: Any, folder: Path) -> None:
        _save_adapter(live, name, below, folder)
        (folder / BASE_RECORD).write_text(record, encoding="utf-8")
        tokenizer.save_pretrained(folder)

    return Saver(save=save, base=below)


def is_identity(model: Any) -> bool:
    """Whether the model is a LoRA adapter that changes nothing yet: all its B matrices are zero."""
    if not isinstance(model, PeftModel):
        return False
    b_matrices = [p for name, p in model.named_parameters() if "lora_B" in name or "_B." in name]
    return not any(bool(torch.any(p)) for p in b_matrices)


def _save_whole(model: Any, tokenizer: Any, folder: Path) -> None:
    before = dict(vars(model.config))  # the library writes its data type and class into it
    try:
        with quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (ValueError, RuntimeError, NotImplementedError) as cause:
        raise CheckpointError(
            f"transformers cannot save this model: {' '.join(str(cause).split())[:300]}",
            file=folder,
            hint="make model.save_pretrained(FOLDER) work first",
        ) from cause
    finally:
        vars(model.config).clear()
        vars(model.config).update(before)


def _save_adapter(model: Any, name: str, base: Path, folder: Path) -> None:
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    tensors = {key: tensor.detach().contiguous() for key, tensor in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config[name]
    before = config.inference_mode, config.base_model_name_or_path
    # Where the base happens to lie on this machine is no part of the checkpoint.
    config.inference_mode, config.base_model_name_or_path = True, base.name
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode, config.base_model_name_or_path = before


def _require_plain_weights(model: Any) -> None:
    if not isinstance(model, PeftModel | PreTrainedModel):
        raise UsageError(
            f"the model is a {type(model).__name__}; a transformers or PEFT model was expected",
            field="model",
            hint="give the model inside the wrapper, e.g. model.module",
        )
    for name, p in model.named_parameters():
        if hasattr(p, "ds_id") or hasattr(p, "device_mesh") or p.is_meta or not p.numel():
            raise UsageError(
                f"weight {name} is not whole in this process (FSDP, ZeRO 3 or offloading)",
                field="model",
                hint="train with data parallelism (DDP), or ZeRO 1 or 2",
            )
    body = model.get_base_model() if isinstance(model, PeftModel) else model
    if getattr(body, "is_quantized", False) or getattr(body, "hf_quantizer", None) is not None:
        raise UsageError(
            "the weights are quantised: circuits would be found on other numbers than are trained",
            field="model",
            hint="load the model without quantization_config",
        )


def _require_whole(model: Any) -> None:
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UsageError(
            "the adapter was added with model.add_adapter(), so there is no PEFT model to save",
            field="model",
            hint="wrap the model with peft.get_peft_model(model, config)",
        )
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    is_tied = output is not None and output.weight is embedding.weight
    if output is not None and model.config.tie_word_embeddings and not is_tied:
        raise UsageError(
            "the config ties lm_head to the embeddings, but in memory they are two matrices: "
            "loaded again, it would be another model",
            field="tie_word_embeddings",
            hint="set model.config.tie_word_embeddings = False, or tie them: model.tie_weights()",
        )


def _adapter_name(model: Any) -> str:
    names = list(model.peft_config)
    if len(names) != 1:
        raise UsageError(
            f"the model holds the adapters {', '.join(names)}; one was expected",
            field="model",
            hint="merge or delete the others before training",
        )
    kind = str(getattr(model.peft_config[names[0]].peft_type, "value", "unknown"))
    if kind != "LORA":
        raise UsageError(
            f"peft_type {kind!r} is not supported, only LORA adapters can be loaded again",
            field="model",
            hint="train a LoRA adapter, or the whole model",
        )
    return names[0]


def _base_folder(named: str | None, base: str | Path | None) -> Path:
    """The folder given, else the one that the adapter's config names, else the Hub's copy of it."""
    source = named if base is None else base
    if source is not None and (Path(source) / "config.json").is_file():
        return Path(source).absolute()
    if base is None and named:
        try:
            return fetch_model(named).absolute()
        except KCircuitsError as cause:
            raise _no_base(named) from cause
    raise _no_base(source)


def _no_base(source: object) -> UsageError:
    return UsageError(
        f"the adapter's base model {str(source)!r} is no model folder",
        field="base",
        hint="name the folder with its config.json and safetensors: base=FOLDER",
    )


def _require_same_base(model: Any, folder: Path) -> None:
    """CheckpointError unless the frozen weights in memory are those of the folder."""
    frozen = {
        name.replace(".base_layer", "").replace(".original_module", ""): p
        for name, p in model.get_base_model().named_parameters()
        if not p.requires_grad
    }
    files = model_files(folder)
    shared = [name for name in frozen if name in files.tensors]
    if not shared:
        raise CheckpointError(
            "none of the model's frozen tensors is in the base's folder",
            file=folder,
            hint="name the folder that the base was loaded from: base=FOLDER",
        )
    is_rounded = False
    for file in sorted({files.tensors[name].file for name in shared}):
        with safe_open(file, framework="pt") as tensors:
            for name in (name for name in shared if files.tensors[name].file == file):
                stored, here = tensors.get_tensor(name), frozen[name].detach().cpu()
                if stored.shape != here.shape or not torch.equal(stored.to(here.dtype), here):
                    raise CheckpointError(
                        f"tensor {name} in memory is not the one in the base's folder",
                        file=file,
                        field=name,
                        hint="name the folder that the base was loaded from: base=FOLDER",
                    )
                is_rounded |= not torch.equal(stored, here.to(stored.dtype))
    if is_rounded:
        logger.warning(
            "the base was rounded to %s when it was loaded: probes while training see the rounded "
            "weights, load_model those of %s",
            model.dtype,
            folder,
        )
