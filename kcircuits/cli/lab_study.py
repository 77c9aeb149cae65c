"""``kcircuits lab study``: strategies and training seeds on one benchmark, and what they show."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.lab_build import OUT
from kcircuits.cli.lab_train import skill_names, training_bar
from kcircuits.cli.options import common
from kcircuits.cli.output import print_error, print_json, print_table, printable
from kcircuits.errors import EXIT_OK, PartialError, UsageError

if TYPE_CHECKING:
    from kcircuits.lab.grid import Grid
    from kcircuits.study.dynamics.training_study import TrainingStudy

STRATEGIES = "full,lora,curriculum,kl-base,replay"
PAGE, TABLE, TEXT = "study.html", "study.json", "study.md"


def add_parser(verbs: Any) -> None:
    """Add ``study`` to the verbs of ``lab``."""
    study = verbs.add_parser(
        "study",
        parents=[common(paths=False)],
        help="train several strategies and seeds, and compare them",
        description="Trains every strategy with every seed on a built benchmark, and writes tables "
        "(study.json, study.md) and a page (study.html) on five questions: is knowledge unstable "
        "while the loss falls, do prior knowledge and exposure matter, do other skills fall early, "
        "which strategy forgets least, which stopping rule loses least. Goes on where it was "
        "stopped; started twice, two processes share the runs.",
    )
    add = study.add_argument
    add("--lab", type=Path, default=OUT, metavar="DIR", help=f"built benchmark (default: {OUT})")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for runs, tables and page")
    add("--strategies", default=STRATEGIES, metavar="LIST", help=f"default: {STRATEGIES}")
    add("--seeds", default="0,1,2", metavar="LIST", help="training seeds (default: %(default)s)")
    add("--recipe", metavar="NAME", help="settings by name: kcircuits lab recipes")
    add("--epochs", type=int, metavar="N", help="default: the recipe's")
    add("--skills", metavar="LIST", help="comma separated, or none (default: the preset's)")
    add("--reference", metavar="NAME", help="strategy to compare with (default: the first)")
    add("--keep-weights", action="store_true", help="keep all checkpoints (gigabytes)")
    study.set_defaults(run=run_study)


def run_study(args: argparse.Namespace) -> int:
    """Train what is missing, write and print."""
    from kcircuits.lab.grid import train_grid
    from kcircuits.study.dynamics.training_study import SCHEMA

    grid = _grid(args)
    reference = args.reference or grid.strategies[0]
    if reference not in grid.strategies:
        raise UsageError(
            f"--reference is {reference!r}, which is not trained",
            field="reference",
            hint=f"choose from {', '.join(grid.strategies)}",
        )

    @contextmanager
    def bar(name: str) -> "Iterator[Any]":
        with training_bar(args.quiet, name) as progress:
            yield progress

    busy = [cell.name for cell, is_finished in train_grid(grid, bar) if not is_finished]
    problem = _problem(grid, busy)
    study = _written(grid, reference)
    if args.json:
        content = {} if study is None else study.to_json()
        content.pop("schema", None)
        print_json(SCHEMA, content | (problem.to_json() if problem else {}))
        return problem.exit_code if problem else EXIT_OK
    if study is not None:
        _print(study)
        print(f"wrote {printable(args.out / PAGE)}")
    if problem is not None:
        print_error(problem, as_json=False)
    return problem.exit_code if problem else EXIT_OK


def _grid(args: argparse.Namespace) -> "Grid":
    from kcircuits.lab.build import open_lab
    from kcircuits.lab.grid import Grid

    built = open_lab(args.lab)
    return Grid(
        built=built,
        out=args.out,
        strategies=args.strategies.split(","),
        seeds=parse_seeds(args.seeds),
        recipe=args.recipe,
        n_epochs=args.epochs,
        skills=skill_names(args.skills, built.preset),
        keep_weights=args.keep_weights,
    )


def _problem(grid: "Grid", busy: list[str]) -> PartialError | None:
    """What keeps the study from being whole."""
    if not busy:
        return None
    return PartialError(
        f"{len(busy)} of {len(grid.cells)} runs are in the hands of another process: "
        f"{', '.join(busy)}",
        hint="repeat the command when it has finished them",
    )


def _written(grid: "Grid", reference: str) -> "TrainingStudy | None":
    """The study of the finished runs, written; None while there is nothing to compare with."""
    from kcircuits.io.atomic import write_atomic
    from kcircuits.study.dynamics.training_study import open_training_study
    from kcircuits.study.dynamics.training_study_page import study_markdown, training_study_page

    finished = grid.finished
    own = [grid.rows_folder(cell) for cell in grid.cells if cell.strategy == reference]
    if not set(own) & set(finished):
        return None
    study = open_training_study(
        *finished,
        facts=grid.built.facts,
        reference=reference,
        model=grid.built.base_name,
    )
    write_atomic(grid.out / TABLE, json.dumps(study.to_json(), indent=1, allow_nan=False) + "\n")
    write_atomic(grid.out / TEXT, study_markdown(study))
    write_atomic(grid.out / PAGE, training_study_page(study, grid.built.base_name))
    return study


def parse_seeds(text: str) -> list[int]:
    """Training seeds from ``--seeds``; UsageError where they are no whole numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--seeds is {text!r}; expected whole numbers", field="seeds", hint="e.g. 0,1,2"
        ) from None


def _print(study: "TrainingStudy") -> None:
    shown = ("known_last", "forgetting_rate", "controls_lost", "ood_first", "ood_last", "diverging")
    found = {(row["strategy"], row["measure"]): row["mean"] for row in study.measures}
    rows = [[name, *(found[name, measure] for measure in shown)] for name in study.by_strategy]
    print_table(["strategy", *(name.replace("_", " ") for name in shown)], rows)
