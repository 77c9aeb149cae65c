"""Edge scores by attribution along the path from corrupt to clean input embeddings.

For sender u and receiver v the score is

    sum over positions of (z'_u - z_u) . mean over alpha of dm/d(input of v) at e' + alpha (e - e')

with z clean and z' corrupt sender outputs, e and e' the embeddings, m the metric. alpha = 1 alone
is EAP (Syed et al. 2023, arXiv 2310.10348), a grid of alphas is EAP-IG (inputs) (Hanna et al.
2024, arXiv 2403.17806). One row is one prompt; rows never mix.

How it stays as cheap as plain forwards and backwards: only activations are differentiated, at the
*projected* q, k, v; the gradient at a head's private input is recovered in closed form,

    G = gain * (W g) / s - unit * ((q - b) . g) / (d s),

with s the norm's scale, unit the normalised input, g the gradient at the projected vector and b
the total bias that reaches it. z' - z does not depend on alpha, so G is summed over alphas first
and contracted with all senders once per layer.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from kcircuits.engine.forward import (
    Record,
    embed,
    forward,
    repeat_prefix,
    run_prefix,
)
from kcircuits.engine.layers import Normalised, head_outputs
from kcircuits.engine.metrics import Metric
from kcircuits.engine.tokens import TokenRows
from kcircuits.models.weights import AttentionWeights, NormWeights, TransformerWeights


def edge_scores(
    weights: TransformerWeights, rows: TokenRows, metric: Metric, alphas: Sequence[float]
) -> Float[Tensor, "prompt n_forward n_backward"]:
    """Scores of all edges for every prompt.

    Args:
        weights: The model.
        rows: Clean and corrupt prompts.
        metric: What is differentiated.
        alphas: Points on the straight line from corrupt (0) to clean (1) embeddings.

    Returns:
        Estimates of metric(edge corrupted) - metric(clean), in units of the metric; 0 where
        there is no edge. float64 for float64 weights, else float32.
    """
    shared = rows.n_shared
    prefix = run_prefix(weights, rows.clean[:, :shared])
    clean, corrupt = (embed(weights, ids[:, shared:]) for ids in (rows.clean, rows.corrupt))
    clean_record, corrupt_record = Record(), Record()
    with torch.no_grad():
        clean_logits = forward(weights, clean, rows.answer_pos, prefix=prefix, record=clean_record)
        if 0.0 not in alphas:
            forward(weights, corrupt, rows.answer_pos, prefix=prefix, record=corrupt_record)

    n_rows, n_steps = len(clean), len(alphas)
    path = torch.cat([corrupt + alpha * (clean - corrupt) for alpha in alphas]).requires_grad_()
    record = Record()
    with torch.enable_grad():
        logits = forward(
            weights,
            path,
            rows.answer_pos.repeat(n_steps),
            prefix=repeat_prefix(prefix, n_steps),
            record=record,
        )
        values = metric.compute(
            logits,
            clean_logits.repeat(n_steps, 1),
            rows.target.repeat(n_steps),
            rows.foil.repeat(n_steps),
        )
        assert record.final_in is not None
        receivers = [*record.q, *record.k, *record.v, *record.mlp_in, record.final_in]
        gradients = torch.autograd.grad(values.sum(), receivers)
    if 0.0 in alphas:
        start = list(alphas).index(0.0) * n_rows
        corrupt_record.z = [z[start : start + n_rows].detach() for z in record.z]
        corrupt_record.mlp_out = [m[start : start + n_rows].detach() for m in record.mlp_out]
    with torch.no_grad():
        difference = _sender_differences(weights, corrupt - clean, clean_record, corrupt_record)
        return _contract(weights, rows, difference, record, gradients, n_steps)


def _sender_differences(
    weights: TransformerWeights,
    input_difference: Float[Tensor, "row pos d_model"],
    clean: Record,
    corrupt: Record,
) -> Float[Tensor, "row pos n_forward d_model"]:
    """Corrupt minus clean output of every sender, in sender order."""
    topology = weights.topology
    n_rows, n_pos, d_model = input_difference.shape
    difference = input_difference.new_empty(n_rows, n_pos, topology.n_forward, d_model)
    difference[:, :, 0] = input_difference
    for layer, attention in enumerate(weights.attention):
        first = topology.n_before_attention(layer)
        heads = difference[:, :, first : first + topology.n_heads].transpose(1, 2)
        if attention.post_norm is None:
            heads.copy_(head_outputs(corrupt.z[layer] - clean.z[layer], attention))
        else:
            heads.copy_(head_outputs(corrupt.z[layer], attention))
            heads.sub_(head_outputs(clean.z[layer], attention))
        difference[:, :, first + topology.n_heads] = corrupt.mlp_out[layer] - clean.mlp_out[layer]
    return difference


def _contract(
    weights: TransformerWeights,
    rows: TokenRows,
    difference: Float[Tensor, "row pos n_forward d_model"],
    record: Record,
    gradients: Sequence[Tensor],
    n_steps: int,
) -> Float[Tensor, "row n_forward n_backward"]:
    """Sums over positions of difference times mean gradient, layer by layer."""
    topology, n_layers = weights.topology, weights.topology.n_layers
    n_rows = len(difference)
    dtype = torch.float64 if difference.dtype == torch.float64 else torch.float32
    shape = (n_rows, topology.n_forward, topology.n_backward)
    scores = torch.zeros(shape, dtype=dtype, device=difference.device)
    for layer, attention in enumerate(weights.attention):
        last = topology.mlp_column(layer)
        n_senders = topology.n_before_mlp(layer)
        scores[:, :n_senders, last - 3 * topology.n_heads : last + 1] = _layer_scores(
            difference[:, :, :n_senders],
            attention,
            record.attention_norm[layer],
            [side[layer].detach() for side in (record.q, record.k, record.v)],
            [gradients[kind * n_layers + layer] for kind in range(3)],
            gradients[3 * n_layers + layer],
        )
    final = gradients[-1].unflatten(0, (n_steps, n_rows)).sum(0)
    at_answer = difference[torch.arange(n_rows), rows.answer_pos - rows.n_shared]
    scores[:, :, -1] = torch.einsum("rud,rd->ru", at_answer, final).to(dtype)
    exists = torch.as_tensor(topology.edge_mask, device=scores.device)
    return scores.masked_fill_(~exists, 0.0).div_(n_steps)


def _layer_scores(
    difference: Float[Tensor, "row pos sender d_model"],
    attention: AttentionWeights,
    normed: Normalised,
    projected: Sequence[Float[Tensor, "step_row n_heads pos d_head"]],
    gradients: Sequence[Float[Tensor, "step_row n_heads pos d_head"]],
    mlp_gradient: Float[Tensor, "step_row pos d_model"],
) -> Float[Tensor, "row sender receiver"]:
    """Difference times the gradients at a layer's receivers (q, k, v of all heads, MLP).

    Summed over steps and positions, in one batched product. The part of G along ``unit`` is one
    vector per step that all heads share: it takes a column per step and is weighted by head
    afterwards.
    """
    n_rows, n_pos, _, d_model = difference.shape
    n_heads, d_head = projected[0].shape[1], projected[0].shape[3]
    scale = normed.inverse_scale.detach()[..., 0].unsqueeze(1)  # [step_row, 1, pos]
    unit = normed.unit.detach().unflatten(0, (-1, n_rows))  # [step, row, pos, d_model]
    n_steps = len(unit)
    columns = difference.new_empty(3 * n_heads + 1 + n_steps, n_rows * n_pos, d_model)
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
        through = _through_norm(_by_query_head(weight, n_heads, d_head), attention.norm)
        place = columns[kind * n_heads : (kind + 1) * n_heads]
        torch.bmm(summed.transpose(0, 1).flatten(1, 2), through, out=place)
        bias = _total_bias(weight, own_bias, attention.norm, n_heads, d_head)
        along.append(((projected[kind] - bias) * scaled).sum(-1) / d_model)
    columns[3 * n_heads] = mlp_gradient.unflatten(0, (-1, n_rows)).sum(0).flatten(0, 1)
    columns[3 * n_heads + 1 :] = unit.flatten(1, 2)
    products = torch.bmm(difference.flatten(0, 1), columns.permute(1, 2, 0))
    products = products.unflatten(0, (n_rows, n_pos)).to(scale.dtype)
    shares = torch.cat(along, 1).unflatten(0, (-1, n_rows))  # [step, row, heads, pos]
    direct, by_step = products.split([3 * n_heads + 1, n_steps], -1)
    scores = direct.sum(1)
    scores[..., :-1] -= torch.einsum("rpuk,krhp->ruh", by_step, shares)
    return scores


def _by_query_head(
    weight: Float[Tensor, "out d_model"], n_heads: int, d_head: int
) -> Float[Tensor, "n_heads d_head d_model"]:
    per_head = weight.unflatten(0, (-1, d_head))
    return per_head.repeat_interleave(n_heads // len(per_head), 0)


def _through_norm(
    per_head: Float[Tensor, "n_heads d_head d_model"], norm: NormWeights
) -> Float[Tensor, "n_heads d_head d_model"]:
    """Projections as seen from before the norm, without its scale: gain, then centring."""
    through = per_head * norm.gain
    return through - through.mean(-1, keepdim=True) if norm.is_centred else through


def _total_bias(
    weight: Float[Tensor, "out d_model"],
    own_bias: Float[Tensor, " out"] | None,
    norm: NormWeights,
    n_heads: int,
    d_head: int,
) -> Tensor | float:
    """The constant part of a projection: its own bias plus the norm's bias through it."""
    if own_bias is None and norm.bias is None:
        return 0.0
    through = weight.new_zeros(len(weight)) if norm.bias is None else F.linear(norm.bias, weight)
    total = through if own_bias is None else through + own_bias
    per_head = total.unflatten(0, (-1, d_head))
    return per_head.repeat_interleave(n_heads // len(per_head), 0).unsqueeze(1)
