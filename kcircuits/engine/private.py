"""Queries, keys and values where every head reads an input of its own, and the way back.

With W' the projection times gain (and centred), a projected vector is s (W' x) + b, with s the
norm's scale at x, and its gradient g gives

    s (W' g) - s^3 / d ((W' x) . g) (x - mean x)

at the input (the mean where the norm is centred). So of the wide inputs only x itself is kept, and
each is read once each way.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.engine.receivers import by_projection, seen_from_input, total_bias
from kcircuits.models.weights import AttentionWeights, NormWeights


@dataclass(frozen=True, kw_only=True)
class Projected:
    """Queries, keys and values of all heads, in that order along ``heads``.

    Attributes:
        values: As projected, biases included.
        private: The inputs.
        attention: The layer.
        raw: W' x.
        scale: s; 1 without a norm.
    """

    values: Float[Tensor, "heads row pos d_head"]
    private: Float[Tensor, "heads row pos d_model"]
    attention: AttentionWeights
    raw: Float[Tensor, "heads row pos d_head"]
    scale: Float[Tensor, "heads row pos 1"]

    def pull_back(
        self,
        gradient: Float[Tensor, "heads row pos d_head"],
        out: Float[Tensor, "heads row pos d_model"],
    ) -> None:
        """The gradient at the inputs, from that at ``values``."""
        x, norm = self.private, self.attention.norm
        scaled = (gradient * self.scale).to(x.dtype).contiguous()
        # Made anew: of all layers together, W' is as large as the model.
        weights = _seen_from_inputs(self.attention, gradient.shape[-1])
        for weight, given, place in zip(weights, scaled.chunk(3), out.chunk(3), strict=True):
            n = len(weight)
            torch.bmm(by_projection(given, n), weight, out=by_projection(place, n))
        if norm is None:
            return
        share = (self.raw * gradient).sum(-1, keepdim=True) * self.scale**3 / x.shape[-1]
        share = share.to(x.dtype)
        out.addcmul_(x, share, value=-1)
        if norm.is_centred:
            out.add_(x.mean(-1, keepdim=True) * share)


def project_privately(
    private: Float[Tensor, "heads row pos d_model"],
    attention: AttentionWeights,
    n_heads: int,
    d_head: int,
) -> Projected:
    """Normalises and projects the inputs of all heads' queries, keys and values."""
    scale = _scale(private, attention.norm)
    raw = private.new_empty(*private.shape[:-1], d_head)
    weights = _seen_from_inputs(attention, d_head)
    for weight, x, place in zip(weights, private.chunk(3), raw.chunk(3), strict=True):
        torch.bmm(by_projection(x, len(weight)), weight.mT, out=by_projection(place, len(weight)))
    biases = []
    for own, bias in (
        (attention.q, attention.b_q),
        (attention.k, attention.b_k),
        (attention.v, attention.b_v),
    ):
        total = total_bias(own, bias, attention.norm, n_heads, d_head)
        biases.append(total if isinstance(total, Tensor) else own.new_zeros(n_heads, 1, d_head))
    values = (raw * scale).to(private.dtype) + torch.cat(biases).unsqueeze(1)
    return Projected(values=values, private=private, attention=attention, raw=raw, scale=scale)


def _seen_from_inputs(
    attention: AttentionWeights, d_head: int
) -> list[Float[Tensor, "projection d_head d_model"]]:
    """W' of queries, keys and values."""
    projections = (attention.q, attention.k, attention.v)
    return [seen_from_input(weight, attention.norm, d_head) for weight in projections]


def _scale(
    x: Float[Tensor, "heads row pos d_model"], norm: NormWeights | None
) -> Float[Tensor, "heads row pos 1"]:
    """A norm's scale at every position, without a wide tensor on the way."""
    if norm is None:
        return torch.ones_like(x[..., :1])
    wide = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
    if norm.is_centred:
        squared = torch.var(x.to(wide), -1, correction=0, keepdim=True)
    else:
        squared = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square()
        squared = squared / x.shape[-1]
    return torch.rsqrt(squared + norm.eps)
