"""From gradients at receivers to edge scores: one product with all senders per block of layers.

Only activations are differentiated, at the *projected* q, k and v; the gradient at a head's
private input follows in closed form,

    G = gain * (W g) / s - unit * ((q - b) . g) / (d s),

with s the norm's scale, unit the normalised input, g the gradient at the projected vector and b
the total bias that reaches it (the second term is absent where the norm's scale is frozen). What
the senders differ by does not depend on the point where gradients are taken, so G is summed over
all points first.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from kcircuits.core.answers import LAST, ROLES
from kcircuits.engine.forward import Record
from kcircuits.engine.layer_blocks import Block, n_together
from kcircuits.engine.layers import GRADIENT, BackwardRules, by_row
from kcircuits.engine.tokens import TokenRows
from kcircuits.models.weights import AttentionWeights, NormWeights, TransformerWeights


def receivers_of(record: Record) -> list[Tensor]:
    """The tensors at which gradients are taken, in the order that ``edge_products`` expects."""
    assert record.final_in is not None
    return [*record.q, *record.k, *record.v, *record.mlp_in, record.final_in]


def edge_products(
    weights: TransformerWeights,
    rows: TokenRows,
    difference: Float[Tensor, "n_forward row pos d_model"],
    record: Record,
    gradients: Sequence[Tensor],
    *,
    by_role: bool = False,
    rules: BackwardRules = GRADIENT,
) -> Float[Tensor, "prompt role n_forward n_backward"]:
    """Sums over positions of difference times gradient, for every edge.

    Args:
        weights: The model.
        rows: What was run.
        difference: Ablated minus clean outputs of the senders.
        record: Of the differentiated run, whose rows are ``rows`` stacked some times.
        gradients: At ``receivers_of(record)``.
        by_role: Keep positions of different roles apart; else there is one role, all.
        rules: Of the backward pass.

    Returns:
        The mean over the stacked runs; 0 where there is no edge.
    """
    topology, n_layers = weights.topology, weights.topology.n_layers
    role = rows.role[:, rows.n_shared :] if by_role else None
    chosen = [None] if role is None else [role == k for k in range(len(ROLES))]
    dtype = torch.float64 if difference.dtype == torch.float64 else torch.float32
    _, n_rows, n_pos, d_model = difference.shape
    shape = (n_rows, len(chosen), topology.n_forward, topology.n_backward)
    scores = torch.zeros(shape, dtype=dtype, device=difference.device)
    n_receivers = 3 * topology.n_heads + 1
    # One memory for all: touching fresh pages costs as much as the arithmetic on them.
    space = difference.new_empty(n_together(topology) * n_receivers, n_rows, n_pos, d_model)
    for block in Block.all_of(topology):
        at_inputs = space[: len(block.layers) * n_receivers]
        for layer, place in zip(block.layers, at_inputs.split(n_receivers), strict=True):
            at_layer = [gradients[kind * n_layers + layer] for kind in range(4)]
            _write_input_gradients(place, weights.attention[layer], record, layer, at_layer, rules)
        for k, kept in enumerate(chosen):
            received = at_inputs if kept is None else at_inputs * kept.unsqueeze(-1)
            products = torch.bmm(by_row(difference[block.senders]), by_row(received).mT)
            scores[:, k, block.senders, block.columns] = products.to(dtype)
    reads = rows.reads
    final = gradients[-1].unflatten(0, (-1, len(reads.row)))
    at_reads = difference[:, reads.row, reads.pos - rows.n_shared]
    scores[:, LAST if by_role else 0, :, -1].index_add_(
        0, reads.row, torch.einsum("uad,ad->au", at_reads, final.sum(0)).to(dtype)
    )
    exists = torch.as_tensor(topology.edge_mask, device=scores.device)
    return rows.by_prompt(scores.masked_fill_(~exists, 0.0).div_(len(final)))


def _write_input_gradients(
    out: Float[Tensor, "receiver row pos d_model"],
    attention: AttentionWeights,
    record: Record,
    layer: int,
    gradients: Sequence[Tensor],
    rules: BackwardRules,
) -> None:
    """Gradients at the private inputs of a layer (q, k, v of all heads, MLP), summed over steps.

    Args:
        out: Filled.
        attention: The layer.
        record: Of the differentiated run.
        layer: Its number.
        gradients: At the projected q, k and v [step_row, n_heads, pos, d_head], and at the MLP's
            input [step_row, pos, d_model].
        rules: Of the backward pass.
    """
    projected = [side[layer].detach() for side in (record.q, record.k, record.v)]
    normed = record.attention_norm[layer]
    (n_heads, _, d_head), (n_rows, _, d_model) = projected[0].shape[1:], out.shape[1:]
    at_inputs = out.flatten(1, 2)
    is_frozen = rules.freeze_norms or attention.norm is None
    scale = normed.inverse_scale.detach()[..., 0].unsqueeze(1)  # [step_row, 1, pos]
    shares = []
    for kind, (weight, own_bias) in enumerate(
        zip(
            (attention.q, attention.k, attention.v),
            (attention.b_q, attention.b_k, attention.b_v),
            strict=True,
        )
    ):
        scaled = gradients[kind] * scale.unsqueeze(-1)
        summed = scaled.unflatten(0, (-1, n_rows)).sum(0).to(weight.dtype)
        through = seen_from_input(weight, attention.norm, d_head)
        of_heads = at_inputs[kind * n_heads : (kind + 1) * n_heads]
        torch.bmm(
            by_projection(summed.transpose(0, 1).contiguous(), len(through)),
            through,
            out=by_projection(of_heads, len(through)),
        )
        if not is_frozen:
            bias = total_bias(weight, own_bias, attention.norm, n_heads, d_head)
            shares.append(((projected[kind] - bias) * scaled).sum(-1) / d_model)
    if not is_frozen:
        # The way through the norm's scale: along the unit, whose part each head takes at each step.
        share = torch.cat(shares, 1).unflatten(0, (-1, n_rows)).permute(1, 3, 2, 0)
        unit = normed.unit.detach().unflatten(0, (-1, n_rows)).permute(1, 2, 0, 3)
        at_inputs[:-1].transpose(0, 1).baddbmm_(
            share.flatten(0, 1).to(at_inputs.dtype),  # [row_pos, receiver, step]
            unit.flatten(0, 1).to(at_inputs.dtype),  # [row_pos, step, d_model]
            alpha=-1,
        )
    torch.sum(gradients[3].unflatten(0, (-1, n_rows)).flatten(1, 2), 0, out=at_inputs[-1])


def seen_from_input(
    weight: Float[Tensor, "out d_model"], norm: NormWeights | None, d_head: int
) -> Float[Tensor, "projection d_head d_model"]:
    """Projections as seen from before the norm, without its scale: gain, then centring."""
    per_head = weight.unflatten(0, (-1, d_head))
    if norm is None:
        return per_head
    through = per_head * norm.gain
    return through - through.mean(-1, keepdim=True) if norm.is_centred else through


def by_projection(x: Float[Tensor, "heads *pos width"], n_projections: int) -> Tensor:
    """[heads, ..., width] -> [projection, _, width]: heads of a group share a projection.

    The same memory, so that it can be written to.
    """
    return x.view(n_projections, -1, x.shape[-1])


def total_bias(
    weight: Float[Tensor, "out d_model"],
    own_bias: Float[Tensor, " out"] | None,
    norm: NormWeights | None,
    n_heads: int,
    d_head: int,
) -> Tensor | float:
    """The constant part of a projection: its own bias plus the norm's bias through it."""
    norm_bias = None if norm is None else norm.bias
    if own_bias is None and norm_bias is None:
        return 0.0
    through = weight.new_zeros(len(weight)) if norm_bias is None else F.linear(norm_bias, weight)
    total = through if own_bias is None else through + own_bias
    per_head = total.unflatten(0, (-1, d_head))
    return per_head.repeat_interleave(n_heads // len(per_head), 0).unsqueeze(1)
