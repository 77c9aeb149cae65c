"""The plain forward pass, with an optional record of what senders wrote and receivers read."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from kcircuits.engine.layers import (
    KeysValues,
    Normalised,
    attend,
    attention_output,
    mlp_output,
    normalise,
    split_heads,
)
from kcircuits.models.weights import AttentionWeights, TransformerWeights

Prefix = tuple[KeysValues, ...]


@dataclass
class Record:
    """What a forward pass leaves behind, one entry per layer.

    Senders: ``z`` (mixed values per head) and ``mlp_out``. Receivers: ``q``, ``k``, ``v`` as
    projected (one per query head), ``attention_norm`` (the norm that they were read through),
    ``mlp_in`` and ``final_in``, each its own node of the autograd graph. ``resid_pre`` is the
    residual stream before each layer, ``finished`` the keys and values for a prefix.
    """

    resid_pre: list[Tensor] = field(default_factory=list)
    z: list[Tensor] = field(default_factory=list)
    mlp_out: list[Tensor] = field(default_factory=list)
    q: list[Tensor] = field(default_factory=list)
    k: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)
    attention_norm: list[Normalised] = field(default_factory=list)
    mlp_in: list[Tensor] = field(default_factory=list)
    finished: list[KeysValues] = field(default_factory=list)
    final_in: Tensor | None = None


def embed(weights: TransformerWeights, tokens: Int[Tensor, "row pos"]) -> Tensor:
    """The ``input`` sender: token embeddings [row, pos, d_model], positions not included."""
    return F.embedding(tokens, weights.embed)


def positions(weights: TransformerWeights, start: int, n_pos: int) -> Tensor | float:
    """Learned positional embeddings [pos, d_model], which belong to no sender; 0 without any."""
    return 0.0 if weights.pos_embed is None else weights.pos_embed[start : start + n_pos]


def project(
    y: Float[Tensor, "row pos d_model"], attention: AttentionWeights, n_heads: int, d_head: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [row, n_heads, pos, d_head] of one input, one per query head."""
    q = split_heads(F.linear(y, attention.q, attention.b_q), d_head)
    k = split_heads(F.linear(y, attention.k, attention.b_k), d_head)
    v = split_heads(F.linear(y, attention.v, attention.b_v), d_head)
    group = n_heads // k.shape[1]
    return q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)


def forward(
    weights: TransformerWeights,
    inputs: Float[Tensor, "row pos d_model"],
    answer_pos: Int[Tensor, " row"],
    *,
    prefix: Prefix | None = None,
    record: Record | None = None,
) -> Float[Tensor, "row d_vocab"]:
    """Logits at each row's answer position.

    Args:
        weights: The model.
        inputs: Token embeddings of the positions after the prefix.
        answer_pos: Answer position of each row, counted from the first token of the prompt.
        prefix: Finished keys and values of earlier positions, per layer.
        record: Filled on the way, where given.
    """
    n_heads, start = weights.topology.n_heads, n_prefix(prefix)
    resid = inputs + positions(weights, start, inputs.shape[1])
    for layer, (attention, mlp) in enumerate(zip(weights.attention, weights.mlp, strict=True)):
        normed = normalise(resid, attention.norm)
        q, k, v = project(normed.output, attention, n_heads, weights.d_head)
        z, finished = attend(q, k, v, attention, None if prefix is None else prefix[layer])
        after_attention = resid + attention_output(z, attention)
        mlp_in = resid if weights.topology.is_parallel else after_attention
        mlp_in = mlp_in.view_as(mlp_in)  # a graph node of its own: the MLP's private input
        written = mlp_output(normalise(mlp_in, mlp.norm).output, mlp)
        if record is not None:
            record.resid_pre.append(resid)
            record.z.append(z)
            record.mlp_out.append(written)
            record.q.append(q)
            record.k.append(k)
            record.v.append(v)
            record.attention_norm.append(normed)
            record.mlp_in.append(mlp_in)
            record.finished.append(finished)
        resid = after_attention + written
    final_in = resid[torch.arange(len(resid), device=resid.device), answer_pos - start]
    if record is not None:
        record.final_in = final_in
    return unembed(weights, final_in)


def unembed(weights: TransformerWeights, final_in: Float[Tensor, "row d_model"]) -> Tensor:
    """Logits [row, d_vocab] of residual streams; at least float32."""
    logits = F.linear(
        normalise(final_in, weights.final_norm).output, weights.unembed, weights.b_unembed
    )
    return logits if logits.dtype == torch.float64 else logits.float()


def run_prefix(weights: TransformerWeights, tokens: Int[Tensor, "row pos"]) -> Prefix | None:
    """Finished keys and values of shared leading tokens; None where there are none."""
    if tokens.shape[1] == 0:
        return None
    record = Record()
    last = torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device)
    with torch.no_grad():
        forward(weights, embed(weights, tokens), last, record=record)
    return tuple(record.finished)


def n_prefix(prefix: Prefix | None) -> int:
    """Number of positions in a prefix."""
    return 0 if prefix is None else prefix[0][0].shape[2]


def repeat_prefix(
    prefix: Prefix | None, n: int
) -> tuple[tuple[Tensor, Tensor], ...] | None:  # another ``row`` than the prefix's
    """The prefix for rows stacked ``n`` times."""
    if prefix is None or n == 1:
        return prefix
    return tuple((k.repeat(n, 1, 1, 1), v.repeat(n, 1, 1, 1)) for k, v in prefix)
