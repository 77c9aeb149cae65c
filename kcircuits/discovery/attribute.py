"""Scores every edge for every fact, in chunks of prompts that fit into memory."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from kcircuits.core.batch import PromptBatch
from kcircuits.core.provenance import Provenance
from kcircuits.core.scores import EdgeScores
from kcircuits.discovery.registry import DEFAULT_METHOD, get_method, resolve_params
from kcircuits.engine.chunks import (
    DEFAULT_MEMORY,
    count_workers,
    parse_memory,
    plan_chunks,
    recorded_bytes,
    run_chunks,
)
from kcircuits.engine.metrics import DEFAULT_METRIC, get_metric
from kcircuits.engine.parity import checked_weights
from kcircuits.engine.tokens import TokenRows
from kcircuits.errors import NonFiniteError, UsageError
from kcircuits.models import Model
from kcircuits.models.weights import TransformerWeights


def attribute(
    model: Model,
    batch: PromptBatch,
    method: str = DEFAULT_METHOD,
    *,
    metric: str = DEFAULT_METRIC,
    reduce: Literal["fact", "prompt"] = "fact",
    memory: str | int = DEFAULT_MEMORY,
    progress: Callable[[int], object] | None = None,
    **params: Any,
) -> EdgeScores:
    """Attribution scores of all edges, one matrix per fact.

    Each prompt is scored on its own; neither its neighbours in the batch nor the chunking change
    its scores beyond floating-point error. Prompts declared for discovery are used, all prompts
    where none are declared.

    Args:
        model: From ``load_model``.
        batch: From ``tokenize`` or ``PromptBatch.from_tokens``.
        method: Name of the method: see ``kcircuits.discovery.METHODS``.
        metric: Name of the metric: see ``kcircuits.engine.metrics.METRICS``.
        reduce: ``fact`` averages over each fact's prompts; ``prompt`` keeps them apart.
        memory: Peak memory above the loaded model to stay within (``1GiB``, or bytes).
        progress: Called with the number of prompts done after each chunk.
        params: The method's own parameters, e.g. ``ig_steps=5, ig_grid="left"``.

    Returns:
        Scores [row, n_forward, n_backward] in units of the metric: estimates of metric(edge
        corrupted) - metric(clean), so with the logit difference a helpful edge is negative.

    Raises:
        UsageError: A method, metric, parameter or fact that cannot be meant.
        NonFiniteError: A score is NaN or infinite; names the fact and the edge.
    """
    settings = resolve_params(method, metric, params)
    chosen, measured = get_method(method), get_metric(metric)
    if reduce not in ("fact", "prompt"):
        raise UsageError(f"reduce is {reduce!r}; expected fact or prompt", field="reduce")
    batch = batch.with_use("discovery")
    _require_prompts(batch)
    weights = checked_weights(model)

    def score(rows: TokenRows) -> torch.Tensor:
        return chosen.score(weights, rows, measured, settings)

    plan = _plan(weights, batch, chosen.n_steps(settings), parse_memory(memory))
    by_prompt = reduce == "prompt"
    into = np.arange(len(batch)) if by_prompt else batch.fact_idx
    scores = EdgeScores(
        values=_mean_scores(weights, batch, score, plan, into, progress),
        topology=weights.topology,
        fact_ids=batch.fact_ids,
        fact_idx=batch.fact_idx if by_prompt else np.arange(batch.n_facts),
        prompt_idx=batch.prompt_idx if by_prompt else None,
        provenance=Provenance(
            method=method,
            params=settings,
            checkpoint=model.content_hash,
            dtype=str(weights.dtype).removeprefix("torch."),
        ),
    )
    _require_finite(scores)
    return scores


def _require_prompts(batch: PromptBatch) -> None:
    missing = sorted(set(range(batch.n_facts)) - set(batch.fact_idx.tolist()))
    if missing:
        raise UsageError(
            f"fact {batch.fact_ids[missing[0]]!r} has no discovery prompt",
            field="facts",
            hint='give it a prompt with "use": "discovery"',
        )


def _plan(
    weights: TransformerWeights, batch: PromptBatch, n_steps: int, memory: int
) -> list[np.ndarray]:
    # A shared prefix keeps keys and values only, so the positions after it are what counts.
    n_pos = int((batch.lengths - np.minimum(batch.prefix_lengths, batch.lengths - 1)).max())
    n_bytes = recorded_bytes(weights, n_pos, n_steps)
    return plan_chunks(batch, n_bytes, memory, count_workers(weights))


def _mean_scores(
    weights: TransformerWeights,
    batch: PromptBatch,
    score: Callable[[TokenRows], torch.Tensor],
    plan: list[np.ndarray],
    into: np.ndarray,
    progress: Callable[[int], object] | None,
) -> np.ndarray:
    """Mean score over the prompts that ``into`` sends to the same place."""
    topology = weights.topology
    dtype = np.float64 if weights.dtype == torch.float64 else np.float32
    shape = (int(into.max()) + 1, topology.n_forward, topology.n_backward)
    values = np.zeros(shape, dtype=dtype)

    def run(index: np.ndarray) -> np.ndarray:
        return score(TokenRows.from_batch(batch.rows(index), weights)).cpu().numpy()

    for index, scores in run_chunks(plan, run, count_workers(weights)):
        np.add.at(values, into[index], scores)
        if progress is not None:
            progress(len(index))
    values /= np.bincount(into).astype(dtype)[:, None, None]
    return values


def _require_finite(scores: EdgeScores) -> None:
    bad = np.argwhere(~np.isfinite(scores.values))
    if len(bad):
        row, u, v = (int(i) for i in bad[0])
        fact = scores.fact_ids[int(scores.fact_idx[row])]
        raise NonFiniteError(
            f"fact {fact!r}: the score of {scores.topology.edge_name(u, v)} is not finite "
            f"({len(bad)} scores in all)",
            field=fact,
            hint="check the checkpoint for overflow, or compute in float32",
        )
