"""Queries, keys and values where every head reads an input of its own.

Norm and projection in one step: with W' the projection times gain (and centred), a projected vector
is s (W' x) + b, and its gradient g gives s (W'g) - x s^3 ((W' x) . g) / d at the input. So of the
wide inputs only x itself is kept, and each is read once each way.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.engine.receivers import by_query_head, through_norm, total_bias
from kcircuits.models.weights import AttentionWeights, NormWeights


def project_privately(
    private: Float[Tensor, "row heads pos d_model"],
    attention: AttentionWeights,
    n_heads: int,
    d_head: int,
) -> list[Float[Tensor, "row n_heads pos d_head"]]:
    """Queries, keys and values of all heads, in that order along ``heads``; normalised first."""
    norm = attention.norm
    weights, biases = [], []
    for weight, own_bias in (
        (attention.q, attention.b_q),
        (attention.k, attention.b_k),
        (attention.v, attention.b_v),
    ):
        weights.append(through_norm(by_query_head(weight, n_heads, d_head), norm))
        bias = total_bias(weight, own_bias, norm, n_heads, d_head)
        biases.append(bias if isinstance(bias, Tensor) else weight.new_zeros(n_heads, 1, d_head))
    stacked = torch.cat(weights)
    projected: Any = (
        _by_head(private, stacked) if norm is None else _Projection.apply(private, stacked, norm)
    )
    return list((projected + torch.cat(biases)).split(n_heads, 1))


def _by_head(
    x: Float[Tensor, "row heads pos d_in"], weight: Float[Tensor, "heads d_out d_in"]
) -> Float[Tensor, "row heads pos d_out"]:
    """Every head's own matrix product."""
    n_rows, _, n_pos, _ = x.shape
    product = torch.bmm(x.transpose(0, 1).flatten(1, 2), weight.mT)
    return product.unflatten(1, (n_rows, n_pos)).transpose(0, 1)


class _Projection(torch.autograd.Function):
    """[row, heads, pos, d_model] -> [row, heads, pos, d_head], through norm and weight."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "row heads pos d_model"],
        weight: Float[Tensor, "heads d_head d_model"],
        norm: NormWeights,
    ) -> Float[Tensor, "row heads pos d_head"]:
        if norm.is_centred:
            x = x - x.mean(-1, keepdim=True)
        wide = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
        squared = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square()
        scale = torch.rsqrt(squared / x.shape[-1] + norm.eps)
        raw = _by_head(x, weight)
        ctx.save_for_backward(x, weight, scale, raw)
        return (raw * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, scale, raw = ctx.saved_tensors
        inner = _by_head((gradient * scale).to(x.dtype), weight.mT)
        share = (raw * gradient).sum(-1, keepdim=True) * scale**3 / x.shape[-1]
        return torch.addcmul(inner, x, share.to(x.dtype), value=-1), None, None
