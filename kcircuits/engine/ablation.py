"""What ablated edges carry, and the run in which every edge is ablated.

corrupt: the sender's output in the corrupt run. zero: nothing. mean, positional-mean, optimal: a
constant per sender (and position), from ``engine.constants`` or learned for circuits by
``evaluation.optimal``.
Attention output biases and positional embeddings belong to no sender and always flow; but a bias
before a post-norm is carried by its layer's heads (``layers.head_outputs``).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.core.ablation import CONSTANT, Ablation
from kcircuits.engine.forward import Record, embed, forward, positions, run_prefix
from kcircuits.engine.layers import head_outputs
from kcircuits.engine.tokens import TokenRows
from kcircuits.models.weights import AttentionWeights, TransformerWeights

# Constants per sender: one for all positions; or one for each, and the last for all later ones.
Constants = Float[Tensor, "n_forward pos_or_one d_model"]


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """The run in which every edge is ablated.

    Attributes:
        inputs: Output of the ``input`` sender [row, pos, d_model].
        resid_pre: Residual stream before each layer.
        mlp_in: Residual stream before each MLP.
        final_in: Residual stream where logits are read [read, d_model].
        z: Mixed values of the heads of each layer, where their outputs come from a run.
        heads: Outputs of the heads of each layer, where they are constants.
        mlp_out: MLP outputs of each layer; None where they are zero.
        mlp_hidden: Activations of each layer's neurons, where they come from a run.
    """

    inputs: Tensor
    resid_pre: list[Tensor]
    mlp_in: list[Tensor]
    final_in: Tensor
    z: list[Tensor] | None = None
    heads: list[Tensor] | None = None
    mlp_out: list[Tensor] | None = None
    mlp_hidden: list[Tensor] | None = None


def ablate_all(
    weights: TransformerWeights,
    rows: TokenRows,
    ablation: Ablation = "corrupt",
    constants: Constants | None = None,
    *,
    with_hidden: bool = False,
) -> Ablated:
    """Runs the model with every edge ablated; ``unembed`` its ``final_in`` for the logits.

    Args:
        weights: The model.
        rows: Prompts; without a shared prefix unless ablation is corrupt.
        ablation: What ablated edges carry.
        constants: What they carry where ablation is one of ``CONSTANT``.
        with_hidden: Also keep the activations of neurons.
    """
    if ablation in CONSTANT:
        assert constants is not None, f"{ablation} ablation needs its constants"
        return ablate_with(weights, rows, constants)
    if ablation == "zero":
        return _all_zero(weights, rows)
    prefix = run_prefix(weights, rows.corrupt[:, : rows.n_shared])
    inputs = embed(weights, rows.corrupt[:, rows.n_shared :])
    record = Record(with_hidden=with_hidden)
    with torch.no_grad():
        forward(weights, inputs, rows.reads, prefix=prefix, record=record)
    return ablated_of(record, inputs)


def ablated_of(record: Record, inputs: Float[Tensor, "row pos d_model"]) -> Ablated:
    """The run in which every edge carries what a recorded run's senders wrote."""
    assert record.final_in is not None
    return Ablated(
        inputs=inputs,
        resid_pre=record.resid_pre,
        mlp_in=record.mlp_in,
        final_in=record.final_in,
        z=record.z,
        mlp_out=record.mlp_out,
        mlp_hidden=record.mlp_hidden or None,
    )


def ablate_with(weights: TransformerWeights, rows: TokenRows, constants: Constants) -> Ablated:
    """Every sender gives its constant."""
    topology, n_pos = weights.topology, rows.clean.shape[1]
    n_given = constants.shape[1]
    if n_given == 1:
        given = constants.expand(-1, n_pos, -1)
    elif n_given >= n_pos:
        given = constants[:, :n_pos]
    else:
        later = constants[:, -1:].expand(-1, n_pos - n_given, -1)
        given = torch.cat([constants, later], 1)
    heads = [
        given[first : first + topology.n_heads]
        for first in map(topology.n_before_attention, range(topology.n_layers))
    ]
    mlp_out = [
        given[topology.n_before_attention(layer) + topology.n_heads]
        for layer in range(topology.n_layers)
    ]
    return _summed(weights, rows, given[0], heads, mlp_out)


def _all_zero(weights: TransformerWeights, rows: TokenRows) -> Ablated:
    return _summed(weights, rows, None, None, None)


def _summed(
    weights: TransformerWeights,
    rows: TokenRows,
    inputs: Tensor | None,
    heads: list[Tensor] | None,
    mlp_out: list[Tensor] | None,
) -> Ablated:
    """The residual streams of constant senders; None stands for zeros."""
    n_rows, n_pos = rows.clean.shape
    start = weights.embed.new_zeros(n_rows, n_pos, weights.d_model)
    start = start if inputs is None else start + inputs
    resid = start + positions(weights, 0, n_pos)
    resid_pre, mlp_in = [], []
    for layer, attention in enumerate(weights.attention):
        resid_pre.append(resid)
        if attention.b_o is not None and attention.post_norm is None:
            resid = resid + attention.b_o
        resid = resid if heads is None else resid + heads[layer].sum(0)
        mlp_in.append(resid_pre[-1] if weights.topology.is_parallel else resid)
        resid = resid if mlp_out is None else resid + mlp_out[layer]
    return Ablated(
        inputs=start,
        resid_pre=resid_pre,
        mlp_in=mlp_in,
        final_in=resid[rows.reads.row, rows.reads.pos],
        heads=heads,
        mlp_out=mlp_out,
    )


def head_change(
    z: Float[Tensor, "row n_heads pos d_head"],
    ablated: Ablated,
    layer: int,
    attention: AttentionWeights,
) -> Float[Tensor, "row n_heads pos d_model"]:
    """Current minus ablated output of each head of a layer."""
    if ablated.z is not None and attention.post_norm is None:
        return head_outputs(z - ablated.z[layer], attention)
    current = head_outputs(z, attention)
    if ablated.z is not None:
        return current - head_outputs(ablated.z[layer], attention)
    return current if ablated.heads is None else current - ablated.heads[layer]


def sender_differences(
    weights: TransformerWeights,
    ablated: Ablated,
    inputs: Float[Tensor, "row pos d_model"],
    clean: Record,
) -> Float[Tensor, "n_forward row pos d_model"]:
    """Ablated minus clean output of every sender, in sender order."""
    topology = weights.topology
    n_rows, n_pos, d_model = inputs.shape
    difference = inputs.new_empty(topology.n_forward, n_rows, n_pos, d_model)
    torch.sub(ablated.inputs, inputs, out=difference[0])
    for layer, attention in enumerate(weights.attention):
        first = topology.n_before_attention(layer)
        after = first + topology.n_heads
        heads = difference[first:after]
        if ablated.z is not None and attention.post_norm is None:
            moved = (ablated.z[layer] - clean.z[layer]).transpose(0, 1)
            torch.bmm(moved.flatten(1, 2), attention.o, out=heads.flatten(1, 2))
        else:
            changed = head_change(clean.z[layer], ablated, layer, attention)
            heads.copy_(changed.transpose(0, 1)).neg_()
        given = 0.0 if ablated.mlp_out is None else ablated.mlp_out[layer]
        difference[after] = given - clean.mlp_out[layer]
    return difference
