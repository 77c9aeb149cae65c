"""Phi 1, 1.5 and 2: attention and MLP side by side behind one LayerNorm, partial rotary, biases.

TransformerLens holds the shared LayerNorm twice, with equal weights.
"""

from typing import Any

from kcircuits.models.families.family import Family, activation, require, weight_converter
from kcircuits.models.families.rotary import rotary_fields


def _hooked_config(config: Any) -> dict[str, Any]:
    n_heads = config.num_attention_heads
    # TransformerLens's converter reads keys and values as if every head had its own.
    require(config, qk_layernorm=False, num_key_value_heads=n_heads)
    d_head = config.hidden_size // n_heads
    require(config, head_dim=d_head)
    return {
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": n_heads,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "d_mlp": config.intermediate_size,
        "act_fn": activation(config.hidden_act, "hidden_act"),
        "eps": config.layer_norm_eps,
        "normalization_type": "LN",
        "parallel_attn_mlp": True,
        **rotary_fields(config, d_head),
    }


FAMILY = Family(model_type="phi", hooked_config=_hooked_config, convert=weight_converter("phi"))
