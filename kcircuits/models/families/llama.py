"""Llama and SmolLM2: rotary, RMSNorm, gated MLP, grouped queries.

``decoder_shape``, ``decoder_fields`` and ``with_attention_biases`` also serve the families that
descend from it.
"""

from typing import Any

from torch import Tensor

from kcircuits.models.families.family import Family, activation, require, weight_converter
from kcircuits.models.families.rotary import rotary_fields, window_fields


def decoder_shape(config: Any) -> dict[str, Any]:
    """HookedTransformerConfig fields of a Llama-like decoder, norms and rotary embedding apart."""
    n_heads = config.num_attention_heads
    return {
        "d_model": config.hidden_size,
        "d_head": getattr(config, "head_dim", None) or config.hidden_size // n_heads,
        "n_heads": n_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "d_mlp": config.intermediate_size,
        "gated_mlp": True,
        **window_fields(config),
    }


def decoder_fields(config: Any) -> dict[str, Any]:
    """``decoder_shape`` with RMSNorm."""
    rms = {"eps": config.rms_norm_eps, "normalization_type": "RMS", "final_rms": True}
    return {**decoder_shape(config), **rms}


def llama_fields(config: Any) -> dict[str, Any]:
    """``decoder_fields`` with one rotary embedding and the usual name of the activation."""
    fields = decoder_fields(config)
    act_fn = activation(config.hidden_act, "hidden_act")
    return {**fields, "act_fn": act_fn, **rotary_fields(config, fields["d_head"])}


def with_attention_biases(state: dict[str, Tensor], model: Any, cfg: Any) -> dict[str, Tensor]:
    """The converted tensors with the attention biases that TransformerLens's converter leaves out.

    Its converters write zeros; configs with ``attention_bias`` have real ones.
    """
    grouped = "_" if cfg.n_key_value_heads is not None else ""
    for layer, block in enumerate(model.model.layers):
        prefix, attention = f"blocks.{layer}.attn.", block.self_attn
        named = {
            "b_Q": attention.q_proj,
            f"{grouped}b_K": attention.k_proj,
            f"{grouped}b_V": attention.v_proj,
        }
        for name, projection in named.items():
            if projection.bias is not None:
                state[prefix + name] = projection.bias.reshape(-1, cfg.d_head)
        if attention.o_proj.bias is not None:
            state[prefix + "b_O"] = attention.o_proj.bias
    return state


def _hooked_config(config: Any) -> dict[str, Any]:
    require(config, mlp_bias=False)
    return llama_fields(config)


def _convert(model: Any, cfg: Any) -> dict[str, Tensor]:
    return with_attention_biases(weight_converter("llama")(model, cfg), model, cfg)


FAMILY = Family(model_type="llama", hooked_config=_hooked_config, convert=_convert)
