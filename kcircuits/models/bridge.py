"""transformers model -> TransformerBridge, which transformer-lens 4 has for HookedTransformer.

A bridge wraps the modules of transformers and gives them the same names in every family; nothing
is converted, folded or centred. Numbers that its own config lacks (sliding windows, scales) come
from our family's reading of the transformers config.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module

from kcircuits.errors import CheckpointError
from kcircuits.models.families import Family, fields_of, olmo2, topology_of
from kcircuits.models.reference import double_throughout, set_rotary_buffers
from kcircuits.models.weights import (
    ACTIVATIONS,
    AttentionWeights,
    MlpWeights,
    NormWeights,
    TransformerWeights,
)

_Rotary = tuple[Float[Tensor, "n_ctx d_rotary"], Float[Tensor, "n_ctx d_rotary"]]


def wrap(family: Family, model: Any) -> TransformerBridge:  # noqa: ARG001  # as for HookedTransformer
    """A bridge around ``model``, whose modules it replaces.

    Tied embeddings become two tensors, so that a later checkpoint may untie them.
    """
    lm_head = model.get_output_embeddings()
    if lm_head.weight is model.get_input_embeddings().weight:
        lm_head.weight = torch.nn.Parameter(lm_head.weight.clone(), requires_grad=False)
    architecture = type(model).__name__
    return build_bridge_from_module(model, architecture, hf_config=model.config).eval()


def rounded(bridge: TransformerBridge, dtype: torch.dtype) -> TransformerBridge:
    """The same bridge with its weights rounded to ``dtype``; rotary frequencies are not."""
    # The bridge gives every unembedding a bias, a buffer of zeros where the model has none.
    for tensor in (*bridge.parameters(), *bridge.unembed.buffers()):
        tensor.data = tensor.data.to(dtype)
    bridge.cfg.dtype = dtype
    return bridge


def set_rotary_tables(bridge: TransformerBridge, dtype: torch.dtype) -> None:
    """Make the bridge, and the tables that are read from it, compute rotary angles in ``dtype``."""
    set_rotary_buffers(bridge.original_model, dtype)


def architecture_of(bridge: TransformerBridge) -> dict[str, Any]:
    """The fields that two checkpoints must share to be swapped for each other."""
    return {**fields_of(bridge.original_model.config), "dtype": bridge.cfg.dtype}


def weights_from_bridge(bridge: TransformerBridge) -> TransformerWeights:
    """The weights of a TransformerBridge of which nothing was folded or centred.

    Args:
        bridge: A bridge around a transformers model of one of our families.

    Raises:
        CheckpointError: The family or a setting of it is not supported, or the bridge's weights
            were processed.
    """
    if bridge.compatibility_mode or bridge._weights_processed:
        raise CheckpointError(
            "this TransformerBridge's weights were processed (folded, centred), so they are no "
            "longer those of the checkpoint",
            hint="build it anew, without enable_compatibility_mode() and process_weights()",
        )
    config: Any = bridge.original_model.config
    fields = fields_of(config)
    embedding = bridge.embed.original_component
    scale = getattr(embedding, "scalar_embed_scale", 1.0)
    has_positions = fields["positional_embedding_type"] == "standard"
    return TransformerWeights(
        topology=topology_of(config),
        n_kv_heads=fields.get("n_key_value_heads") or fields["n_heads"],
        d_head=fields["d_head"],
        embed=embedding.weight.detach() * scale,
        pos_embed=bridge.pos_embed.original_component.weight.detach() if has_positions else None,
        attention=tuple(
            _attention(bridge, layer, fields, rotary)
            for layer, rotary in enumerate(_rotary_tables(bridge, fields))
        ),
        mlp=tuple(_mlp(bridge, block, fields) for block in bridge.blocks),
        final_norm=_norm(bridge, bridge.ln_final, fields),
        unembed=_weight(bridge.unembed),
        b_unembed=_bias(bridge.unembed),
        logits_soft_cap=fields.get("output_logits_soft_cap"),
    )


def _attention(
    bridge: Any, layer: int, fields: dict[str, Any], rotary: _Rotary | None
) -> AttentionWeights:
    block = bridge.blocks[layer]
    attn, n_heads, d_head = block.attn, fields["n_heads"], fields["d_head"]
    is_local = fields.get("use_local_attn", False) and fields["attn_types"][layer] == "local"
    q_norm, k_norm = (
        None if norm is None else _norm(bridge, norm, fields)
        for norm in (getattr(attn, "q_norm", None), getattr(attn, "k_norm", None))
    )
    pre_norm, post_norm = _norms(bridge, block, "ln1", fields)
    return AttentionWeights(
        norm=pre_norm,
        q=_weight(attn.q),
        k=_weight(attn.k),
        v=_weight(attn.v),
        o=_weight(attn.o).T.reshape(n_heads, d_head, -1),
        b_q=_bias(attn.q),
        b_k=_bias(attn.k),
        b_v=_bias(attn.v),
        b_o=_bias(attn.o),
        q_norm=q_norm,
        k_norm=k_norm,
        post_norm=post_norm,
        rotary=rotary,
        scale=1.0 / fields.get("attn_scale", math.sqrt(d_head)),
        window=fields["window_size"] if is_local else None,
        clip=fields.get("clip_qkv"),
        soft_cap=fields.get("attn_scores_soft_cap"),
    )


def _mlp(bridge: Any, block: Any, fields: dict[str, Any]) -> MlpWeights:
    mlp = block.mlp
    up = getattr(mlp, "in")
    pre_norm, post_norm = _norms(bridge, block, "ln2", fields)
    return MlpWeights(
        norm=pre_norm,
        up=_weight(up),
        gate=_weight(mlp.gate) if fields.get("gated_mlp", False) else None,
        down=_weight(mlp.out),
        b_up=_bias(up),
        b_down=_bias(mlp.out),
        activation=ACTIVATIONS[fields["act_fn"]],
        post_norm=post_norm,
    )


def _norms(
    bridge: Any, block: Any, name: str, fields: dict[str, Any]
) -> tuple[NormWeights | None, NormWeights | None]:
    """The norms before and after attention (``ln1``) or MLP (``ln2``)."""
    before, after = getattr(block, name, None), getattr(block, f"{name}_post", None)
    if fields.get("original_architecture") == olmo2.ARCHITECTURE:
        # transformer-lens 3.9 names them as if they came before.
        before, after = None, before if after is None else after
    elif before is None:
        before = block.ln1  # attention and MLP of Phi share one norm
    before, after = (
        None if norm is None else _norm(bridge, norm, fields) for norm in (before, after)
    )
    return before, after


def _norm(bridge: Any, component: Any, fields: dict[str, Any]) -> NormWeights:
    module = component.original_component
    weight = getattr(module, "weight", None)
    # OLMo's norms have no weights.
    gain = torch.ones_like(bridge.embed.original_component.weight[0]) if weight is None else weight
    return NormWeights(
        gain=gain.detach() + 1 if bridge.cfg.rmsnorm_uses_offset else gain.detach(),
        bias=_bias(component),
        eps=float(fields["eps"]),
        is_centred=fields["normalization_type"] == "LN",
    )


def _rotary_tables(bridge: Any, fields: dict[str, Any]) -> list[_Rotary | None]:
    """Each layer's cos and sin as transformers computes them, in the precision of its buffers."""
    if fields["positional_embedding_type"] != "rotary":
        return [None] * fields["n_layers"]
    module, weight = bridge.rotary_emb.original_component, bridge.embed.original_component.weight
    positions = torch.arange(fields["n_ctx"], device=weight.device)[None]
    # Only models whose layers rotate differently are asked for a kind of layer.
    has_kinds = "rotary_base_local" in fields
    kinds = bridge.original_model.config.layer_types if has_kinds else [None] * fields["n_layers"]
    tables = {}
    with double_throughout(next(module.buffers()).dtype), torch.no_grad():
        for kind in set(kinds):
            cos, sin = module(weight[:0], positions, *([kind] if has_kinds else []))
            tables[kind] = (cos[0].to(weight.dtype), sin[0].to(weight.dtype))
    return [tables[kind] for kind in kinds]


def _weight(component: Any) -> Float[Tensor, "out in"]:
    module = component.original_component
    weight = module.weight.detach()
    # GPT-2's projections are stored the other way round.
    return weight.T if type(module).__name__ == "Conv1D" else weight


def _bias(component: Any) -> Float[Tensor, " out"] | None:
    """The bias; None where all of it is zero."""
    bias = getattr(component.original_component, "bias", None)
    return None if bias is None or not bool(bias.any()) else bias.detach()
