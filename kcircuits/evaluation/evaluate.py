"""How faithful circuits are: every fact its own mask, many facts in one forward pass."""

from collections.abc import Callable

import numpy as np

from kcircuits.core.ablation import Ablation
from kcircuits.core.batch import PromptBatch
from kcircuits.core.circuit import Circuits
from kcircuits.core.faithfulness import Faithfulness
from kcircuits.engine.chunks import DEFAULT_MEMORY, parse_memory
from kcircuits.engine.metrics import DEFAULT_METRIC
from kcircuits.errors import UsageError
from kcircuits.evaluation.judge import Judge, Judged
from kcircuits.models import Model


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
        ablation: What edges outside the circuit carry: the ``corrupt`` run's activation, ``zero``,
            ``mean`` or ``positional-mean`` (means over the facts' discovery prompts), or the
            ``optimal`` constants for these circuits (learned on those prompts; the run without any
            edge has its own). Constants of one fact alone hold its answer: give several.
        metric: As in ``attribute``.
        k: The k of Hit@k.
        memory: Peak memory above the loaded model to stay within.
        progress: Called with the number of prompts done after each chunk.

    Raises:
        UsageError: An option that cannot be meant, or a circuit of another architecture.
        NonFiniteError: A metric is NaN or infinite; names the fact.
    """
    if k < 1:
        raise UsageError(f"k is {k}; expected at least 1", field="k")
    judge = Judge(
        model,
        batch,
        circuits.fact_ids,
        circuits.topology,
        metric=metric,
        ablation=ablation,
        memory=parse_memory(memory),
    )
    return summarise(judge, judge.run(1, lambda _: circuits.mask, progress), k=k)


def summarise(judge: Judge, judged: Judged, *, k: int) -> Faithfulness:
    """The first circuit's numbers per fact."""
    circuit, clean, empty = (
        judge.by_fact(values) for values in (judged.circuit[:, 0], judged.clean, judged.empty)
    )
    is_gated = judge.is_gated(judged)
    faithfulness = np.full(len(circuit), np.nan)
    np.divide(circuit - empty, clean - empty, out=faithfulness, where=~is_gated)
    rank = judged.target_rank[:, 0]
    return Faithfulness(
        fact_ids=judge.batch.fact_ids,
        metric=circuit,
        clean_metric=clean,
        empty_metric=empty,
        faithfulness=faithfulness,
        is_gated=is_gated,
        hit_at_k=judge.by_fact((rank <= k).astype(np.float64)),
        k=k,
        target_rank=judge.by_fact(rank),
        ablation=judge.ablation,
        prompts=judge.prompts,
    )
