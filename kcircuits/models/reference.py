"""The plain transformers model of a checkpoint, loaded so that nothing can be quietly wrong.

The library fills missing tensors with random numbers, ignores surplus ones and unties or re-ties
embeddings as it sees fit. Here each of these is an error that names the tensor.
"""

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

from kcircuits.errors import CheckpointError
from kcircuits.io.checkpoint_files import CheckpointFiles
from kcircuits.models.families import FAMILIES, Family

_FLOATS = ("F64", "F32", "F16", "BF16")
# Tensors that old files hold and that are no weights: causal masks and rotary frequencies, both
# of which the model makes from its config.
_HARMLESS = re.compile(r"(\.attn|\.attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")
_REMEDY = "save the checkpoint again with save_pretrained(), or copy it again"


def family_of(files: CheckpointFiles) -> Family:
    """The family that config.json names; CheckpointError where it is none of ours."""
    model_type = files.config.get("model_type")
    if model_type in FAMILIES:
        return FAMILIES[str(model_type)]
    if model_type == "gemma3":
        hint = "save its language model alone (model_type gemma3_text)"
    elif "auto_map" in files.config:
        hint = (
            "it brings its own code (auto_map), which is never run; convert it to one of "
            f"{', '.join(FAMILIES)}"
        )
    else:
        hint = f"supported are {', '.join(FAMILIES)}"
    raise CheckpointError(
        f"model_type {model_type!r} is not supported",
        file=files.root / "config.json",
        field="model_type",
        hint=hint,
    )


def load_config(files: CheckpointFiles) -> Any:
    """The transformers config of a folder; CheckpointError where the library refuses it."""
    try:
        return AutoConfig.from_pretrained(
            files.root, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the library raises whatever a malformed config leads it to
        raise CheckpointError(
            f"the config cannot be used: {_first_line(error)}", file=files.root / "config.json"
        ) from error


def load_reference(files: CheckpointFiles, config: Any, dtype: torch.dtype) -> Any:
    """The transformers model with exactly the tensors of the files.

    Raises:
        CheckpointError: A tensor is missing, surplus, of another shape, not a number, or tied to
            one that differs from it.
    """
    _check_dtypes(files)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            files.root,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # a shape that does not fit, a config that contradicts itself
        raise CheckpointError(
            f"the weights do not fit the config: {_first_line(error)}",
            file=files.root,
            hint=_REMEDY,
        ) from error
    model, info = loaded
    _check_loading_info(files, info)
    _check_tied(files, model)
    check_finite(model, files.root)
    if dtype == torch.float64:
        set_rotary_buffers(model, dtype)
    return model.eval().requires_grad_(False)


def check_finite(model: torch.nn.Module, where: object) -> None:
    """CheckpointError that names the first tensor with NaN or infinite values."""
    for name, tensor in model.named_parameters():
        # A sum is not finite as soon as one term is not, and much faster; overflow of the sum
        # itself is told apart by the exact test.
        if not tensor.sum(dtype=torch.float64).isfinite() and not tensor.isfinite().all():
            n_bad = int((~tensor.isfinite()).sum())
            raise CheckpointError(
                f"tensor {name} holds {n_bad} values that are NaN or infinite",
                file=where,
                field=name,
                hint="the training run diverged or the file is damaged; use another checkpoint",
            )


def double_throughout(dtype: torch.dtype) -> AbstractContextManager[object]:
    """For float64, a context in which the libraries do not fall back to float32.

    transformers computes norms, softmax and rotary angles in float32 by name. For bfloat16 that
    is a gain, for float64 a loss of nine digits, which would hide errors of the loader. Never
    read a file inside: its bytes would be taken for doubles.
    """
    return _DoubleThroughout() if dtype == torch.float64 else nullcontext()


def set_rotary_buffers(model: Any, dtype: torch.dtype) -> None:
    """Compute the rotary frequencies of a transformers model again, in float64 or float32."""
    for module in model.modules():
        if type(module).__name__.endswith("RotaryEmbedding"):
            with double_throughout(dtype):
                fresh = type(module)(config=module.config)
            for name, buffer in fresh.named_buffers():
                setattr(module, name, buffer.to(getattr(module, name).device))


class _DoubleThroughout(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        named = {key: _doubled(value) for key, value in (kwargs or {}).items()}
        return func(*map(_doubled, args), **named)


def _doubled(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def _check_dtypes(files: CheckpointFiles) -> None:
    for name, info in files.tensors.items():
        if info.dtype not in _FLOATS and not _HARMLESS.search(name):
            raise CheckpointError(
                f"tensor {name} is stored as {info.dtype}; weights are {', '.join(_FLOATS)}",
                file=info.file,
                field=name,
                hint="save a dequantised copy (float32 or bfloat16) and load that",
            )


def _check_loading_info(files: CheckpointFiles, info: dict[str, Any]) -> None:
    mismatched = sorted(str(key[0]) for key in info["mismatched_keys"])
    surplus = sorted(key for key in info["unexpected_keys"] if not _HARMLESS.search(key))
    for keys, problem in (
        (sorted(info["missing_keys"]), "missing from"),
        (mismatched, "of another shape in"),
        (surplus, "not part of this model but in"),
    ):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise CheckpointError(
                f"tensor {keys[0]}{more} is {problem} the files",
                file=files.root,
                field=keys[0],
                hint=_REMEDY,
            )
    if info["error_msgs"]:
        raise CheckpointError(str(info["error_msgs"][0]), file=files.root, hint=_REMEDY)


def _check_tied(files: CheckpointFiles, model: Any) -> None:
    """The config ties the embeddings, but the files hold two that differ."""
    output = model.get_output_embeddings().weight
    if model.config.tie_word_embeddings and output is not model.get_input_embeddings().weight:
        raise CheckpointError(
            "the config ties lm_head to the embeddings, but the files hold a lm_head that differs",
            file=files.root / "config.json",
            field="tie_word_embeddings",
            hint='write "tie_word_embeddings": false if the model was trained untied',
        )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
