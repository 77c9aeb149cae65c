"""Judges the circuits of an epoch anew on its checkpoint.

A sweep keeps one number per fact. Here the same circuits, or others cut from the same scores, are
run again on the evaluation prompts: with another ablation or metric, with intervals over prompts
and over subjects, beside random circuits, and at all sizes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from kcircuits.core.ablation import DEFAULT_ABLATION, Ablation, require_ablation
from kcircuits.core.bootstrap import bootstrap_faithfulness
from kcircuits.core.budget import edge_budget
from kcircuits.core.circuit import Circuits
from kcircuits.core.curve import FaithfulnessCurve
from kcircuits.core.random_circuits import random_circuits
from kcircuits.core.ranking import By
from kcircuits.core.selection import select
from kcircuits.discovery import METHODS
from kcircuits.engine.chunks import DEFAULT_MEMORY, parse_memory
from kcircuits.engine.metrics import get_metric
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.evaluation.curve import faithfulness_curve
from kcircuits.evaluation.evaluate import summarise
from kcircuits.evaluation.judge import Judge
from kcircuits.models import tokenize
from kcircuits.study.evaluation.evaluation import AREAS, BASELINES, Evaluation
from kcircuits.study.run import Run
from kcircuits.study.scored_checkpoint import load_scored
from kcircuits.study.stored_scores import stored_scores

# Prompts done and prompts in all, a prompt counted once for each set of circuits it is run with.
Progress = Callable[[int, int], object]

K = 10


def evaluate_run(
    run: Run,
    ref: str,
    *,
    fact_ids: Sequence[str] | None = None,
    manifest: str | Path | None = None,
    ablation: Ablation | None = None,
    metric: str | None = None,
    n_edges: int | None = None,
    fraction: float | None = None,
    curve: bool = False,
    n_draws: int = 0,
    seed: int = 0,
    device: str = "cpu",
    memory: str | int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> Evaluation:
    """Judges the circuits of an epoch on its checkpoint.

    Args:
        run: The run, opened by the method whose scores are taken.
        ref: A reference to the checkpoint.
        fact_ids: Which facts; default all. Those whose cell failed are left out.
        manifest: Says where the checkpoint lies; default the manifest that the run was made from.
        ablation: What edges outside a circuit carry; default what the run's did. Means are over
            the discovery prompts of the facts that are judged.
        metric: Default the run's.
        n_edges: Edges of a circuit; default the run's budget.
        fraction: The same as a share of all edges.
        curve: Also judge circuits of all sizes, ranked by |score| and by importance.
        n_draws: Random circuits of each kind to set beside each circuit.
        seed: Of intervals and random circuits.
        device: Where to compute.
        memory: Peak memory above the loaded model to stay within.
        progress: Told of finished prompts.

    Raises:
        UsageError: An epoch, fact or option that cannot be meant; circuits of another size of a
            method that is trained for one.
        IncomparableError: Cells are missing, or hold fewer scores than are asked for.
        CheckpointError: The checkpoint is not the one that the run has scored.
        NonFiniteError: A metric is NaN or infinite; names the fact.
    """
    if n_draws < 0:
        raise UsageError(f"n_draws is {n_draws}; expected 0 or more", field="n_draws")
    size = _size(run, n_edges, fraction, curve=curve)
    record = run.checkpoint(ref)
    chosen, left_out = _facts(run, record.id, fact_ids)
    scores = stored_scores(run, record.id, chosen, n_edges=None if curve else size)
    params = scores.provenance.params
    measured = get_metric(metric or params["metric"]).name
    ablated: Ablation = ablation or params.get("ablation", DEFAULT_ABLATION)
    require_ablation(ablated, is_evaluation=True)
    n_bytes = parse_memory(memory)
    model = load_scored(run, record.id, manifest=manifest, device=device)
    facts = tuple(fact for fact in run.facts if fact.id in chosen)
    batch = tokenize(model, facts)
    circuits = select(scores, n_edges=size)
    judge = Judge(
        model,
        batch,
        circuits.fact_ids,
        circuits.topology,
        metric=measured,
        ablation=ablated,
        memory=n_bytes,
    )
    tell = _Tell(progress, len(judge.batch) * (1 + len(AREAS) * curve))
    judged = _judged(judge, circuits, n_draws, seed, tell)
    curves: dict[By, FaithfulnessCurve] = {
        by: faithfulness_curve(
            model,
            batch,
            scores,
            by=by,
            metric=measured,
            ablation=ablated,
            memory=n_bytes,
            progress=tell,
        )
        for by in (AREAS.values() if curve else ())
    }
    return Evaluation(
        epoch=record.id,
        content_hash=model.content_hash or "",
        run=run.name,
        method=run.method,
        params=params,
        metric=measured,
        facts=facts,
        left_out=left_out,
        circuits=circuits,
        **judged,
        curves=curves,
        seed=seed,
    )


class _Tell:
    """Adds up the prompts that are done."""

    def __init__(self, progress: Progress | None, n_prompts: int) -> None:
        self.progress, self.n_prompts, self.n_done = progress, n_prompts, 0

    def __call__(self, n_more: int) -> None:
        self.n_done += n_more
        if self.progress is not None:
            self.progress(self.n_done, self.n_prompts)


def _size(run: Run, n_edges: int | None, fraction: float | None, *, curve: bool) -> int:
    if n_edges is not None and fraction is not None:
        raise UsageError("n_edges and fraction exclude each other", field="n_edges")
    size = run.n_edges
    if n_edges is not None or fraction is not None:
        size = edge_budget(run.topology, n_edges=n_edges, fraction=fraction)
    method = METHODS.get(run.method)
    if method is not None and method.train is not None and (curve or size != run.n_edges):
        raise UsageError(
            f"{run.method} trains circuits of one size, here {run.n_edges:,} edges, and ranks no "
            "others",
            field="curve" if curve else "n_edges",
            hint=f"find circuits of another size with `kcircuits run --method {run.method} "
            "--n-edges N`",
        )
    return size


def _facts(
    run: Run, epoch: str, fact_ids: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The facts that can be judged, in the run's order, and those whose cell failed."""
    wanted = run.fact_ids if fact_ids is None else tuple(fact_ids)
    for fact_id in wanted:
        if fact_id not in run.fact_ids:
            raise UsageError(
                f"fact {fact_id!r} is not in this run", field="fact", hint="see `kcircuits ls`"
            )
    failed = {name for name, row in run.rows(epoch).items() if row.is_failed}
    ordered = [name for name in run.fact_ids if name in wanted]
    chosen = tuple(name for name in ordered if name not in failed)
    if not chosen:
        raise IncomparableError(f"no fact has numbers at {epoch}", hint="see `kcircuits status`")
    return chosen, tuple(name for name in ordered if name in failed)


def _judged(
    judge: Judge, circuits: Circuits, n_draws: int, seed: int, tell: Callable[[int], object]
) -> Mapping[str, Any]:
    """The circuits and random ones like them on the same prompts; the model itself runs once."""
    matches = tuple(BASELINES) if n_draws else ()
    edges = [_edges(circuits)]
    for match in matches:
        draws = random_circuits(circuits, seed=seed, n_draws=n_draws, match=match)
        edges += [_edges(draw) for draw in draws]
    judged = judge.run_edges(edges, tell)
    found = summarise(judge, judged, k=K)
    gap = np.where(found.is_gated, np.nan, found.clean_metric - found.empty_metric)
    ratios = (judge.by_fact(judged.circuit).T - found.empty_metric) / gap
    intervals = bootstrap_faithfulness(
        judged.circuit[:, 0],
        judged.clean,
        judged.empty,
        judge.batch.fact_idx,
        len(circuits),
        seed=seed,
        is_gated=found.is_gated,
    )
    drawn = ratios[1:].reshape(len(matches), n_draws, len(circuits))
    baselines = dict(zip(matches, drawn, strict=True))
    return {"faithfulness": found, "intervals": intervals, "baselines": baselines}


def _edges(circuits: Circuits) -> list[Int[np.ndarray, " edge"]]:
    """Flat indices of each fact's edges: a hundredth of the memory of a mask."""
    return [np.flatnonzero(mask) for mask in circuits.mask]
