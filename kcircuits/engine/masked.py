"""The forward pass of circuits: every prompt its own edge mask.

The input of a receiver is

    base + sum over senders of mask * (current output - ablated output),

with base the residual stream of a run in which every sender gives its ablated output. Attention
output biases and positional embeddings belong to no sender and always flow.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.engine.forward import Record, embed, forward, positions, run_prefix, unembed
from kcircuits.engine.layers import attend, head_outputs, mlp_output, normalise
from kcircuits.engine.tokens import TokenRows
from kcircuits.models.weights import AttentionWeights, TransformerWeights

Ablation = Literal["corrupt", "zero"]
ABLATIONS: tuple[Ablation, ...] = ("corrupt", "zero")


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """The run in which every edge is ablated.

    Attributes:
        inputs: Output of the ``input`` sender [row, pos, d_model].
        resid_pre: Residual stream before each layer.
        mlp_in: Residual stream before each MLP.
        final_in: Residual stream at the answer position [row, d_model].
        z: Mixed values of the heads of each layer; None where their outputs are zero.
        mlp_out: MLP outputs of each layer; None where they are zero.
    """

    inputs: Tensor
    resid_pre: list[Tensor]
    mlp_in: list[Tensor]
    final_in: Tensor
    z: list[Tensor] | None
    mlp_out: list[Tensor] | None


def ablate_all(weights: TransformerWeights, rows: TokenRows, ablation: Ablation) -> Ablated:
    """Runs the model with every edge ablated; ``unembed`` its ``final_in`` for the logits."""
    if ablation == "zero":
        return _all_zero(weights, rows)
    prefix = run_prefix(weights, rows.corrupt[:, : rows.n_shared])
    inputs = embed(weights, rows.corrupt[:, rows.n_shared :])
    record = Record()
    with torch.no_grad():
        forward(weights, inputs, rows.answer_pos, prefix=prefix, record=record)
    assert record.final_in is not None
    return Ablated(
        inputs=inputs,
        resid_pre=record.resid_pre,
        mlp_in=record.mlp_in,
        final_in=record.final_in,
        z=record.z,
        mlp_out=record.mlp_out,
    )


def _all_zero(weights: TransformerWeights, rows: TokenRows) -> Ablated:
    n_rows, n_pos = rows.clean.shape
    zero = weights.embed.new_zeros(n_rows, n_pos, weights.d_model)
    resid = zero + positions(weights, 0, n_pos)
    resid_pre, mlp_in = [], []
    for attention in weights.attention:
        resid_pre.append(resid)
        resid = resid if attention.b_o is None else resid + attention.b_o
        mlp_in.append(resid_pre[-1] if weights.topology.is_parallel else resid)
    final_in = resid[torch.arange(n_rows, device=resid.device), rows.answer_pos]
    return Ablated(
        inputs=zero, resid_pre=resid_pre, mlp_in=mlp_in, final_in=final_in, z=None, mlp_out=None
    )


def circuit_logits(
    weights: TransformerWeights,
    rows: TokenRows,
    ablated: Ablated,
    mask: Float[Tensor, "row n_forward n_backward"],
) -> Float[Tensor, "row d_vocab"]:
    """Logits at the answer positions when only the masked edges carry current activations.

    Args:
        weights: The model.
        rows: Clean prompts; without a shared prefix unless ablation is corrupt.
        ablated: From ``ablate_all`` on the same rows.
        mask: 1 keeps an edge, 0 ablates it; values between interpolate.
    """
    topology, start = weights.topology, rows.n_shared
    prefix = run_prefix(weights, rows.clean[:, :start])
    clean = embed(weights, rows.clean[:, start:])
    n_rows, n_pos, d_model = clean.shape
    change = clean.new_empty(n_rows, topology.n_forward, n_pos, d_model)
    change[:, 0] = clean - ablated.inputs

    def flows(n_senders: int, columns: slice) -> Float[Tensor, "row receiver pos d_model"]:
        kept = mask[:, :n_senders, columns].mT
        return torch.bmm(kept, change[:, :n_senders].flatten(2)).unflatten(2, (n_pos, d_model))

    for layer, (attention, mlp) in enumerate(zip(weights.attention, weights.mlp, strict=True)):
        n_senders = topology.n_before_attention(layer)
        private = flows(n_senders, topology.attention_columns(layer))
        private += ablated.resid_pre[layer].unsqueeze(1)
        q, k, v = _project_privately(private, attention, topology.n_heads, weights.d_head)
        z, _ = attend(q, k, v, attention, None if prefix is None else prefix[layer])
        change[:, n_senders : n_senders + topology.n_heads] = _head_change(
            z, None if ablated.z is None else ablated.z[layer], attention
        )
        column = topology.mlp_column(layer)
        mlp_in = flows(topology.n_before_mlp(layer), slice(column, column + 1))[:, 0]
        mlp_in += ablated.mlp_in[layer]
        written = mlp_output(normalise(mlp_in, mlp.norm).output, mlp)
        if ablated.mlp_out is not None:
            written = written - ablated.mlp_out[layer]
        change[:, n_senders + topology.n_heads] = written
    at_answer = change[torch.arange(n_rows), :, rows.answer_pos - start]
    final_in = ablated.final_in + torch.einsum("ru,rud->rd", mask[:, :, -1], at_answer)
    return unembed(weights, final_in)


def _project_privately(
    private: Float[Tensor, "row heads pos d_model"],
    attention: AttentionWeights,
    n_heads: int,
    d_head: int,
) -> list[Float[Tensor, "row n_heads pos d_head"]]:
    """Queries, keys and values, each head's from its own input."""
    normed = normalise(private, attention.norm).output.transpose(0, 1)
    projected: list[Tensor] = []
    for kind, (weight, bias) in enumerate(
        (
            (attention.q, attention.b_q),
            (attention.k, attention.b_k),
            (attention.v, attention.b_v),
        )
    ):
        of_kind = normed[kind * n_heads : (kind + 1) * n_heads].flatten(1, 2)
        group = n_heads * d_head // len(weight)
        per_head = weight.unflatten(0, (-1, d_head)).repeat_interleave(group, 0)
        values = torch.bmm(of_kind, per_head.mT)
        if bias is not None:
            values += bias.unflatten(0, (-1, d_head)).repeat_interleave(group, 0).unsqueeze(1)
        projected.append(values.unflatten(1, (len(private), -1)).transpose(0, 1))
    return projected


def _head_change(
    z: Float[Tensor, "row n_heads pos d_head"], ablated: Tensor | None, attention: AttentionWeights
) -> Float[Tensor, "row n_heads pos d_model"]:
    """Current minus ablated output of each head."""
    if ablated is None:
        return head_outputs(z, attention)
    if attention.post_norm is None:
        return head_outputs(z - ablated, attention)
    return head_outputs(z, attention) - head_outputs(ablated, attention)
