"""``kcircuits.prune``: circuits by edge pruning, one per fact or one for all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from kcircuits.core.ablation import Ablation, require_ablation
from kcircuits.core.batch import PromptBatch
from kcircuits.core.budget import edge_budget
from kcircuits.core.circuit import Circuits, prune_dangling
from kcircuits.core.provenance import Provenance
from kcircuits.core.ranking import edge_ranks
from kcircuits.core.scores import EdgeScores
from kcircuits.core.topology import Topology
from kcircuits.discovery.attribute import attribute
from kcircuits.discovery.edge_pruning import LOSSES, LossName
from kcircuits.discovery.gate_runs import GateRuns, Loss
from kcircuits.discovery.pruning import (
    OnStep,
    Recipe,
    Step,
    Trained,
    gates_as_masks,
    train_gates,
)
from kcircuits.engine.chunks import DEFAULT_MEMORY, parse_memory
from kcircuits.engine.metrics import DEFAULT_METRIC, get_metric
from kcircuits.engine.parity import checked_weights
from kcircuits.errors import UsageError
from kcircuits.models import Model

METHOD = "edge-pruning"
# Candidates by attribution: enough to reorder, few enough to converge in some hundred steps.
CANDIDATES = 0.1


def prune(
    model: Model,
    batch: PromptBatch,
    *,
    n_edges: int | None = None,
    fraction: float | None = None,
    init: EdgeScores | None = None,
    candidates: float = CANDIDATES,
    loss: LossName = "kl",
    metric: str = DEFAULT_METRIC,
    ablation: Ablation = "corrupt",
    joint: bool = False,
    recipe: Recipe | None = None,
    memory: str | int = DEFAULT_MEMORY,
    progress: OnStep | None = None,
) -> Circuits:
    """Edge pruning down to one size. See ``prune_sizes`` for several sizes in one training.

    Args:
        model: From ``load_model``.
        batch: Prompts; those declared for discovery are used, all where none are declared.
        n_edges: Wanted number of edges.
        fraction: Wanted share of all edges.
        init: Scores that candidates and warm start come from; default EAP-IG (inputs).
        candidates: Share of all edges that may be kept: each fact's best by ``init``.
        loss: ``kl``: KL(full model || circuit) where the answer is read; ``task``: distance of
            the metric from the full model's; ``kl+task``: KL plus a quarter of that distance's
            square, which keeps circuits from overshooting the metric.
        metric: The metric of ``task`` and of the default ``init``.
        ablation: What ablated edges carry.
        joint: One circuit for all facts, as published, instead of one for each.
        recipe: How gates are trained.
        memory: Peak memory above the loaded model to stay within.
        progress: Told after every step; ``pruning_bar`` makes one that shows a bar.

    Returns:
        Circuits without dangling nodes. ``scores`` holds the gates' means, in [0, 1], unsigned,
        and 0 outside the candidates; ``n_expected`` the expected number of edges before circuits
        were cut to the wanted number.

    Raises:
        UsageError: A size, share, loss or fact that cannot be meant.
    """
    size = edge_budget(checked_weights(model).topology, n_edges=n_edges, fraction=fraction)
    (circuits,) = prune_sizes(
        model,
        batch,
        [size],
        init=init,
        candidates=candidates,
        loss=loss,
        metric=metric,
        ablation=ablation,
        joint=joint,
        recipe=recipe,
        memory=memory,
        progress=progress,
    )
    return circuits


def prune_sizes(
    model: Model,
    batch: PromptBatch,
    sizes: Sequence[int],
    *,
    init: EdgeScores | None = None,
    candidates: float = CANDIDATES,
    loss: LossName = "kl",
    metric: str = DEFAULT_METRIC,
    ablation: Ablation = "corrupt",
    joint: bool = False,
    recipe: Recipe | None = None,
    memory: str | int = DEFAULT_MEMORY,
    progress: OnStep | None = None,
) -> list[Circuits]:
    """Edge pruning at several sizes in one training, from the largest down: a stage for each.

    Args:
        model: As in ``prune``.
        batch: As in ``prune``.
        sizes: Wanted numbers of edges.
        init: As in ``prune``.
        candidates: As in ``prune``.
        loss: As in ``prune``.
        metric: As in ``prune``.
        ablation: As in ``prune``.
        joint: As in ``prune``.
        recipe: As in ``prune``.
        memory: As in ``prune``.
        progress: As in ``prune``.

    Returns:
        Circuits for each size, in the order given.

    Raises:
        UsageError: As ``prune``.
    """
    recipe = recipe or Recipe()
    require_ablation(ablation)
    if loss not in LOSSES:
        raise UsageError(f"loss is {loss!r}; expected one of {', '.join(LOSSES)}", field="loss")
    batch = batch.with_use("discovery")
    weights = checked_weights(model)
    n_candidates = edge_budget(weights.topology, fraction=candidates)
    for size in sizes:
        if not 0 < size < n_candidates:
            raise UsageError(
                f"{size} edges are wanted of {n_candidates} candidates",
                field="candidates",
                hint="raise candidates, or ask for fewer edges",
            )
    if init is None:
        init = attribute(model, batch, metric=metric, ablation=ablation, memory=memory)
    get_metric(metric)
    chosen = Loss(name=loss, metric=metric)
    runs = GateRuns(weights, batch, chosen, ablation, joint, parse_memory(memory))
    flat = _candidate_edges(init, batch.fact_ids, n_candidates, joint=joint)
    keys = ("joint",) if joint else batch.fact_ids
    trained = train_gates(keys, n_candidates, sizes, runs.measure(flat), recipe, progress)
    given = {"candidates": candidates, "loss": loss, "metric": metric, "joint": joint}
    given |= {} if ablation == "corrupt" else {"ablation": ablation}
    provenance = Provenance(
        method=METHOD,
        params={**given, **asdict(recipe), "init": init.provenance.method},
        checkpoint=model.content_hash,
        dtype=str(weights.dtype).removeprefix("torch."),
        is_importance=True,
    )
    return [
        _cut(trained[size], flat, size, weights.topology, batch.fact_ids, provenance)
        for size in sizes
    ]


def _candidate_edges(
    init: EdgeScores, fact_ids: Sequence[str], n_candidates: int, *, joint: bool
) -> Int[Tensor, "fact edge"]:
    """Flat indices of each fact's best edges, best first; in joint mode one row for all."""
    scores = init.mean_by_fact()
    absent = [fact_id for fact_id in fact_ids if fact_id not in scores.fact_ids]
    if absent:
        raise UsageError(f"init has no scores for fact {absent[0]!r}", field="init")
    rows = [scores.fact_ids.index(fact_id) for fact_id in fact_ids]
    values = np.abs(scores.values[rows])
    if joint:
        values = values.mean(0, keepdims=True)
    ranked = replace(
        scores,
        values=values,
        by_role=None,
        fact_ids=("joint",) if joint else tuple(fact_ids),
        fact_idx=np.arange(len(values)),
    )
    ranks = edge_ranks(ranked).reshape(len(values), -1)
    return torch.as_tensor(np.argsort(ranks, axis=1, kind="stable")[:, :n_candidates].copy())


def _cut(
    trained: Trained,
    flat: Int[Tensor, "fact edge"],
    size: int,
    topology: Topology,
    fact_ids: tuple[str, ...],
    provenance: Provenance,
) -> Circuits:
    """The ``size`` gates of largest log alpha; ties by the order of candidates.

    In joint mode there is one row of gates, which every fact gets.
    """
    shape, n_facts = (topology.n_forward, topology.n_backward), len(fact_ids)
    n_repeats = n_facts // len(flat)
    ordered = trained.log_alpha.sort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(trained.log_alpha).scatter_(1, ordered.indices[:, :size], 1.0)
    is_last = ordered.values == ordered.values[:, size - 1 : size]
    n_ties = is_last[:, size:].sum(1)

    def repeated(values: Tensor) -> np.ndarray:
        return np.repeat(values.numpy(), n_repeats, 0)

    return Circuits(
        mask=prune_dangling(repeated(gates_as_masks(kept, flat, shape)) > 0, topology),
        topology=topology,
        fact_ids=fact_ids,
        scores=repeated(gates_as_masks(trained.gates, flat, shape)),
        n_selected=np.full(n_facts, size, dtype=np.int64),
        n_ties=repeated(n_ties),
        n_expected=repeated(trained.gates.sum(1)),
        provenance=provenance,
    )


@contextmanager
def pruning_bar() -> Iterator[OnStep]:
    """A progress bar over training steps, with the loss and the number of edges.

    Use it as ``with pruning_bar() as bar: prune(..., progress=bar)``.
    """
    with tqdm(unit="step", desc="pruning", dynamic_ncols=True) as bar:

        def advance(step: Step) -> None:
            bar.total = step.n_steps
            bar.set_postfix_str(step_text(step), refresh=False)
            bar.update(step.number - bar.n)

        yield advance


def step_text(step: Step) -> str:
    """A step's numbers for a progress bar."""
    facts = "1 fact" if step.n_facts == 1 else f"{step.n_facts} facts"
    return f"loss {step.loss:.3f}, {step.n_edges:,.0f} edges, {facts}"


def seed_overlap(first: Circuits, second: Circuits) -> dict[str, Any]:
    """Jaccard overlap of each fact's two circuits, of two seeds say, by fact id."""
    both = (first.mask & second.mask).sum((1, 2))
    either = (first.mask | second.mask).sum((1, 2))
    shares = both / np.maximum(either, 1)
    return dict(zip(first.fact_ids, shares.tolist(), strict=True))
