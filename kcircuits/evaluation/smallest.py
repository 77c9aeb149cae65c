"""The smallest circuit that reaches a faithfulness: bisection on the size, all facts at once."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int

from kcircuits.core.ablation import Ablation
from kcircuits.core.batch import PromptBatch
from kcircuits.core.circuit import Circuits, prune_dangling
from kcircuits.core.ranking import By, edge_ranks
from kcircuits.core.scores import EdgeScores
from kcircuits.engine.chunks import DEFAULT_MEMORY, parse_memory
from kcircuits.engine.metrics import DEFAULT_METRIC
from kcircuits.errors import UsageError
from kcircuits.evaluation.judge import Judge, Judged
from kcircuits.models import Model


def smallest_circuit(
    model: Model,
    batch: PromptBatch,
    scores: EdgeScores,
    *,
    faithfulness: float = 0.9,
    by: By = "size",
    ablation: Ablation = "corrupt",
    metric: str = DEFAULT_METRIC,
    memory: str | int = DEFAULT_MEMORY,
    progress: Callable[[int], object] | None = None,
) -> Circuits:
    """Each fact's smallest top-n circuit whose faithfulness reaches a value.

    n is found by bisection in log2(N) rounds, on the *discovery* prompts: the evaluation prompts
    stay unseen for judging the result. Faithfulness need not grow with n; then this is a size that
    reaches the value where one edge less does not, and a smaller such size may exist.

    Args:
        model: From ``load_model``.
        batch: Prompts of the facts.
        scores: What edges are ranked by.
        faithfulness: Value to reach, above 0 and up to 1.
        by: As in ``select``.
        ablation: As in ``evaluate``.
        metric: As in ``attribute``.
        memory: As in ``evaluate``.
        progress: Called with the number of prompts done after each chunk of each round.

    Returns:
        Circuits without dangling nodes; all edges for a fact that no circuit of less explains or
        that the model does not know (``Judge.is_gated``).

    Raises:
        UsageError: A value out of range, or scores of another architecture.
    """
    if not 0 < faithfulness <= 1:
        raise UsageError(
            f"faithfulness is {faithfulness!r}; expected a number above 0 and up to 1",
            field="faithfulness",
        )
    scores = scores.mean_by_fact()
    topology, ranks = scores.topology, edge_ranks(scores, by=by)
    judge = Judge(
        model,
        batch,
        scores.fact_ids,
        topology,
        metric=metric,
        ablation=ablation,
        memory=parse_memory(memory),
        use="discovery",
    )

    def masks(n: Int[np.ndarray, " fact"]) -> Bool[np.ndarray, "fact n_forward n_backward"]:
        return prune_dangling(ranks < n[:, None, None], topology)

    n_facts = len(scores.fact_ids)
    enough = np.full(n_facts, topology.n_edges)  # smallest n known to reach the value
    short = np.zeros(n_facts, dtype=np.int64)  # largest n known not to
    while (enough - short > 1).any():
        middle = (enough + short) // 2
        mask = masks(np.where(enough - short > 1, middle, enough))
        judged = judge.run(1, lambda _, mask=mask: mask, progress)
        reaches = _reaches(judge, judged, faithfulness)
        is_open = enough - short > 1
        enough = np.where(is_open & reaches, middle, enough)
        short = np.where(is_open & ~reaches, middle, short)
    return Circuits(
        mask=masks(enough),
        topology=topology,
        fact_ids=scores.fact_ids,
        scores=scores.values,
        n_selected=enough,
        n_ties=np.zeros(n_facts, dtype=np.int64),
        provenance=scores.provenance,
    )


def _reaches(judge: Judge, judged: Judged, value: float) -> Bool[np.ndarray, " fact"]:
    circuit, clean, empty = (
        judge.by_fact(values) for values in (judged.circuit[:, 0], judged.clean, judged.empty)
    )
    # As a product, so that no gap is divided by; its sign says which side is better.
    gap = clean - empty
    reached = np.sign(gap) * (circuit - empty) >= value * np.abs(gap)
    return reached & ~judge.is_gated(judged)
