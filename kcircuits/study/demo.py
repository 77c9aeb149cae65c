"""The whole study in one folder: benchmark, training, sweep, difference, report.

Each step finds what an earlier call left and goes on from there, so a killed demo is started
again with the same command.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcircuits.core.manifest import Manifest
from kcircuits.io.atomic import write_atomic
from kcircuits.io.facts import load_facts
from kcircuits.lab.presets import PRESETS
from kcircuits.lab.study import build, check_strategy, train_built
from kcircuits.study.diff import Diff
from kcircuits.study.diff_page import diff_page
from kcircuits.study.run import Run, open_run
from kcircuits.sweep.local import SweepResult, run_local
from kcircuits.sweep.model_compute import ModelCompute
from kcircuits.sweep.request import Request, make_settings

# The benchmark's presets group their facts by it.
STRATUM = "split"

Bar = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What a demo has made.

    Attributes:
        manifest: The training run.
        run: Its results.
        diff: The epoch in the middle of training against the last one.
        report: The page of the run.
        diff_page: The page of the difference.
    """

    manifest: Manifest
    run: Run
    diff: Diff
    report: Path
    diff_page: Path


def sweep_all(manifest: Manifest, *, fraction: float, quiet: bool) -> SweepResult:
    """Finds and evaluates the circuits of all facts at all epochs."""
    facts = load_facts(manifest.facts)
    settings = make_settings(fraction=fraction)
    request = Request(
        manifest=manifest,
        known_facts=facts,
        facts=facts,
        checkpoints=manifest.checkpoints,
        settings=settings,
    )
    return run_local(request, run_folder(manifest), ModelCompute(settings), show_progress=not quiet)


def run_folder(manifest: Manifest) -> Path:
    """``runs/<run>`` beside the manifest."""
    return (manifest.path or Path()).parent / "runs" / manifest.run


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
    """
    check_strategy(preset, strategy)
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
    say("what changed, and is it more than noise?")
    run = open_run(run_folder(manifest))
    # A fact's circuit means something where the fact is known: by the middle of training.
    middle, last = run.epochs[len(run.epochs) // 2], run.epochs[-1]
    diff = run.diff(middle, last, by=STRATUM)
    page = run.path / "figures" / f"diff-{middle}-{last}.html"
    write_atomic(page, diff_page(diff))
    say("the report")
    report = run.report()
    return Demo(manifest=manifest, run=run, diff=diff, report=report, diff_page=page)
