"""From gradients at receivers to edge scores: one product with all senders per layer.

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
from jaxtyping import Float, Int
from torch import Tensor

from kcircuits.core.answers import LAST, ROLES
from kcircuits.engine.forward import Record
from kcircuits.engine.layers import GRADIENT, BackwardRules, Normalised
from kcircuits.engine.tokens import TokenRows
from kcircuits.models.weights import AttentionWeights, NormWeights, TransformerWeights


def receivers_of(record: Record) -> list[Tensor]:
    """The tensors at which gradients are taken, in the order that ``edge_products`` expects."""
    assert record.final_in is not None
    return [*record.q, *record.k, *record.v, *record.mlp_in, record.final_in]


def edge_products(
    weights: TransformerWeights,
    rows: TokenRows,
    difference: Float[Tensor, "row pos n_forward d_model"],
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
    n_rows = len(difference)
    role = rows.role[:, rows.n_shared :] if by_role else None
    dtype = torch.float64 if difference.dtype == torch.float64 else torch.float32
    n_roles = len(ROLES) if by_role else 1
    shape = (n_rows, n_roles, topology.n_forward, topology.n_backward)
    scores = torch.zeros(shape, dtype=dtype, device=difference.device)
    for layer, attention in enumerate(weights.attention):
        last = topology.mlp_column(layer)
        n_senders = topology.n_before_mlp(layer)
        scores[:, :, :n_senders, last - 3 * topology.n_heads : last + 1] = _layer_products(
            difference[:, :, :n_senders],
            attention,
            record.attention_norm[layer],
            [side[layer].detach() for side in (record.q, record.k, record.v)],
            [gradients[kind * n_layers + layer] for kind in range(3)],
            gradients[3 * n_layers + layer],
            role,
            rules,
        )
    reads = rows.reads
    final = gradients[-1].unflatten(0, (-1, len(reads.row)))
    at_reads = difference[reads.row, reads.pos - rows.n_shared]
    scores[:, LAST if by_role else 0, :, -1].index_add_(
        0, reads.row, torch.einsum("aud,ad->au", at_reads, final.sum(0)).to(dtype)
    )
    exists = torch.as_tensor(topology.edge_mask, device=scores.device)
    return rows.by_prompt(scores.masked_fill_(~exists, 0.0).div_(len(final)))


def _layer_products(
    difference: Float[Tensor, "row pos sender d_model"],
    attention: AttentionWeights,
    normed: Normalised,
    projected: Sequence[Float[Tensor, "step_row n_heads pos d_head"]],
    gradients: Sequence[Float[Tensor, "step_row n_heads pos d_head"]],
    mlp_gradient: Float[Tensor, "step_row pos d_model"],
    role: Int[Tensor, "row pos"] | None,
    rules: BackwardRules,
) -> Float[Tensor, "row role sender receiver"]:
    """Difference times the gradients at a layer's receivers (q, k, v of all heads, MLP).

    Summed over steps and positions, in one batched product. The part of G along ``unit`` is one
    vector per step that all heads share: it takes a column per step and is weighted by head
    afterwards.
    """
    n_rows, n_pos, _, d_model = difference.shape
    n_heads, d_head = projected[0].shape[1], projected[0].shape[3]
    scale = normed.inverse_scale.detach()[..., 0].unsqueeze(1)  # [step_row, 1, pos]
    unit = normed.unit.detach().unflatten(0, (-1, n_rows))  # [step, row, pos, d_model]
    n_along = 0 if rules.freeze_norms or attention.norm is None else len(unit)
    columns = difference.new_empty(3 * n_heads + 1 + n_along, n_rows * n_pos, d_model)
    along = []
    for kind, (weight, own_bias) in enumerate(
        zip(
            (attention.q, attention.k, attention.v),
            (attention.b_q, attention.b_k, attention.b_v),
            strict=True,
        )
    ):
        scaled = gradients[kind] * scale.unsqueeze(-1)
        summed = scaled.unflatten(0, (-1, n_rows)).sum(0).to(weight.dtype)
        through = through_norm(by_query_head(weight, n_heads, d_head), attention.norm)
        place = columns[kind * n_heads : (kind + 1) * n_heads]
        torch.bmm(summed.transpose(0, 1).flatten(1, 2), through, out=place)
        if n_along:
            bias = total_bias(weight, own_bias, attention.norm, n_heads, d_head)
            along.append(((projected[kind] - bias) * scaled).sum(-1) / d_model)
    columns[3 * n_heads] = mlp_gradient.unflatten(0, (-1, n_rows)).sum(0).flatten(0, 1)
    if n_along:
        columns[3 * n_heads + 1 :] = unit.flatten(1, 2)
    products = torch.bmm(difference.flatten(0, 1), columns.permute(1, 2, 0))
    products = products.unflatten(0, (n_rows, n_pos)).to(scale.dtype)
    direct, by_step = products.split([3 * n_heads + 1, n_along], -1)
    masks = [None] if role is None else [role == k for k in range(len(ROLES))]
    scores = torch.stack([_summed_where(direct, mask) for mask in masks], 1)
    if n_along:
        shares = torch.cat(along, 1).unflatten(0, (-1, n_rows))  # [step, row, heads, pos]
        for k, mask in enumerate(masks):
            kept = shares if mask is None else shares * mask[None, :, None, :]
            scores[:, k, :, :-1] -= torch.einsum("rpuk,krhp->ruh", by_step, kept)
    return scores


def _summed_where(
    values: Float[Tensor, "row pos sender receiver"], mask: Tensor | None
) -> Float[Tensor, "row sender receiver"]:
    return values.sum(1) if mask is None else (values * mask[:, :, None, None]).sum(1)


def by_query_head(
    weight: Float[Tensor, "out d_model"], n_heads: int, d_head: int
) -> Float[Tensor, "n_heads d_head d_model"]:
    """A projection's rows per query head; key and value heads are repeated for their group."""
    per_head = weight.unflatten(0, (-1, d_head))
    return per_head.repeat_interleave(n_heads // len(per_head), 0)


def through_norm(
    per_head: Float[Tensor, "n_heads d_head d_model"], norm: NormWeights | None
) -> Float[Tensor, "n_heads d_head d_model"]:
    """Projections as seen from before the norm, without its scale: gain, then centring."""
    if norm is None:
        return per_head
    through = per_head * norm.gain
    return through - through.mean(-1, keepdim=True) if norm.is_centred else through


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
