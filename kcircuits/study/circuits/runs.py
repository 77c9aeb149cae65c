"""Runs for a study of circuits: trained by seed, and the circuit of every fact at every epoch.

Beside them one run is trained at a rate of 0: what its circuits show is not change. Everything goes
on where it was stopped.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kcircuits.core.manifest import Manifest
from kcircuits.io.facts import load_facts
from kcircuits.io.manifest import load_manifest
from kcircuits.lab.grid import Bar, Grid, train_grid
from kcircuits.lab.presets import PRESETS
from kcircuits.lab.study import train_built
from kcircuits.study.run import Run, open_run
from kcircuits.sweep.local import SweepResult, run_local
from kcircuits.sweep.model_compute import ModelCompute
from kcircuits.sweep.request import Request, make_settings

STILL = "rate-0"
# At a rate of 0 all epochs are one checkpoint; two of them show it.
N_STILL_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class CircuitRuns:
    """What a study of circuits reads.

    Attributes:
        runs: One per training seed.
        still: The run at a rate of 0.
    """

    runs: tuple[Run, ...]
    still: Run


def make_circuit_runs(
    grid: Grid, bar: Bar, say: Callable[[str], None], *, quiet: bool
) -> CircuitRuns:
    """Trains and sweeps what is not there yet.

    Args:
        grid: Strategies and seeds; it has to keep its weights.
        bar: Progress of a training, by its name.
        say: Told what each step is about to do.
        quiet: No progress bar.

    Raises:
        PartialError: Another process has some of the runs.
        KCircuitsError: What a training or a cell failed of.
    """
    fraction = PRESETS[grid.built.preset].fraction
    runs = [_swept(manifest, fraction, say, quiet) for manifest in _trained(grid, bar)]
    still = _swept(_train_still(grid, bar), fraction, say, quiet)
    return CircuitRuns(runs=tuple(runs), still=still)


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


def _trained(grid: Grid, bar: Bar) -> Iterator[Manifest]:
    for cell, is_finished in train_grid(grid, bar):
        if not is_finished:
            continue  # in the hands of another process
        yield load_manifest(grid.out / "trainings" / cell.name / "checkpoints_manifest.yaml")


def _train_still(grid: Grid, bar: Bar) -> Manifest:
    strategy, seed = grid.strategies[0], grid.seeds[0]
    with bar(STILL) as progress:
        return train_built(
            grid.built,
            to=grid.out / "trainings" / STILL,
            strategy=strategy,
            recipe=grid.recipe,
            seed=seed,
            lr=0.0,
            n_epochs=N_STILL_EPOCHS,
            progress=progress,
        )


def _swept(manifest: Manifest, fraction: float, say: Callable[[str], None], quiet: bool) -> Run:
    say(f"circuits of {(manifest.path or Path()).parent.name}")
    result = sweep_all(manifest, fraction=fraction, quiet=quiet)
    if result.failures:
        raise next(iter(result.failures.values()))
    return open_run(run_folder(manifest))
