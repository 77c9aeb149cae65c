"""GPT-NeoX and Pythia: partial rotary, LayerNorm, attention and MLP side by side."""

from typing import Any

from kcircuits.models.families.family import Family, activation, require, weight_converter
from kcircuits.models.families.rotary import rotary_fields


def _hooked_config(config: Any) -> dict[str, Any]:
    require(config, attention_bias=True)
    d_head = config.hidden_size // config.num_attention_heads
    return {
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": config.num_attention_heads,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "d_mlp": config.intermediate_size,
        "act_fn": activation(config.hidden_act, "hidden_act"),
        "eps": config.layer_norm_eps,
        "normalization_type": "LN",
        "parallel_attn_mlp": config.use_parallel_residual,
        **rotary_fields(config, d_head),
    }


FAMILY = Family(
    model_type="gpt_neox", hooked_config=_hooked_config, convert=weight_converter("neox")
)
