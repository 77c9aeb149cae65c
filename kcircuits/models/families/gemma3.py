"""Gemma 3, the text models: norms before and after each block, scaled embeddings, local layers.

Sliding-window layers rotate with a base of their own. Attention scores are divided by the root of
``query_pre_attn_scalar``, not of the head width.
"""

import math
from typing import Any

from torch import Tensor
from transformer_lens.pretrained.weight_conversions.gemma import convert_gemma_weights

from kcircuits.models.families.family import Family, activation, require
from kcircuits.models.families.llama import decoder_fields, with_attention_biases
from kcircuits.models.families.rotary import rotary_fields_by_layer_type


def _hooked_config(config: Any) -> dict[str, Any]:
    require(
        config,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        use_bidirectional_attention=False,
    )
    fields = decoder_fields(config)
    return {
        **fields,
        "act_fn": activation(config.hidden_activation, "hidden_activation"),
        "attn_scale": math.sqrt(config.query_pre_attn_scalar),
        "use_qk_norm": True,
        "use_normalization_before_and_after": True,
        **rotary_fields_by_layer_type(config, fields["d_head"]),
    }


def _convert(model: Any, cfg: Any) -> dict[str, Tensor]:
    return with_attention_biases(convert_gemma_weights(model, cfg), model, cfg)


FAMILY = Family(model_type="gemma3_text", hooked_config=_hooked_config, convert=_convert)
