"""Many trainings on one benchmark: every strategy with every training seed, each resumable.

A finished run leaves its rows in ``runs/<strategy>-seed<seed>/`` (probes, losses, skills) and what
was asked and decided (``training.json``, with the precision that ``auto`` chose). Its
checkpoints stay in ``trainings/<strategy>-seed<seed>/`` only where they are wanted: nine
checkpoints of a model fill gigabytes, and knowledge over epochs is in the rows. A process that
finds a run in the hands of another one goes on with the next, so the same command may be started
several times side by side. ``grid.json`` says what all runs of the folder share.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from kcircuits.errors import StoreBusyError, UsageError
from kcircuits.io.atomic import make_folder, sync_folder, write_atomic
from kcircuits.io.checkpoint_files import content_hash
from kcircuits.lab.build import DOCUMENTS, FACTS, Built
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.study import train_built, training_spec
from kcircuits.lab.training.run_folder import RunFolder
from kcircuits.lab.training.step import Progress

Bar = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training of the grid.

    Attributes:
        strategy: Name of the strategy.
        seed: Training seed.
    """

    strategy: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folders."""
        return f"{self.strategy}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What to train on a built benchmark.

    Attributes:
        built: The benchmark.
        out: Folder of the runs.
        strategies: Names of strategies.
        seeds: Training seeds.
        recipe: Name of the settings of training; None for the preset's.
        n_epochs: Epochs of each; None for the recipe's.
        skills: What is measured at every epoch beside the probes.
        keep_weights: Whether checkpoints are kept.
    """

    built: Built
    out: Path
    strategies: Sequence[str]
    seeds: Sequence[int]
    recipe: str | None = None
    n_epochs: int | None = None
    skills: Sequence[str] = ()
    keep_weights: bool = False

    def __post_init__(self) -> None:
        for field, values in (("strategies", self.strategies), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise UsageError(
                    f"{field} is {', '.join(map(str, values)) or 'empty'}; expected at least one, "
                    "none twice",
                    field=field,
                )
        for cell in self.cells:
            training_spec(
                self.built,
                cell.strategy,
                self.recipe,
                seed=cell.seed,
                skills=tuple(self.skills),
                n_epochs=self.epochs_of(cell.strategy),
            )

    @property
    def cells(self) -> list[Cell]:
        """Seed by seed, so that a grid that is cut short compares strategies on equal seeds."""
        return [Cell(strategy=name, seed=seed) for seed in self.seeds for name in self.strategies]

    def epochs_of(self, strategy: str) -> int | None:
        """The number of epochs that is given, for a strategy that trains."""
        is_training = strategy not in STRATEGIES or STRATEGIES[strategy].is_training
        return self.n_epochs if is_training else None

    def rows_folder(self, cell: Cell) -> Path:
        """Where the rows of a finished run lie."""
        return self.out / "runs" / cell.name

    @property
    def finished(self) -> list[Path]:
        """Folders of the finished runs, strategy by strategy."""
        cells = [Cell(strategy=name, seed=seed) for name in self.strategies for seed in self.seeds]
        return [folder for cell in cells if (folder := self.rows_folder(cell)).is_dir()]


def train_grid(grid: Grid, bar: Bar) -> Iterator[tuple[Cell, bool]]:
    """Trains what is not finished, and tells of each run as it is done.

    Args:
        grid: What to train.
        bar: Progress of a run, by its name.

    Yields:
        Each cell, and whether its run is finished (else another process has it).

    Raises:
        UsageError: The folder holds runs that differ in more than strategy and seed.
    """
    make_folder(grid.out)
    _require_same(grid)
    for cell in grid.cells:
        if not grid.rows_folder(cell).is_dir():
            with suppress(StoreBusyError):
                _train(grid, cell, bar)
        yield cell, grid.rows_folder(cell).is_dir()


def _require_same(grid: Grid) -> None:
    """UsageError where the folder's runs were asked for otherwise: they could not be compared."""
    file = grid.out / "grid.json"
    texts = b"".join((grid.built.folder / name).read_bytes() for name in (FACTS, DOCUMENTS))
    asked = {
        "base": content_hash(grid.built.base),
        "preset": grid.built.preset,
        "benchmark": hashlib.sha256(texts).hexdigest(),
        "recipe": grid.recipe,
        "epochs": grid.n_epochs,
        "skills": list(grid.skills),
    }
    if not file.is_file():
        write_atomic(file, json.dumps(asked, indent=2) + "\n")
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    for field, value in asked.items():
        if before.get(field) != value:
            raise UsageError(
                f"this folder holds runs with {field} {before.get(field)!r}, not {value!r}",
                file=file,
                field=field,
                hint="choose another folder (--out), or delete this one",
            )


def _train(grid: Grid, cell: Cell, bar: Bar) -> None:
    place = grid.out / "trainings" / cell.name
    with bar(cell.name) as progress:
        manifest = train_built(
            grid.built,
            to=place,
            strategy=cell.strategy,
            recipe=grid.recipe,
            seed=cell.seed,
            n_epochs=grid.epochs_of(cell.strategy),
            skills=grid.skills,
            progress=progress,
        )
    _keep_rows(RunFolder(root=place, run=manifest.run), grid.rows_folder(cell))
    if not grid.keep_weights:
        shutil.rmtree(place)


def _keep_rows(source: RunFolder, target: Path) -> None:
    """Copies the rows of a run and what it was asked for, whole or not at all."""
    temporary = target.with_name(f".writing-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(temporary)
    for file in (source.request, *sorted(source.probes.parent.glob("*.jsonl"))):
        shutil.copyfile(file, temporary / file.name)
    temporary.replace(target)
    sync_folder(target.parent)
