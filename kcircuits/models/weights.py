"""The weights of a transformer as the engine reads them: plain tensors and a few numbers.

The engine knows neither HookedTransformer nor TransformerBridge: ``hooked_weights`` and ``bridge``
read these out of them, and another source of weights needs another such file and nothing else.

Projections are stored in the layout of ``torch.nn.functional.linear`` ([out, in]), all heads
together, so that a plain forward is one matrix product per projection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from kcircuits.core.topology import Topology

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

    Attributes:
        norm: Through which its input is read; None where it is read as it is.
        q: Projection of queries; ``k``, ``v`` and the biases ``b_q``, ``b_k``, ``b_v`` alike.
        o: Projection of mixed values to the residual stream; ``b_o`` is its bias.
        q_norm: Norm of projected queries; ``k_norm`` likewise of keys, one key per query head. Its
            gain is as long as a head where each is normalised alone, else as all heads together.
        post_norm: Norm of what the layer writes.
        rotary: cos and sin [n_ctx, d_rotary] for halves that rotate together (GPT-NeoX order);
            None where positions are embedded otherwise.
        scale: Factor of query times key.
        window: Number of positions a query sees, itself included; None sees all.
        clip: Largest absolute value of queries, keys and values, which are cut off there.
        soft_cap: Limit that scores come near by ``cap * tanh(score / cap)``.
    """

    norm: NormWeights | None
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
    clip: float | None = None
    soft_cap: float | None = None


@dataclass(frozen=True, kw_only=True)
class MlpWeights:
    """One MLP: down(act(up x)) or, with a gate, down(act(gate x) * up x).

    ``norm`` is what its input is read through; None where it is read as it is.
    """

    norm: NormWeights | None
    up: Float[Tensor, "d_mlp d_model"]
    gate: Float[Tensor, "d_mlp d_model"] | None
    down: Float[Tensor, "d_model d_mlp"]
    b_up: Float[Tensor, " d_mlp"] | None
    b_down: Float[Tensor, " d_model"] | None
    activation: Activation
    post_norm: NormWeights | None


@dataclass(frozen=True, kw_only=True)
class TransformerWeights:
    """All weights of a model, and the shape of its graph.

    ``logits_soft_cap`` is the limit that logits come near by ``cap * tanh(logit / cap)``.
    """

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
    logits_soft_cap: float | None = None

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
