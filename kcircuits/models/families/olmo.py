"""OLMo: Llama with a LayerNorm that has no weights, and optional clipping of projections."""

from typing import Any

import torch
from torch import Tensor

from kcircuits.models.families.family import Family, activation, require, weight_converter
from kcircuits.models.families.llama import decoder_shape, with_attention_biases
from kcircuits.models.families.rotary import rotary_fields

# OLMo's LayerNorm has it written in its code, not in the config.
_EPS = 1e-5


def _hooked_config(config: Any) -> dict[str, Any]:
    # TransformerLens's converter reads keys and values as if every head had its own.
    require(config, num_key_value_heads=config.num_attention_heads)
    fields = decoder_shape(config)
    return {
        **fields,
        "n_key_value_heads": None,
        "act_fn": activation(config.hidden_act, "hidden_act"),
        "eps": _EPS,
        "normalization_type": "LN",
        "clip_qkv": config.clip_qkv,
        **rotary_fields(config, fields["d_head"]),
    }


def _convert(model: Any, cfg: Any) -> dict[str, Tensor]:
    """TransformerLens's conversion, and the attention biases that it leaves out."""
    state = weight_converter("olmo")(model, cfg)
    zeros = torch.zeros(cfg.n_heads, cfg.d_head, dtype=cfg.dtype)
    for layer in range(cfg.n_layers):
        state |= {f"blocks.{layer}.attn.b_{kind}": zeros for kind in "QKV"}
    return with_attention_biases(state, model, cfg)


FAMILY = Family(model_type="olmo", hooked_config=_hooked_config, convert=_convert)
