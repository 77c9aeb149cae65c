"""GPT-2: learned positions, LayerNorm, one fused query-key-value projection, tied embeddings."""

from typing import Any

from kcircuits.models.families.family import Family, activation, require, weight_converter


def _hooked_config(config: Any) -> dict[str, Any]:
    require(
        config,
        add_cross_attention=False,
        scale_attn_by_inverse_layer_idx=False,
        scale_attn_weights=True,
    )
    return {
        "d_model": config.n_embd,
        "d_head": config.n_embd // config.n_head,
        "n_heads": config.n_head,
        "n_layers": config.n_layer,
        "n_ctx": config.n_positions,
        "d_vocab": config.vocab_size,
        "d_mlp": 4 * config.n_embd if config.n_inner is None else config.n_inner,
        "act_fn": activation(config.activation_function, "activation_function"),
        "eps": config.layer_norm_epsilon,
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
    }


FAMILY = Family(model_type="gpt2", hooked_config=_hooked_config, convert=weight_converter("gpt2"))
