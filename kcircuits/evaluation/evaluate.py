"""How faithful circuits are: every fact its own mask, many facts in one forward pass."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from kcircuits.core.batch import PromptBatch
from kcircuits.core.circuit import Circuits
from kcircuits.core.faithfulness import MIN_GAP, MIN_GAP_STANDARD_ERRORS, Faithfulness
from kcircuits.engine.chunks import (
    DEFAULT_MEMORY,
    count_workers,
    masked_bytes,
    parse_memory,
    plan_chunks,
    run_chunks,
)
from kcircuits.engine.forward import embed, forward, run_prefix, unembed
from kcircuits.engine.masked import ABLATIONS, Ablation, ablate_all, circuit_logits
from kcircuits.engine.metrics import DEFAULT_METRIC, Metric, get_metric
from kcircuits.engine.parity import checked_weights
from kcircuits.engine.tokens import TokenRows
from kcircuits.errors import NonFiniteError, UsageError
from kcircuits.models import Model
from kcircuits.models.weights import TransformerWeights

logger = logging.getLogger(__name__)

Values = Float[np.ndarray, " prompt"]


@dataclass(frozen=True, kw_only=True)
class PromptMetrics:
    """Numbers of each prompt, before they become a fact's."""

    circuit: Values
    clean: Values
    empty: Values
    target_rank: Values


def evaluate(
    model: Model,
    batch: PromptBatch,
    circuits: Circuits,
    *,
    ablation: Ablation = "corrupt",
    metric: str = DEFAULT_METRIC,
    k: int = 10,
    memory: str | int = DEFAULT_MEMORY,
    progress: Callable[[int], object] | None = None,
) -> Faithfulness:
    """Runs every fact's circuit on its evaluation prompts.

    Facts that declare no evaluation prompt are judged on their discovery prompts; then
    ``result.prompts`` says ``same`` and a warning is logged.

    Args:
        model: From ``load_model``.
        batch: Prompts of the circuits' facts.
        circuits: One mask per fact.
        ablation: What edges outside the circuit carry: the ``corrupt`` run's activation or
            ``zero``.
        metric: As in ``attribute``.
        k: The k of Hit@k.
        memory: Peak memory above the loaded model to stay within.
        progress: Called with the number of prompts done after each chunk.

    Raises:
        UsageError: An option that cannot be meant, or a circuit of another architecture.
        NonFiniteError: A metric is NaN or infinite; names the fact.
    """
    measured = get_metric(metric)
    if ablation not in ABLATIONS:
        raise UsageError(
            f"ablation is {ablation!r}; expected one of {', '.join(ABLATIONS)}", field="ablation"
        )
    if k < 1:
        raise UsageError(f"k is {k}; expected at least 1", field="k")
    weights = checked_weights(model)
    if circuits.topology != weights.topology:
        raise UsageError(
            f"the circuits belong to {circuits.topology}, the model is {weights.topology}",
            hint="evaluate circuits on the architecture that they were found in",
        )
    batch, prompts = _evaluation_rows(batch.facts(circuits.fact_ids))
    values = _run(weights, batch, circuits, ablation, measured, parse_memory(memory), progress)
    return _summarise(values, batch, measured, ablation=ablation, k=k, prompts=prompts)


def _evaluation_rows(batch: PromptBatch) -> tuple[PromptBatch, Literal["evaluation", "same"]]:
    chosen = batch.with_use("evaluation")
    without = sorted(set(range(batch.n_facts)) - set(chosen.fact_idx.tolist()))
    if not without:
        return chosen, "evaluation" if batch.uses is not None else "same"
    logger.warning(
        "fact %r has no evaluation prompt: circuits are judged on their discovery prompts",
        batch.fact_ids[without[0]],
    )
    return batch.with_use("discovery"), "same"


def _run(
    weights: TransformerWeights,
    batch: PromptBatch,
    circuits: Circuits,
    ablation: Ablation,
    metric: Metric,
    memory: int,
    progress: Callable[[int], object] | None,
) -> PromptMetrics:
    parts = {name: np.zeros(len(batch)) for name in ("circuit", "clean", "empty", "target_rank")}
    n_workers = count_workers(weights)

    def run(index: np.ndarray) -> dict[str, Values]:
        part = batch.rows(index)
        rows = TokenRows.from_batch(part, weights, share_prefix=ablation == "corrupt")
        mask = torch.as_tensor(
            circuits.mask[part.fact_idx], dtype=weights.dtype, device=weights.device
        )
        return _run_rows(weights, rows, mask, ablation, metric)

    plan = plan_chunks(batch, masked_bytes(weights, batch.clean.shape[1]), memory, n_workers)
    for index, of_chunk in run_chunks(plan, run, n_workers):
        for name, values in of_chunk.items():
            parts[name][index] = values
        if progress is not None:
            progress(len(index))
    return PromptMetrics(**parts)


@torch.no_grad()
def _run_rows(
    weights: TransformerWeights,
    rows: TokenRows,
    mask: torch.Tensor,
    ablation: Ablation,
    metric: Metric,
) -> dict[str, np.ndarray]:
    prefix = run_prefix(weights, rows.clean[:, : rows.n_shared])
    inputs = embed(weights, rows.clean[:, rows.n_shared :])
    clean = forward(weights, inputs, rows.answer_pos, prefix=prefix)
    ablated = ablate_all(weights, rows, ablation)
    circuit = circuit_logits(weights, rows, ablated, mask)

    def measure(logits: torch.Tensor) -> np.ndarray:
        return metric.compute(logits, clean, rows.target, rows.foil).double().cpu().numpy()

    target = circuit.gather(1, rows.target[:, None])
    return {
        "circuit": measure(circuit),
        "clean": measure(clean),
        "empty": measure(unembed(weights, ablated.final_in)),
        "target_rank": (1 + (circuit > target).sum(-1)).double().cpu().numpy(),
    }


def _summarise(
    values: PromptMetrics,
    batch: PromptBatch,
    metric: Metric,
    *,
    ablation: Ablation,
    k: int,
    prompts: Literal["evaluation", "same"],
) -> Faithfulness:
    def mean(numbers: Values) -> Float[np.ndarray, " fact"]:
        sums = np.bincount(batch.fact_idx, weights=numbers, minlength=batch.n_facts)
        return sums / np.bincount(batch.fact_idx, minlength=batch.n_facts)

    circuit, clean, empty = mean(values.circuit), mean(values.clean), mean(values.empty)
    for name, numbers in (("circuit", circuit), ("clean", clean), ("empty", empty)):
        if not np.isfinite(numbers).all():
            fact = batch.fact_ids[int(np.argmin(np.isfinite(numbers)))]
            raise NonFiniteError(f"fact {fact!r}: the {name} metric is not finite", field=fact)
    gaps = values.clean - values.empty if metric.is_higher_better else values.empty - values.clean
    gap, n_prompts = mean(gaps), np.bincount(batch.fact_idx, minlength=batch.n_facts)
    spread = np.sqrt(mean((gaps - gap[batch.fact_idx]) ** 2) / np.maximum(n_prompts - 1, 1))
    is_gated = gap < np.maximum(MIN_GAP, MIN_GAP_STANDARD_ERRORS * spread)
    faithfulness = np.full(batch.n_facts, np.nan)
    np.divide(circuit - empty, clean - empty, out=faithfulness, where=~is_gated)
    return Faithfulness(
        fact_ids=batch.fact_ids,
        metric=circuit,
        clean_metric=clean,
        empty_metric=empty,
        faithfulness=faithfulness,
        is_gated=is_gated,
        hit_at_k=mean((values.target_rank <= k).astype(np.float64)),
        k=k,
        target_rank=mean(values.target_rank),
        ablation=ablation,
        prompts=prompts,
    )
