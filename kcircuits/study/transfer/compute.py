"""Runs the circuits of each epoch on the weights of others; what was run before is read.

Every checkpoint is loaded once and its full and ablated runs are made once; all circuits that are
due run on them. What came out of a checkpoint is written when it is done, so a call that was ended
goes on with the next one, and a call with more epochs, strata or draws computes only what is new.
Where nothing is due no torch is imported.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kcircuits.core.ablation import DEFAULT_ABLATION, Ablation, require_ablation
from kcircuits.engine.metrics import get_metric
from kcircuits.errors import UsageError
from kcircuits.io.atomic import clear_leftovers, make_folder
from kcircuits.io.judgements import FOLDER, CircuitJudgement, FactJudgement
from kcircuits.io.lock import writer_lock
from kcircuits.study.fact_cells import resolve_epochs
from kcircuits.study.run import Run
from kcircuits.study.transfer.assemble import assembled
from kcircuits.study.transfer.circuits import CircuitSet
from kcircuits.study.transfer.plan import Judgements, TransferPlan, judged_facts
from kcircuits.study.transfer.transfer import Transfer

if TYPE_CHECKING:
    from kcircuits.evaluation.judge import Judge, Judged

# Prompts done, prompts in all, and the epoch whose weights they run on.
Progress = Callable[[int, int, str], object]


def transfer_run(
    run: Run,
    *,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    by: str | None = None,
    fact_ids: Sequence[str] | None = None,
    manifest: str | Path | None = None,
    ablation: Ablation | None = None,
    metric: str | None = None,
    n_draws: int = 1,
    seed: int = 0,
    device: str = "cpu",
    memory: str | int = "1GiB",
    progress: Progress | None = None,
) -> Transfer:
    """Circuits of some epochs on the weights of some epochs.

    Args:
        run: The run, opened by the method whose scores are taken.
        sources: References to the epochs that circuits come from; default all with cells.
        targets: References to the epochs whose weights they run on; default all with cells.
        by: Also circuits of the strata under this key (or ``relation``), at each target.
        fact_ids: Which facts; default all.
        manifest: Says where checkpoints lie; default the manifest that the run was made from.
        ablation: What edges outside a circuit carry; default what the run's did. Means are over
            the discovery prompts of these facts.
        metric: Default the run's.
        n_draws: Random circuits beside each circuit; 0 for none.
        seed: Of intervals, splits and random circuits.
        device: Where to compute.
        memory: Peak memory above the loaded model to stay within.
        progress: Told of finished prompts.

    Raises:
        UsageError: An epoch, fact, stratum or option that cannot be meant; a fact without
            evaluation prompts.
        IncomparableError: Cells are missing.
        CheckpointError: A checkpoint is not the one that the run has scored.
        NonFiniteError: A metric is NaN or infinite; names the fact.
        StoreCorruptError: What was read is not what was written.
        StoreBusyError: Another process computes a transfer of this run.
    """
    if n_draws < 0:
        raise UsageError(f"n_draws is {n_draws}; expected 0 or more", field="n_draws")
    if seed < 0:
        raise UsageError(f"seed is {seed}; expected 0 or more", field="seed")
    params = run.request.settings["params"]
    ablated: Ablation = ablation or params.get("ablation", DEFAULT_ABLATION)
    require_ablation(ablated, is_evaluation=True)
    if ablated == "optimal":
        raise UsageError(
            "a transfer cannot use the ablation optimal: its constants are learned for all "
            "circuits that are judged together, and these grow from call to call",
            field="ablation",
            hint="judge single epochs with `kcircuits evaluate --ablation optimal`",
        )
    plan = TransferPlan(
        run=run,
        facts=judged_facts(run, fact_ids),
        sources=resolve_epochs(run, sources),
        targets=resolve_epochs(run, targets),
        by=by,
        n_draws=n_draws,
        seed=seed,
        metric=get_metric(metric or params["metric"]).name,
        ablation=ablated,
        device=device.split(":")[0],
    )
    there, n_computed = plan.judgements(), 0
    if any(plan.due(target, found)[0] for target, found in there.items()):
        n_computed = _compute(plan, manifest, device, memory, progress)
        there = plan.judgements()
    return assembled(plan, there, n_computed)


def _compute(
    plan: TransferPlan,
    manifest: str | Path | None,
    device: str,
    memory: str | int,
    progress: Progress | None,
) -> int:
    """Runs what is due, one checkpoint after the other; how many circuits of facts that were."""
    from kcircuits.engine.chunks import parse_memory
    from kcircuits.evaluation.judge import Judge
    from kcircuits.models import tokenize
    from kcircuits.study.scored_checkpoint import check_scored, load_scored

    n_bytes = parse_memory(memory)
    folder, n_done, n_computed = plan.run.path / FOLDER, 0, 0
    make_folder(folder)
    with writer_lock(folder / "lock"):
        clear_leftovers(folder)
        due = {target: plan.due(target, there) for target, there in plan.judgements().items()}
        n_all = sum(len(f.prompt_indices("evaluation")) for facts, _ in due.values() for f in facts)
        for target, (facts, sets) in due.items():
            if not facts:
                continue
            model = load_scored(plan.run, target, manifest=manifest, device=device)
            ids = tuple(fact.id for fact in facts)
            judge = Judge(
                model,
                tokenize(model, facts),
                ids,
                plan.run.topology,
                metric=plan.metric,
                ablation=plan.ablation,
                memory=n_bytes,
            )

            def tell(n_more: int, target: str = target) -> None:
                nonlocal n_done
                n_done += n_more
                if progress is not None:
                    progress(n_done, n_all, target)

            none = np.zeros(0, dtype=np.int64)
            made = [one.make() for one in sets]
            judged = judge.run_edges([[one.get(f, none) for f in ids] for one in made], tell)
            check_scored(plan.run, target, manifest)
            file = plan.file(target)
            found = dict(_judgements(judge, judged, sets, plan.fact_keys))
            file.write(_merged(file.read(), found))
            n_computed += sum(len(one.circuits) for one in found.values())
    return n_computed


def _judgements(
    judge: "Judge",
    judged: "Judged",
    sets: Sequence[CircuitSet],
    fact_keys: Mapping[str, str],
) -> Iterator[tuple[str, FactJudgement]]:
    """What the files keep, by the keys of facts."""
    is_gated = judge.is_gated(judged)
    for i, fact_id in enumerate(judge.batch.fact_ids):
        rows = np.flatnonzero(judge.batch.fact_idx == i)
        circuits = {
            one.keys[fact_id]: CircuitJudgement(
                metric=tuple(judged.circuit[rows, k].tolist()),
                target_rank=tuple(judged.target_rank[rows, k].tolist()),
            )
            for k, one in enumerate(sets)
            if fact_id in one.keys
        }
        yield (
            fact_keys[fact_id],
            FactJudgement(
                clean=tuple(judged.clean[rows].tolist()),
                empty=tuple(judged.empty[rows].tolist()),
                is_gated=bool(is_gated[i]),
                circuits=circuits,
            ),
        )


def _merged(before: Judgements, found: Judgements) -> dict[str, FactJudgement]:
    """All circuits of both; of a fact that was there, the model's own numbers stay."""
    merged = dict(before)
    for key, new in found.items():
        old = merged.get(key, new)
        merged[key] = FactJudgement(
            clean=old.clean,
            empty=old.empty,
            is_gated=old.is_gated,
            circuits={**new.circuits, **old.circuits},
        )
    return merged
