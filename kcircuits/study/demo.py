"""The whole study in one folder: benchmark, training, sweep, pruning, difference, track, report.

Each step finds what an earlier call left and goes on from there, so a killed demo is started
again with the same command.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcircuits.core.facts import Fact
from kcircuits.core.manifest import Manifest
from kcircuits.errors import UsageError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.facts import load_facts
from kcircuits.lab.build import build
from kcircuits.lab.presets import PRESETS
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.study import check_strategy, train_built
from kcircuits.study.circuits.runs import run_folder, sweep_all
from kcircuits.study.diff.diff import Diff
from kcircuits.study.diff.page import diff_page
from kcircuits.study.run import Run, open_run
from kcircuits.study.track.page import track_page
from kcircuits.sweep.local import run_local
from kcircuits.sweep.model_compute import ModelCompute
from kcircuits.sweep.request import Request, make_settings

# The benchmark's presets group their facts by it.
STRATUM = "split"
# Edge pruning trains for each circuit, so it is shown on a few facts at the last epoch.
N_PRUNED = 3
PRUNED_METHOD = "edge-pruning"
# All prompts of a fact together: one epoch by itself asks for no halves.
PRUNING = {"steps": 60, "folds": 1}
# Candidates per wanted edge: in few steps, training chooses better among few.
CANDIDATES = 4

Bar = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What a demo has made.

    Attributes:
        manifest: The training run.
        run: Its results.
        pruned: The circuits of a few facts at the last epoch by edge pruning; None where the model
            knows no fact.
        diff: The epoch in the middle of training against the last one.
        report: The page of the run.
        diff_page: The page of the difference.
        track_page: The page of the circuits from epoch to epoch.
    """

    manifest: Manifest
    run: Run
    pruned: Run | None
    diff: Diff
    report: Path
    diff_page: Path
    track_page: Path

    @property
    def method_rows(self) -> list[dict[str, Any]]:
        """Both circuits of each pruned fact: edges without dangling nodes, and faithfulness."""
        if self.pruned is None:
            return []
        last = self.run.epochs[-1]
        cells = [(run.method, run.rows(last)) for run in (self.run, self.pruned)]
        return [
            {
                "fact": fact_id,
                "method": method,
                "edges": rows[fact_id].values["n_circuit_edges"],
                "faithfulness": rows[fact_id].values["faithfulness"],
            }
            for fact_id in self.pruned.fact_ids
            for method, rows in cells
        ]


def prune_few(manifest: Manifest, run: Run, *, fraction: float, quiet: bool) -> Run | None:
    """Prunes circuits of a few facts at the last epoch, beside the results of the run."""
    facts = facts_to_prune(run)
    if not facts:
        return None
    params = {**PRUNING, "candidates": min(1.0, CANDIDATES * fraction)}
    settings = make_settings(PRUNED_METHOD, params=params, fraction=fraction)
    request = Request(
        manifest=manifest,
        known_facts=facts,
        facts=facts,
        checkpoints=manifest.checkpoints[-1:],
        settings=settings,
    )
    compute = ModelCompute(settings)
    result = run_local(request, run.path, compute, is_main=False, show_progress=not quiet)
    for error in result.failures.values():
        raise error
    return open_run(run.path, method=PRUNED_METHOD)


def facts_to_prune(run: Run) -> tuple[Fact, ...]:
    """A few facts whose circuits can be judged at the last epoch: first one of every stratum."""
    rows = run.rows(run.epochs[-1])
    judged = [
        fact
        for fact in run.facts
        if (row := rows.get(fact.id)) and row.is_known and row.values["faithfulness"] is not None
    ]
    seen: Counter[tuple[str, ...]] = Counter()
    place: dict[str, int] = {}
    for fact in judged:
        stratum = tuple(fact.strata.values())
        place[fact.id] = seen[stratum]
        seen[stratum] += 1
    return tuple(sorted(judged, key=lambda fact: place[fact.id])[:N_PRUNED])


def run_demo(
    out: Path,
    *,
    preset: str,
    strategy: str,
    seed: int,
    quiet: bool,
    say: Callable[[str], None],
    base_bar: Bar,
    training_bar: Bar,
) -> Demo:
    """Runs every step; see the module.

    Args:
        out: The folder that holds everything.
        preset: ``smoke`` or ``small``.
        strategy: How to train.
        seed: Of the benchmark and the training.
        quiet: No progress bar.
        say: Told what each step is about to do.
        base_bar: Progress of a base model made on the spot.
        training_bar: Progress of the training.

    Raises:
        UsageError: No such preset or strategy, or one that trains nothing.
    """
    check_strategy(preset, strategy)
    if not STRATEGIES[strategy].is_training:
        raise UsageError(
            f"{strategy} trains nothing, so there are no epochs to compare",
            field="strategy",
            hint="choose one that trains; kcircuits lab train --strategy probes this one",
        )
    say("base model and benchmark")
    with base_bar() as progress:
        built = build(preset, out, seed=seed, progress=progress)
    say(f"continual pre-training ({strategy}), every epoch saved and probed")
    with training_bar() as progress:
        manifest = train_built(built, strategy=strategy, progress=progress)
    n_facts, n_epochs = len(load_facts(manifest.facts)), len(manifest.checkpoints)
    say(f"one circuit per fact and epoch: {n_facts} facts x {n_epochs} epochs")
    result = sweep_all(manifest, fraction=PRESETS[preset].fraction, quiet=quiet)
    if result.failures:
        raise next(iter(result.failures.values()))
    run = open_run(run_folder(manifest))
    say(f"edge pruning of {N_PRUNED} facts at {run.epochs[-1]}, to stand beside attribution")
    pruned = prune_few(manifest, run, fraction=PRESETS[preset].fraction, quiet=quiet)
    run = open_run(run.path)
    say("what changed, and is it more than noise?")
    # A fact's circuit means something where the fact is known: by the middle of training.
    middle, last = run.epochs[len(run.epochs) // 2], run.epochs[-1]
    diff = run.diff(middle, last, by=STRATUM)
    figures = run.path / "figures"
    diff_file, track_file = figures / f"diff-{middle}-{last}.html", figures / "track.html"
    write_atomic(diff_file, diff_page(diff))
    write_atomic(track_file, track_page(run.track(by=STRATUM)))
    say("the report")
    return Demo(
        manifest=manifest,
        run=run,
        pruned=pruned,
        diff=diff,
        report=run.report(),
        diff_page=diff_file,
        track_page=track_file,
    )
