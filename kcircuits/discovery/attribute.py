"""Scores every edge, node or neuron for every fact, in chunks of prompts that fit into memory."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from kcircuits.core.ablation import CONSTANT, Ablation, require_ablation
from kcircuits.core.batch import PromptBatch
from kcircuits.core.provenance import Provenance
from kcircuits.core.scores import EdgeScores, NeuronScores
from kcircuits.discovery.registry import DEFAULT_METHOD, get_method, resolve_params
from kcircuits.engine.attribution import Level, Question
from kcircuits.engine.chunks import (
    DEFAULT_MEMORY,
    count_workers,
    parse_memory,
    plan_runs,
    run_chunks,
)
from kcircuits.engine.constants import constants_of
from kcircuits.engine.footprint import RowSizes, recorded_bytes
from kcircuits.engine.metrics import DEFAULT_METRIC, get_metric
from kcircuits.engine.parity import checked_weights
from kcircuits.engine.tokens import TokenRows
from kcircuits.errors import NonFiniteError, UsageError
from kcircuits.models import Model

Reduce = Literal["fact", "prompt"]
Progress = Callable[[int], object]


def attribute(
    model: Model,
    batch: PromptBatch,
    method: str = DEFAULT_METHOD,
    *,
    metric: str = DEFAULT_METRIC,
    ablation: Ablation = "corrupt",
    reduce: Reduce = "fact",
    by_role: bool = False,
    memory: str | int = DEFAULT_MEMORY,
    progress: Progress | None = None,
    **params: Any,
) -> EdgeScores:
    """Attribution scores of all edges, one matrix per fact.

    Each prompt is scored on its own; neither its neighbours in the batch nor the chunking change
    its scores beyond floating-point error. Prompts declared for discovery are used, all prompts
    where none are declared. Answers of several tokens are scored over all their positions.

    Args:
        model: From ``load_model``.
        batch: From ``tokenize`` or ``PromptBatch.from_tokens``.
        method: Name of the method: see ``kcircuits.discovery.METHODS``.
        metric: Name of the metric: see ``kcircuits.engine.metrics.METRICS``.
        ablation: What an ablated edge carries: ``corrupt``, ``zero``, ``mean`` or
            ``positional-mean`` (means over the prompts that are scored).
        reduce: ``fact`` averages over each fact's prompts; ``prompt`` keeps them apart.
        by_role: Also tell the scores apart by the role of the receiver's position (``by_role`` of
            the result): the subject, the rest of the prompt, its last token with the answer.
        memory: Peak memory above the loaded model to stay within, such as ``1GiB``; one prompt
            always runs.
        progress: Called with the number of prompts done after each chunk.
        params: The method's own parameters.

    Returns:
        Scores [row, n_forward, n_backward] in units of the metric: estimates of metric(edge
        ablated) - metric(clean), so with the logit difference a helpful edge is negative.

    Raises:
        UsageError: A method, metric, parameter or fact that cannot be meant.
        NonFiniteError: A score is NaN or infinite; names the fact and the edge.
    """
    level = "role" if by_role else "edge"
    run = _Run(model, batch, method, metric, ablation, level, parse_memory(memory), params)
    values = run.values(reduce, progress)
    scores = EdgeScores(
        values=values.sum(1) if by_role else values,
        by_role=values if by_role else None,
        topology=run.weights.topology,
        provenance=run.provenance,
        **run.row_names(reduce),
    )
    _require_finite(scores)
    return scores


def attribute_neurons(
    model: Model,
    batch: PromptBatch,
    method: str = DEFAULT_METHOD,
    *,
    metric: str = DEFAULT_METRIC,
    ablation: Ablation = "corrupt",
    reduce: Reduce = "fact",
    memory: str | int = DEFAULT_MEMORY,
    progress: Progress | None = None,
    **params: Any,
) -> NeuronScores:
    """Attribution scores of all MLP neurons: what ablating a neuron's activation would change.

    Args:
        model: As in ``attribute``.
        batch: As in ``attribute``.
        method: As in ``attribute``; not every method scores neurons.
        metric: As in ``attribute``.
        ablation: ``corrupt`` or ``zero``.
        reduce: As in ``attribute``.
        memory: As in ``attribute``.
        progress: As in ``attribute``.
        params: The method's own parameters.

    Returns:
        Scores [row, n_layers, d_mlp], with the sign and unit of ``attribute``.

    Raises:
        UsageError: As ``attribute``, and for an ablation that says nothing of neurons.
        NonFiniteError: A score is NaN or infinite.
    """
    if ablation in CONSTANT:
        raise UsageError(
            f"neurons have no {ablation} ablation", field="ablation", hint="use corrupt or zero"
        )
    run = _Run(model, batch, method, metric, ablation, "neuron", parse_memory(memory), params)
    values = run.values(reduce, progress)
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise NonFiniteError(f"a neuron's score in row {row} is not finite")
    return NeuronScores(values=values, provenance=run.provenance, **run.row_names(reduce))


class _Run:
    """A checked request, and its scores chunk by chunk."""

    def __init__(
        self,
        model: Model,
        batch: PromptBatch,
        method: str,
        metric: str,
        ablation: Ablation,
        level: Level,
        memory: int,
        params: dict[str, Any],
    ) -> None:
        self.settings = resolve_params(method, metric, params)
        self.method, self.level, self.memory = get_method(method), level, memory
        if self.method.score is None:
            raise UsageError(
                f"{method} does not score edges, it is trained for a number of them",
                field="method",
                hint="use kcircuits.prune",
            )
        require_ablation(ablation)
        if level != "edge" and not self.method.has_levels:
            raise UsageError(
                f"{method} scores edges only, not by {level}", field="method", hint="use eap"
            )
        self.batch = batch.with_use("discovery")
        _require_prompts(self.batch)
        self.weights = checked_weights(model)
        constants = constants_of(self.weights, self.batch, ablation, memory)
        self.question = Question(
            metric=get_metric(metric), ablation=ablation, constants=constants, level=level
        )
        given = {} if ablation == "corrupt" else {"ablation": ablation}
        self.provenance = Provenance(
            method=method,
            params={**self.settings, **given},
            checkpoint=model.content_hash,
            dtype=str(self.weights.dtype).removeprefix("torch."),
            is_importance=not self.question.metric.is_higher_better,
        )

    def row_names(self, reduce: Reduce) -> dict[str, Any]:
        """Which fact and prompt each row of the result is."""
        by_prompt = reduce == "prompt"
        return {
            "fact_ids": self.batch.fact_ids,
            "fact_idx": self.batch.fact_idx if by_prompt else np.arange(self.batch.n_facts),
            "prompt_idx": self.batch.prompt_idx if by_prompt else None,
        }

    def values(self, reduce: Reduce, progress: Progress | None) -> Float[np.ndarray, "row *what"]:
        """Scores, averaged over the prompts of each row."""
        if reduce not in ("fact", "prompt"):
            raise UsageError(f"reduce is {reduce!r}; expected fact or prompt", field="reduce")
        into = self.batch.fact_idx if reduce == "fact" else np.arange(len(self.batch))
        values: Float[np.ndarray, "row *what"] | None = None
        for index, scores in run_chunks(self._plan(), self._score, count_workers(self.weights)):
            if values is None:
                values = np.zeros((int(into.max()) + 1, *scores.shape[1:]), dtype=scores.dtype)
            np.add.at(values, into[index], scores)
            if progress is not None:
                progress(len(index))
        assert values is not None, "there is a prompt"
        counts = np.bincount(into).astype(values.dtype)
        values /= counts.reshape(-1, *[1] * (values.ndim - 1))
        return values

    def _score(self, index: np.ndarray) -> np.ndarray:
        rows = TokenRows.from_batch(
            self.batch.rows(index),
            self.weights,
            with_foil=self.question.metric.with_foil,
            share_prefix=self.question.ablation == "corrupt",
        )
        assert self.method.score is not None, "checked when the run was made"
        scores = self.method.score(self.weights, rows, self.question, self.settings)
        return scores.cpu().numpy()

    def _plan(self) -> list[np.ndarray]:
        sizes = RowSizes.of(self.batch, share_prefix=self.question.ablation == "corrupt")
        n_bytes = recorded_bytes(self.weights, sizes, self.method.n_steps(self.settings))
        constants = self.question.constants
        n_held = 0 if constants is None else constants.nbytes
        return plan_runs(self.weights, self.batch, n_bytes, self.memory - n_held)


def _require_prompts(batch: PromptBatch) -> None:
    missing = sorted(set(range(batch.n_facts)) - set(batch.fact_idx.tolist()))
    if missing:
        raise UsageError(
            f"fact {batch.fact_ids[missing[0]]!r} has no discovery prompt",
            field="facts",
            hint='give it a prompt with "use": "discovery"',
        )


def _require_finite(scores: EdgeScores) -> None:
    for row, values in enumerate(scores.values):
        bad = np.argwhere(~np.isfinite(values))
        if not len(bad):
            continue
        u, v = (int(i) for i in bad[0])
        fact = scores.fact_ids[int(scores.fact_idx[row])]
        raise NonFiniteError(
            f"fact {fact!r}: the score of {scores.topology.edge_name(u, v)} is not finite "
            f"({len(bad)} of its scores)",
            field=fact,
            hint="check the checkpoint for overflow, or compute in float32",
        )
