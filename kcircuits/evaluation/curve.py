"""Faithfulness over circuit sizes: one run of the full and the ablated model for all sizes."""

from collections.abc import Callable, Sequence

import numpy as np

from kcircuits.core.ablation import Ablation
from kcircuits.core.batch import PromptBatch
from kcircuits.core.circuit import Circuits
from kcircuits.core.curve import FaithfulnessCurve
from kcircuits.core.ranking import SIZES, By, nested_circuits
from kcircuits.core.scores import EdgeScores
from kcircuits.engine.chunks import DEFAULT_MEMORY, parse_memory
from kcircuits.engine.metrics import DEFAULT_METRIC
from kcircuits.errors import UsageError
from kcircuits.evaluation.judge import Judge, MaskOf
from kcircuits.models import Model


def faithfulness_curve(
    model: Model,
    batch: PromptBatch,
    circuits: EdgeScores | Sequence[Circuits],
    *,
    sizes: Sequence[float] = SIZES,
    by: By = "size",
    ablation: Ablation = "corrupt",
    metric: str = DEFAULT_METRIC,
    memory: str | int = DEFAULT_MEMORY,
    progress: Callable[[int], object] | None = None,
) -> FaithfulnessCurve:
    """Faithfulness of every fact's circuits at several sizes, on its evaluation prompts.

    The circuit of all edges is the model itself and is not run.

    Args:
        model: From ``load_model``.
        batch: Prompts of the facts.
        circuits: Scores, whose top edges are taken at each size; or circuits found at each size,
            such as those of ``prune_sizes``.
        sizes: Shares of all edges, ascending; with circuits, the size of each.
        by: ``size`` takes the largest |score| (for CMD), ``importance`` the largest signed
            importance (for CPR).
        ablation: As in ``evaluate``.
        metric: As in ``attribute``.
        memory: As in ``evaluate``.
        progress: Called with the number of prompts done after each chunk.

    Raises:
        UsageError: As ``evaluate``, or sizes that do not fit.
        NonFiniteError: A metric is NaN or infinite; names the fact.
    """
    found = _Sized.of(circuits, sizes, by)
    first = found.circuits(0)
    judge = Judge(
        model,
        batch,
        first.fact_ids,
        first.topology,
        metric=metric,
        ablation=ablation,
        memory=parse_memory(memory),
    )
    n_edges = np.stack([found.mask(i).sum((1, 2)) for i in range(len(sizes))], 1)
    is_full = (n_edges == first.topology.n_edges).all(0)
    to_run = np.flatnonzero(~is_full).tolist()
    judged = judge.run(max(1, len(to_run)), lambda i: found.mask((to_run or [0])[i]), progress)
    clean = judge.by_fact(judged.clean)
    metrics = np.repeat(clean[:, None], len(sizes), 1)
    metrics[:, to_run] = judge.by_fact(judged.circuit)[:, : len(to_run)]
    return FaithfulnessCurve(
        fact_ids=first.fact_ids,
        sizes=np.array(sizes, dtype=np.float64),
        n_selected=np.stack([found.circuits(i).n_selected for i in range(len(sizes))], 1),
        n_edges=n_edges,
        n_ties=np.stack([found.circuits(i).n_ties for i in range(len(sizes))], 1),
        metric=metrics,
        clean_metric=clean,
        empty_metric=judge.by_fact(judged.empty),
        is_gated=judge.is_gated(judged),
        by=by,
        ablation=ablation,
        prompts=judge.prompts,
    )


class _Sized:
    """Circuits at each size, from scores or as they were found."""

    def __init__(self, circuits: Callable[[int], Circuits], mask: MaskOf) -> None:
        self.circuits, self.mask = circuits, mask

    @classmethod
    def of(
        cls, circuits: EdgeScores | Sequence[Circuits], sizes: Sequence[float], by: By
    ) -> "_Sized":
        if isinstance(circuits, EdgeScores):
            nested = nested_circuits(circuits, sizes=sizes, by=by)
            return cls(nested.circuits, nested.mask)
        if len(circuits) != len(sizes) or list(sizes) != sorted(set(sizes)) or not sizes:
            raise UsageError(
                f"{len(circuits)} circuits for sizes {tuple(sizes)}; expected one for each size, "
                "in ascending order",
                field="sizes",
            )
        if any(each.fact_ids != circuits[0].fact_ids for each in circuits):
            raise UsageError("circuits of different facts make no curve", field="circuits")
        given = list(circuits)
        return cls(given.__getitem__, lambda i: given[i].mask)
