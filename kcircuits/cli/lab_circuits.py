"""``kcircuits lab circuits``: what becomes of circuits in training, over several seeds."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.lab_build import OUT
from kcircuits.cli.lab_study import parse_seeds
from kcircuits.cli.lab_train import training_bar
from kcircuits.cli.options import common
from kcircuits.cli.output import print_json, print_table, printable
from kcircuits.errors import EXIT_OK

if TYPE_CHECKING:
    from kcircuits.study.circuits.study import CircuitStudy

PAGE, TABLE, TEXT = "circuits.html", "circuits.json", "circuits.md"


def add_parser(verbs: Any) -> None:
    """Add ``circuits`` to the verbs of ``lab``."""
    parser = verbs.add_parser(
        "circuits",
        parents=[common(paths=False)],
        help="train several seeds, find all circuits, and say what becomes of them",
        description="Trains one strategy with every seed on a built benchmark, and once at a rate "
        "of 0, finds the circuit of every fact at every epoch, and writes tables (circuits.json, "
        "circuits.md) and a page (circuits.html) on four questions: how much of the turnover is "
        "noise, do circuits of acquired facts settle, does turnover precede forgetting, do "
        "circuits move from deep to shallow layers. Goes on where it was stopped.",
    )
    add = parser.add_argument
    add("--lab", type=Path, default=OUT, metavar="DIR", help=f"built benchmark (default: {OUT})")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for runs, tables and page")
    add("--strategy", default="full", metavar="NAME", help="default: %(default)s")
    add("--seeds", default="0,1,2", metavar="LIST", help="training seeds (default: %(default)s)")
    add("--recipe", metavar="NAME", help="settings by name: kcircuits lab recipes")
    add("--epochs", type=int, metavar="N", help="default: the recipe's")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute what is missing, write and print."""
    from kcircuits.lab.build import open_lab
    from kcircuits.lab.grid import Grid
    from kcircuits.study.circuits.runs import make_circuit_runs
    from kcircuits.study.circuits.study import SCHEMA, open_circuit_study

    grid = Grid(
        built=open_lab(args.lab),
        out=args.out,
        strategies=[args.strategy],
        seeds=parse_seeds(args.seeds),
        recipe=args.recipe,
        n_epochs=args.epochs,
        keep_weights=True,
    )

    @contextmanager
    def bar(name: str) -> "Iterator[Any]":
        with training_bar(args.quiet, name) as progress:
            yield progress

    def say(text: str) -> None:
        if not args.json:
            print(text, flush=True)

    made = make_circuit_runs(grid, bar, say, quiet=args.quiet)
    study = open_circuit_study(made.runs, made.still)
    content = _written(study, args.out, grid.built.base_name)
    if args.json:
        print_json(SCHEMA, {key: value for key, value in content.items() if key != "schema"})
        return EXIT_OK
    _print(study)
    print(f"wrote {printable(args.out / PAGE)}")
    return EXIT_OK


def _written(study: "CircuitStudy", out: Path, title: str) -> dict[str, Any]:
    from kcircuits.io.atomic import write_atomic
    from kcircuits.study.circuits.page import circuit_study_markdown, circuit_study_page

    content = study.to_json()
    write_atomic(out / TABLE, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_atomic(out / TEXT, circuit_study_markdown(study))
    write_atomic(out / PAGE, circuit_study_page(study, title))
    return content


def _print(study: "CircuitStudy") -> None:
    shown = ("against", "facts_are", "seed", "steps", "apparent", "differs", "noise", "noise_share")
    rows = [[row[name] for name in (*shown, "turnover")] for row in study.noise]
    print_table([*(name.replace("_", " ") for name in shown), "turnover"], rows)
