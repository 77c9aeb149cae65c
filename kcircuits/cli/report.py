"""`kcircuits report`: writes the page of a run."""

import argparse
from pathlib import Path
from typing import Any

from kcircuits.cli.options import add_method, common, run_of
from kcircuits.cli.output import print_json, printable


def add_parser(subparsers: Any) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "report",
        parents=[common()],
        help="write the report of a run, one HTML page",
        description="Writes one self-contained page with the results of a run: circuits, overlap "
        "between epochs, knowledge and loss, change from epoch to epoch, facts; and the circuits "
        "of the same facts by several methods where the run has them.",
    )
    add_method(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: figures/report.html in the run's folder)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    path = run_of(args).report(args.out)  # plotly and the store load late
    if args.json:
        print_json("kcircuits.report/1", {"path": str(path)})
    else:
        print(printable(path))
    return 0
