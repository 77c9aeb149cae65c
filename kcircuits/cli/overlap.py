"""``kcircuits overlap``: how alike circuits are, beside what noise and chance give."""

import argparse
from pathlib import Path
from typing import Any

from kcircuits.cli import overlap_facts, overlap_with
from kcircuits.cli.options import add_method, common
from kcircuits.errors import UsageError

# Each of these asks another question, and has options of its own.
_QUESTIONS = ("facts_at", "with_ref")
_OF_EPOCHS = ("against", "measures", "pruned", "degree", "resample", "null")


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
    others = parser.add_argument_group("overlap of facts, runs and methods")
    overlap_facts.add_options(others)
    overlap_with.add_options(others)
    add("--html", type=Path, metavar="FILE", help="also write a page to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the overlap of what was asked for: of facts, of runs or methods, of epochs."""
    asked = [name for name in _QUESTIONS if getattr(args, name) is not None]
    if asked:
        unread = ("facts", "epochs") if asked[0] == "facts_at" else ("facts",)
        _refuse(args, asked[0], (*asked[1:], *unread, *_OF_EPOCHS))
        verbs = {"facts_at": overlap_facts.run_facts_at, "with_ref": overlap_with.run_with}
        return verbs[asked[0]](args)
    from kcircuits.cli import overlap_epochs  # plotly and the results load late

    return overlap_epochs.run(args)


def _refuse(args: argparse.Namespace, asked: str, others: "tuple[str, ...]") -> None:
    """UsageError for options that the question that was asked does not read."""
    names = {"with_ref": "--with"}
    for name in others:
        if getattr(args, name):
            flag, question = (names.get(n, f"--{n.replace('_', '-')}") for n in (name, asked))
            raise UsageError(
                f"{question} does not read {flag}", field=name, hint=f"leave {flag} out"
            )


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
