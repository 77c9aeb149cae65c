"""Logits of the model that circuits come from = logits of the plain transformers/PEFT model.

Same weights do not make the same model: an activation, an epsilon, a rotary base or re-tied
embeddings change the numbers and nothing else. So every checkpoint that is loaded answers the
same fixed tokens in both implementations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kcircuits.errors import CheckpointError

# Largest |difference| allowed, as a share of the largest |logit|. float32: seen are 3e-6 (SmolLM2)
# and 9e-6 (Gemma 3). float64: rounding alone. bfloat16 is checked in float32, and then that
# rounding the weights left the same model: 8 bits of mantissa through some dozen layers.
BOUNDS = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 5e-2}
_N_POS = 32


@dataclass(frozen=True, kw_only=True)
class ProbeLogits:
    """Fixed tokens, and the plain model's logits after the last of them."""

    tokens: Int[Tensor, "prompt pos"]
    last: Float[Tensor, "prompt d_vocab"]


# Sliding windows longer than this are not crossed by the probe: it would cost more than it tells.
_MAX_WINDOW = 1024


def probe_tokens(fields: Mapping[str, Any]) -> Int[Tensor, "prompt pos"]:
    """Fixed token ids over the whole vocabulary; longer than a sliding window if there is one.

    Args:
        fields: ``Family.hooked_config`` of the model.
    """
    n_pos = _N_POS
    if fields.get("use_local_attn", False) and fields["window_size"] <= _MAX_WINDOW:
        n_pos = max(n_pos, fields["window_size"] + 8)
    n_pos = min(n_pos, fields["n_ctx"])
    # Steps by large primes: scattered, repeatable and without a random generator.
    rows = torch.arange(2)[:, None] * 15_485_863 + torch.arange(n_pos)[None, :] * 32_452_843
    return rows % fields["d_vocab"]


def logits_of(
    model: Any, tokens: Int[Tensor, "prompt pos"], *, n_last: int | None = None
) -> Float[Tensor, "prompt pos d_vocab"]:
    """Logits of a transformers, PEFT or TransformerLens model, without gradients.

    Args:
        model: The model.
        tokens: What it runs on.
        n_last: Of how many positions at the end; default of all. A large vocabulary costs more
            than the rest of a small model.
    """
    is_plain = hasattr(model, "get_output_embeddings")
    unembedding = model.get_output_embeddings() if is_plain else model.unembed
    first = 0 if n_last is None else max(0, tokens.shape[1] - n_last)
    handle = unembedding.register_forward_pre_hook(lambda _, given: (given[0][:, first:],))
    try:
        with torch.no_grad():
            output = model(tokens.to(next(model.parameters()).device))
    finally:
        handle.remove()
    return output if isinstance(output, Tensor) else output.logits


def probe_logits(
    model: Any, tokens: Int[Tensor, "prompt pos"]
) -> Float[Tensor, "prompt pos d_vocab"]:
    """``logits_of`` the last positions of the probe: all, but where it crosses a window."""
    return logits_of(model, tokens, n_last=_N_POS)


def check_parity(
    logits: Float[Tensor, "prompt *pos d_vocab"],
    reference: Float[Tensor, "prompt *pos d_vocab"],
    dtype: torch.dtype,
    where: object,
) -> None:
    """CheckpointError where two implementations of one model disagree beyond rounding."""
    largest = float(reference.abs().max())
    error = float((logits.to(reference.dtype) - reference).abs().max())
    if not error <= BOUNDS[dtype] * largest:
        raise CheckpointError(
            f"the loaded model's logits differ from those of transformers by {error:.2g} of "
            f"{largest:.3g}; at most {BOUNDS[dtype]:g} of that is rounding in {dtype}",
            file=where,
            hint="do not use this checkpoint; report its config.json to the project",
        )
