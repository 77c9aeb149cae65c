"""Scores by attribution: what senders would change, times how much the metric would mind.

For sender u and receiver v the score is

    sum over positions of (z'_u - z_u) . mean over points of dm/d(input of v)

with z clean and z' ablated sender outputs and m the metric. Methods differ in the points at which
they take gradients: along the straight line between ablated and clean input embeddings
(``path_scores``), or at clean inputs with one layer's output on the line between its ablated and
clean values (``activation_scores``); and in the rules of the backward pass. One row is one prompt;
rows never mix.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.engine.ablation import (
    Ablated,
    Ablation,
    Constants,
    ablate_all,
    ablated_of,
    sender_differences,
)
from kcircuits.engine.forward import (
    Prefix,
    Record,
    Replaced,
    embed,
    forward,
    repeat_prefix,
    run_prefix,
)
from kcircuits.engine.layers import GRADIENT, BackwardRules
from kcircuits.engine.metrics import Metric
from kcircuits.engine.receivers import edge_products, receivers_of
from kcircuits.engine.tokens import TokenRows
from kcircuits.models.weights import TransformerWeights

# What scores are of: edges [prompt, n_forward, n_backward]; edges by role of the position
# [prompt, role, n_forward, n_backward]; neurons of the MLPs [prompt, n_layers, d_mlp].
Level = Literal["edge", "role", "neuron"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is scored: the metric, what ablated edges carry, and at which level."""

    metric: Metric
    ablation: Ablation = "corrupt"
    constants: Constants | None = None
    level: Level = "edge"


@dataclass(frozen=True, kw_only=True)
class _Ends:
    """The clean run and the ablated one.

    ``clean_logits`` is None, and ``clean`` empty, where the clean run is still to come.
    """

    prefix: Prefix | None
    inputs: Tensor
    clean: Record
    clean_logits: Tensor | None
    ablated: Ablated


def path_scores(
    weights: TransformerWeights,
    rows: TokenRows,
    question: Question,
    alphas: Sequence[float],
    rules: BackwardRules = GRADIENT,
) -> Float[Tensor, "prompt *what"]:
    """Scores with gradients at points between ablated (0) and clean (1) embeddings.

    Returns:
        Estimates of metric(ablated) - metric(clean), in units of the metric; 0 where there is no
        edge. Shapes: see ``Level``. float64 for float64 weights, else float32.
    """
    # The ends of the path are runs that are needed anyway: none is made twice.
    clean_step = alphas.index(1.0) if 1.0 in alphas else None
    is_corrupt = question.ablation == "corrupt"
    ablated_step = alphas.index(0.0) if is_corrupt and 0.0 in alphas else None
    ends = _run_ends(
        weights,
        rows,
        question,
        without_clean=clean_step is not None,
        only_inputs=ablated_step is not None,
    )
    start = ends.ablated.inputs
    path = torch.cat([start + alpha * (ends.inputs - start) for alpha in alphas])
    record, gradients = _gradients(weights, rows, question, ends, path, rules, clean_step)
    if clean_step is not None:
        ends = replace(ends, clean=_of_step(record, clean_step, len(rows.clean)))
    if ablated_step is not None:
        ablated = ablated_of(_of_step(record, ablated_step, len(rows.clean)), start)
        ends = replace(ends, ablated=ablated)
    with torch.no_grad():
        return _contract(weights, rows, question, ends, record, gradients, rules)


def activation_scores(
    weights: TransformerWeights, rows: TokenRows, question: Question, n_steps: int
) -> Float[Tensor, "prompt *what"]:
    """Scores with gradients where one group of senders after the other is interpolated.

    The groups are the input, each attention layer and each MLP; alpha = 1/n .. n/n. The mean is
    over all n (1 + 2 L) points.
    """
    ends = _run_ends(weights, rows, question)
    alphas = [step / n_steps for step in range(1, n_steps + 1)]
    start = ends.ablated.inputs
    repeated = ends.inputs.repeat(n_steps, 1, 1)

    def scores_of(path: Tensor, replaced: Replaced | None = None) -> Tensor:
        record, gradients = _gradients(
            weights, rows, question, ends, path, GRADIENT, replaced=replaced
        )
        with torch.no_grad():
            return _contract(weights, rows, question, ends, record, gradients, GRADIENT)

    total = scores_of(torch.cat([start + alpha * (ends.inputs - start) for alpha in alphas]))
    for replaced in _interpolated(weights, ends, alphas):
        total += scores_of(repeated, replaced)
    return total / (1 + 2 * weights.topology.n_layers)


def _interpolated(
    weights: TransformerWeights, ends: _Ends, alphas: Sequence[float]
) -> Iterator[Replaced]:
    """Each layer's attention and MLP output on the line from ablated to clean."""
    difference = sender_differences(weights, ends.ablated, ends.inputs, ends.clean)
    topology = weights.topology
    for layer in range(topology.n_layers):
        first = topology.n_before_attention(layer)
        of_heads = difference[first : first + topology.n_heads].sum(0)
        of_mlp = difference[first + topology.n_heads]
        groups: tuple[tuple[Literal["attention", "mlp"], Tensor, Tensor], ...] = (
            ("attention", ends.clean.attention_out[layer], of_heads),
            ("mlp", ends.clean.mlp_out[layer], of_mlp),
        )
        for kind, clean, change in groups:
            output = torch.cat([clean + (1 - alpha) * change for alpha in alphas])
            yield Replaced(kind=kind, layer=layer, output=output)


def _run_ends(
    weights: TransformerWeights,
    rows: TokenRows,
    question: Question,
    *,
    without_clean: bool = False,
    only_inputs: bool = False,
) -> _Ends:
    """The clean and the ablated run, but for what comes with the gradients.

    Args:
        weights: The model.
        rows: What is run.
        question: Says what ablated edges carry.
        without_clean: The clean run comes later.
        only_inputs: Of the ablated run all but the inputs comes later.
    """
    shared, with_hidden = rows.n_shared, question.level == "neuron"
    prefix = run_prefix(weights, rows.clean[:, :shared])
    inputs, logits = embed(weights, rows.clean[:, shared:]), None
    clean = Record(with_hidden=with_hidden)
    with torch.no_grad():
        if not without_clean:
            logits = forward(weights, inputs, rows.reads, prefix=prefix, record=clean)
        if only_inputs:
            empty = torch.empty(0)
            start = embed(weights, rows.corrupt[:, shared:])
            ablated = Ablated(inputs=start, resid_pre=[], mlp_in=[], final_in=empty)
        else:
            ablated = ablate_all(
                weights, rows, question.ablation, question.constants, with_hidden=with_hidden
            )
    return _Ends(prefix=prefix, inputs=inputs, clean=clean, clean_logits=logits, ablated=ablated)


def _gradients(
    weights: TransformerWeights,
    rows: TokenRows,
    question: Question,
    ends: _Ends,
    inputs: Float[Tensor, "step_row pos d_model"],
    rules: BackwardRules,
    clean_step: int | None = None,
    *,
    replaced: Replaced | None = None,
) -> tuple[Record, tuple[Tensor, ...]]:
    """A run of stacked rows, and the metric's gradients at its receivers (or neurons).

    Its ``clean_step`` is the clean run where that was not made before.
    """
    n_rows = len(rows.clean)
    n_steps = len(inputs) // n_rows
    reads = rows.reads.repeated(n_steps, n_rows)
    record = Record(with_hidden=question.level == "neuron")
    with torch.enable_grad():
        logits = forward(
            weights,
            inputs.detach().requires_grad_(),
            reads,
            prefix=repeat_prefix(ends.prefix, n_steps),
            record=record,
            rules=rules,
            replaced=replaced,
        )
        clean_logits = ends.clean_logits
        if clean_logits is None:
            assert clean_step is not None
            clean_logits = logits.detach().unflatten(0, (n_steps, -1))[clean_step]
        values = question.metric.compute(logits, clean_logits.repeat(n_steps, 1), reads)
        wanted = record.mlp_hidden if question.level == "neuron" else receivers_of(record)
        # Where an output is replaced, nothing flows into what it was computed from.
        gradients = torch.autograd.grad(
            values.sum(), wanted, materialize_grads=replaced is not None
        )
    return record, gradients


def _of_step(record: Record, step: int, n_rows: int) -> Record:
    """What the senders wrote in one step of a stacked run."""
    rows = slice(step * n_rows, (step + 1) * n_rows)
    return Record(
        z=[z[rows].detach() for z in record.z],
        mlp_out=[written[rows].detach() for written in record.mlp_out],
        mlp_hidden=[hidden[rows].detach() for hidden in record.mlp_hidden],
        final_in=record.final_in,
    )


def _contract(
    weights: TransformerWeights,
    rows: TokenRows,
    question: Question,
    ends: _Ends,
    record: Record,
    gradients: Sequence[Tensor],
    rules: BackwardRules,
) -> Float[Tensor, "prompt *what"]:
    if question.level == "neuron":
        return rows.by_prompt(_neuron_products(ends.clean, ends.ablated, gradients))
    difference = sender_differences(weights, ends.ablated, ends.inputs, ends.clean)
    by_role = question.level == "role"
    scores = edge_products(
        weights, rows, difference, record, gradients, by_role=by_role, rules=rules
    )
    return scores if by_role else scores[:, 0]


def _neuron_products(
    clean: Record, ablated: Ablated, gradients: Sequence[Float[Tensor, "step_row pos d_mlp"]]
) -> Float[Tensor, "row n_layers d_mlp"]:
    """Sums over positions of each neuron's ablated minus clean activation times its gradient."""
    layers = []
    for layer, (hidden, gradient) in enumerate(zip(clean.mlp_hidden, gradients, strict=True)):
        given = 0.0 if ablated.mlp_hidden is None else ablated.mlp_hidden[layer]
        mean = gradient.unflatten(0, (-1, len(hidden))).mean(0)
        layers.append(((given - hidden) * mean).sum(1))
    scores = torch.stack(layers, 1)
    return scores if scores.dtype == torch.float64 else scores.float()
