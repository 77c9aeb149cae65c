"""Gemma 2: norms before and after each block, scaled embeddings, soft caps, local layers.

Attention scores are divided by the root of ``query_pre_attn_scalar``, not of the head width.
``gemma_fields`` and ``convert_gemma`` also serve Gemma 3.
"""

import math
from typing import Any

from torch import Tensor

from kcircuits.models.families.family import Family, activation, require, weight_converter
from kcircuits.models.families.llama import decoder_fields, with_attention_biases
from kcircuits.models.families.rotary import rotary_fields


def gemma_fields(config: Any) -> dict[str, Any]:
    """HookedTransformerConfig fields of Gemma 2 and 3, rotary ones apart."""
    if getattr(config, "use_bidirectional_attention", None) is not None:
        require(config, use_bidirectional_attention=False)
    caps = {
        "attn_scores_soft_cap": config.attn_logit_softcapping,
        "output_logits_soft_cap": config.final_logit_softcapping,
    }
    return {
        **decoder_fields(config),
        "act_fn": activation(config.hidden_activation, "hidden_activation"),
        "attn_scale": math.sqrt(config.query_pre_attn_scalar),
        "use_normalization_before_and_after": True,
        **{name: float(cap) for name, cap in caps.items() if cap is not None},
    }


def convert_gemma(model: Any, cfg: Any) -> dict[str, Tensor]:
    """TransformerLens's conversion, and the biases that it leaves out."""
    return with_attention_biases(weight_converter("gemma")(model, cfg), model, cfg)


def _hooked_config(config: Any) -> dict[str, Any]:
    fields = gemma_fields(config)
    return {**fields, **rotary_fields(config, fields["d_head"])}


FAMILY = Family(model_type="gemma2", hooked_config=_hooked_config, convert=convert_gemma)
