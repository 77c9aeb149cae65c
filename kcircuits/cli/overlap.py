"""``kcircuits overlap``: how alike circuits are, beside what noise and chance give."""

import argparse
from pathlib import Path
from typing import Any

from kcircuits.cli.options import add_method, common


def add_parser(subparsers: Any) -> None:
    """Adds the verb's parser."""
    parser = subparsers.add_parser(
        "overlap",
        parents=[common()],
        help="how alike circuits are between all epochs",
        description="Overlap of circuits between all pairs of epochs: the Jaccard of one half of "
        "the prompts with the other, the noise ceiling on the diagonal, chance, and the turnover "
        "with its interval; with --against also tests and verdicts.",
    )
    add = parser.add_argument
    add("--epochs", metavar="REFS", help="ep0,ep3..ep7,last (default: all that have results)")
    add("--facts", metavar="LIST", help="ids and strata key=value, comma separated (default: all)")
    add_method(parser)
    add("--by", metavar="STRATUM", help="one matrix per value of a stratum's key")
    add("--level", choices=("edge", "node"), default="edge", help="what overlaps count")
    _add_epoch_options(parser)
    add("--html", type=Path, metavar="FILE", help="also write a page to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the overlap of what was asked for: of epochs."""
    from kcircuits.cli import overlap_epochs  # plotly and the results load late

    return overlap_epochs.run(args)


def _add_epoch_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("overlap of epochs").add_argument
    add(
        "--against",
        choices=("previous", "first", "last"),
        help="test each epoch against another, with verdicts",
    )
    add("--measures", action="store_true", help="also weighted, Spearman and rank-biased overlap")
    add(
        "--pruned",
        action="store_true",
        help="also the Jaccard of full circuits after dangling edges are removed; 10 ms a circuit",
    )
    add(
        "--degree",
        action="store_true",
        help="also the chance of random circuits with the same degrees; some 40 ms a circuit",
    )
    add(
        "--resample",
        choices=("prompts",),
        help="also an interval over prompts drawn again; minutes",
    )
    add(
        "--null",
        action="store_true",
        help="also the turnover that swapped epoch labels give, for all pairs; minutes",
    )
