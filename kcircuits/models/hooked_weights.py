"""HookedTransformer -> the weights as the engine reads them."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kcircuits.core.topology import Topology
from kcircuits.errors import CheckpointError
from kcircuits.models.families import olmo2
from kcircuits.models.weights import (
    ACTIVATIONS,
    AttentionWeights,
    MlpWeights,
    NormWeights,
    TransformerWeights,
)

# TransformerLens knows models that normalise what a block writes, not what it reads, by name.
_NORMS_AFTER_ONLY = (olmo2.ARCHITECTURE, "Olmo3ForCausalLM")


def weights_from_hooked(hooked: Any) -> TransformerWeights:
    """The weights of a HookedTransformer with nothing folded or centred.

    Args:
        hooked: A ``transformer_lens.HookedTransformer``; swapped weights need a new call.

    Raises:
        CheckpointError: The configuration has a feature that the engine does not compute.
    """
    cfg = hooked.cfg
    _refuse_unknown_features(cfg)
    return TransformerWeights(
        topology=Topology(
            n_layers=cfg.n_layers, n_heads=cfg.n_heads, is_parallel=bool(cfg.parallel_attn_mlp)
        ),
        n_kv_heads=cfg.n_key_value_heads or cfg.n_heads,
        d_head=cfg.d_head,
        embed=_plain(hooked.embed.W_E),
        pos_embed=_plain(hooked.pos_embed.W_pos)
        if cfg.positional_embedding_type == "standard"
        else None,
        attention=tuple(_attention(block, cfg) for block in hooked.blocks),
        mlp=tuple(_mlp(block, cfg) for block in hooked.blocks),
        final_norm=_norm(hooked.ln_final),
        unembed=_plain(hooked.unembed.W_U).T,
        b_unembed=_bias(hooked.unembed.b_U),
        logits_soft_cap=_soft_cap(cfg.output_logits_soft_cap),
    )


def _refuse_unknown_features(cfg: Any) -> None:
    wanted = {
        "act_fn": (cfg.act_fn, tuple(ACTIVATIONS)),
        "normalization_type": (cfg.normalization_type, ("LN", "RMS")),
        "positional_embedding_type": (cfg.positional_embedding_type, ("standard", "rotary")),
        "attn_only": (cfg.attn_only, (False,)),
        "attention_dir": (cfg.attention_dir, ("causal",)),
        "num_experts": (cfg.num_experts, (None,)),
        "scale_attn_by_inverse_layer_idx": (cfg.scale_attn_by_inverse_layer_idx, (False,)),
        "post_embedding_ln": (cfg.post_embedding_ln, (False,)),
        "use_attention_sinks": (cfg.use_attention_sinks, (False,)),
        "use_logn_attn": (cfg.use_logn_attn, (False,)),
    }
    for field, (value, known) in wanted.items():
        if value not in known:
            raise CheckpointError(
                f"the engine does not compute {field} = {value!r}; it knows {list(known)}",
                field=field,
            )


def _attention(block: Any, cfg: Any) -> AttentionWeights:
    attn = block.attn
    is_grouped = cfg.n_key_value_heads is not None
    w_k, w_v = (attn._W_K, attn._W_V) if is_grouped else (attn.W_K, attn.W_V)
    b_k, b_v = (attn._b_K, attn._b_V) if is_grouped else (attn.b_K, attn.b_V)
    order = _rotary_order(cfg)
    pre_norm, post_norm = _norms(block, "ln1", cfg)
    return AttentionWeights(
        norm=pre_norm,
        q=_flat(_in_order(attn.W_Q, order)),
        k=_flat(_in_order(w_k, order)),
        v=_flat(w_v),
        o=_plain(attn.W_O),
        b_q=_bias(_in_order(attn.b_Q, order)),
        b_k=_bias(_in_order(b_k, order)),
        b_v=_bias(b_v),
        b_o=_bias(attn.b_O),
        q_norm=_head_norm(attn.q_norm, order),
        k_norm=_head_norm(attn.k_norm, order),
        post_norm=post_norm,
        rotary=_rotary_tables(attn, cfg, order),
        scale=1.0 / float(attn.attn_scale),
        window=cfg.window_size if attn.attn_type == "local" else None,
        clip=cfg.clip_qkv,
        soft_cap=_soft_cap(cfg.attn_scores_soft_cap),
    )


def _mlp(block: Any, cfg: Any) -> MlpWeights:
    mlp = block.mlp
    pre_norm, post_norm = _norms(block, "ln2", cfg)
    b_up, b_down = mlp.b_in, mlp.b_out
    if cfg.gated_mlp:
        # TransformerLens adds b_in after the product of gate and up, where it is a constant.
        b_up, b_down = torch.zeros_like(b_up), b_down + b_up @ mlp.W_out
    return MlpWeights(
        norm=pre_norm,
        up=_plain(mlp.W_in).T,
        gate=_plain(mlp.W_gate).T if cfg.gated_mlp else None,
        down=_plain(mlp.W_out).T,
        b_up=_bias(b_up),
        b_down=_bias(b_down),
        activation=ACTIVATIONS[cfg.act_fn],
        post_norm=post_norm,
    )


def _norms(block: Any, name: str, cfg: Any) -> tuple[NormWeights | None, NormWeights | None]:
    """The norms before and after attention (``ln1``) or MLP (``ln2``)."""
    norm = _norm(getattr(block, name))
    if cfg.original_architecture in _NORMS_AFTER_ONLY:
        return None, norm
    has_both = cfg.use_normalization_before_and_after
    return norm, _norm(getattr(block, f"{name}_post")) if has_both else None


def _norm(module: Any) -> NormWeights:
    bias = getattr(module, "b", None)
    return NormWeights(
        gain=_plain(module.w),
        bias=None if bias is None else _bias(bias),
        eps=float(module.eps),
        is_centred=bias is not None,
    )


def _head_norm(module: Any, order: Int[Tensor, " d_head"] | None) -> NormWeights | None:
    """The norm of queries or keys; its gain is that of one head or of all together."""
    if module is None:
        return None
    norm = _norm(module)
    if order is None:
        return norm
    return replace(norm, gain=norm.gain.unflatten(0, (-1, len(order)))[:, order].flatten())


def _rotary_order(cfg: Any) -> Int[Tensor, " d_head"] | None:
    """Coordinates of a head in the order of two halves that rotate together; None: as they are.

    Rotating neighbours (GPT-J order) is the same model with the coordinates of queries and keys in
    another order, which their product does not see.
    """
    if cfg.positional_embedding_type != "rotary" or not cfg.rotary_adjacent_pairs:
        return None
    turning = torch.arange(cfg.rotary_dim)
    return torch.cat([turning[::2], turning[1::2], torch.arange(cfg.rotary_dim, cfg.d_head)])


def _in_order(x: Tensor, order: Int[Tensor, " d_head"] | None) -> Tensor:
    return x if order is None else x[..., order]


def _rotary_tables(
    attn: Any, cfg: Any, order: Int[Tensor, " d_head"] | None
) -> tuple[Tensor, Tensor] | None:
    if cfg.positional_embedding_type != "rotary":
        return None
    turning = None if order is None else order[: cfg.rotary_dim]
    return _in_order(attn.rotary_cos, turning), _in_order(attn.rotary_sin, turning)


def _soft_cap(cap: float | None) -> float | None:
    # TransformerLens takes 0, -1 and None for none.
    return float(cap) if cap is not None and cap > 0 else None


def _plain(parameter: Tensor) -> Tensor:
    return parameter.detach()


def _flat(projection: Float[Tensor, "heads d_model d_head"]) -> Float[Tensor, "out d_model"]:
    return projection.detach().transpose(1, 2).reshape(-1, projection.shape[1]).contiguous()


def _bias(parameter: Tensor) -> Tensor | None:
    """The bias as one vector; None where all of it is zero."""
    values = parameter.detach().reshape(-1)
    return values.contiguous() if bool(values.any()) else None
