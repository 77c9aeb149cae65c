"""The weights of a transformer as the engine reads them: plain tensors and a few numbers.

The engine knows no HookedTransformer. This file is the one adapter between the two; another
source of weights needs another function like ``weights_from_hooked`` and nothing else.

Projections are stored in the layout of ``torch.nn.functional.linear`` ([out, in]), all heads
together, so that a plain forward is one matrix product per projection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from kcircuits.core.topology import Topology
from kcircuits.errors import CheckpointError

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True, kw_only=True)
class NormWeights:
    """LayerNorm (with centring and bias) or RMSNorm over the last axis.

    The gain is the whole factor: families that store gain - 1 have it added already.
    """

    gain: Float[Tensor, " width"]
    bias: Float[Tensor, " width"] | None
    eps: float
    is_centred: bool


@dataclass(frozen=True, kw_only=True)
class AttentionWeights:
    """One attention layer.

    ``rotary`` holds cos and sin [n_ctx, d_rotary] for halves that rotate together (GPT-NeoX
    order); None where positions are embedded otherwise. ``window`` is the number of positions a
    query sees, itself included; None sees all.
    """

    norm: NormWeights
    q: Float[Tensor, "heads_d_head d_model"]
    k: Float[Tensor, "kv_heads_d_head d_model"]
    v: Float[Tensor, "kv_heads_d_head d_model"]
    o: Float[Tensor, "n_heads d_head d_model"]
    b_q: Float[Tensor, " heads_d_head"] | None
    b_k: Float[Tensor, " kv_heads_d_head"] | None
    b_v: Float[Tensor, " kv_heads_d_head"] | None
    b_o: Float[Tensor, " d_model"] | None
    q_norm: NormWeights | None
    k_norm: NormWeights | None
    post_norm: NormWeights | None
    rotary: tuple[Float[Tensor, "n_ctx d_rotary"], Float[Tensor, "n_ctx d_rotary"]] | None
    scale: float
    window: int | None


@dataclass(frozen=True, kw_only=True)
class MlpWeights:
    """One MLP: down(act(up x)) or, with a gate, down(act(gate x) * up x)."""

    norm: NormWeights
    up: Float[Tensor, "d_mlp d_model"]
    gate: Float[Tensor, "d_mlp d_model"] | None
    down: Float[Tensor, "d_model d_mlp"]
    b_up: Float[Tensor, " d_mlp"] | None
    b_down: Float[Tensor, " d_model"] | None
    activation: Activation
    post_norm: NormWeights | None


@dataclass(frozen=True, kw_only=True)
class TransformerWeights:
    """All weights of a model, and the shape of its graph."""

    topology: Topology
    n_kv_heads: int
    d_head: int
    embed: Float[Tensor, "d_vocab d_model"]
    pos_embed: Float[Tensor, "n_ctx d_model"] | None
    attention: tuple[AttentionWeights, ...]
    mlp: tuple[MlpWeights, ...]
    final_norm: NormWeights
    unembed: Float[Tensor, "d_vocab d_model"]
    b_unembed: Float[Tensor, " d_vocab"] | None

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.embed.shape[1]

    @property
    def d_mlp(self) -> int:
        """Width of the MLPs."""
        return self.mlp[0].up.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return self.embed.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.embed.device


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
    )


def _refuse_unknown_features(cfg: Any) -> None:
    wanted = {
        "act_fn": (cfg.act_fn, tuple(ACTIVATIONS)),
        "normalization_type": (cfg.normalization_type, ("LN", "RMS")),
        "positional_embedding_type": (cfg.positional_embedding_type, ("standard", "rotary")),
        "attn_only": (cfg.attn_only, (False,)),
        "attention_dir": (cfg.attention_dir, ("causal",)),
        "attn_scores_soft_cap": (cfg.attn_scores_soft_cap, (-1, -1.0, None)),
        "output_logits_soft_cap": (cfg.output_logits_soft_cap, (-1, -1.0, None)),
        "num_experts": (cfg.num_experts, (None,)),
        "scale_attn_by_inverse_layer_idx": (cfg.scale_attn_by_inverse_layer_idx, (False,)),
    }
    for field, (value, known) in wanted.items():
        if value not in known:
            raise CheckpointError(
                f"the engine does not compute {field} = {value!r}; it knows {list(known)}",
                field=field,
            )
    if cfg.positional_embedding_type == "rotary" and cfg.rotary_adjacent_pairs:
        raise CheckpointError("the engine does not compute rotary_adjacent_pairs", field="rotary")


def _attention(block: Any, cfg: Any) -> AttentionWeights:
    attn = block.attn
    is_grouped = cfg.n_key_value_heads is not None
    w_k, w_v = (attn._W_K, attn._W_V) if is_grouped else (attn.W_K, attn.W_V)
    b_k, b_v = (attn._b_K, attn._b_V) if is_grouped else (attn.b_K, attn.b_V)
    has_rotary = cfg.positional_embedding_type == "rotary"
    b_o = _bias(attn.b_O)
    if cfg.use_normalization_before_and_after and b_o is not None:
        raise CheckpointError("the engine does not compute an output bias before a post-norm")
    return AttentionWeights(
        norm=_norm(block.ln1),
        q=_flat(attn.W_Q),
        k=_flat(w_k),
        v=_flat(w_v),
        o=_plain(attn.W_O),
        b_q=_bias(attn.b_Q),
        b_k=_bias(b_k),
        b_v=_bias(b_v),
        b_o=b_o,
        q_norm=_norm(attn.q_norm) if attn.q_norm is not None else None,
        k_norm=_norm(attn.k_norm) if attn.k_norm is not None else None,
        post_norm=_norm(block.ln1_post) if cfg.use_normalization_before_and_after else None,
        rotary=(attn.rotary_cos, attn.rotary_sin) if has_rotary else None,
        scale=1.0 / float(attn.attn_scale),
        window=cfg.window_size if attn.attn_type == "local" else None,
    )


def _mlp(block: Any, cfg: Any) -> MlpWeights:
    mlp = block.mlp
    b_up = _bias(mlp.b_in)
    if cfg.gated_mlp and b_up is not None:
        raise CheckpointError("the engine does not compute a gated MLP with biases", field="b_in")
    return MlpWeights(
        norm=_norm(block.ln2),
        up=_plain(mlp.W_in).T,
        gate=_plain(mlp.W_gate).T if cfg.gated_mlp else None,
        down=_plain(mlp.W_out).T,
        b_up=b_up,
        b_down=_bias(mlp.b_out),
        activation=ACTIVATIONS[cfg.act_fn],
        post_norm=_norm(block.ln2_post) if cfg.use_normalization_before_and_after else None,
    )


def _norm(module: Any) -> NormWeights:
    bias = getattr(module, "b", None)
    return NormWeights(
        gain=_plain(module.w),
        bias=None if bias is None else _plain(bias),
        eps=float(module.eps),
        is_centred=bias is not None,
    )


def _plain(parameter: Tensor) -> Tensor:
    return parameter.detach()


def _flat(projection: Float[Tensor, "heads d_model d_head"]) -> Float[Tensor, "out d_model"]:
    return projection.detach().transpose(1, 2).reshape(-1, projection.shape[1]).contiguous()


def _bias(parameter: Tensor) -> Tensor | None:
    """The bias as one vector; None where all of it is zero."""
    values = parameter.detach().reshape(-1)
    return values.contiguous() if bool(values.any()) else None
