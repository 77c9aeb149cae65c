"""``kcircuits overlap --with RUN|METHOD``: the same facts in another run or by another method."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.options import run_of
from kcircuits.cli.output import (
    interval_text,
    number_text,
    present,
    print_aligned,
    printable,
    progress,
    styled,
)
from kcircuits.errors import EXIT_OK, UsageError
from kcircuits.study.between.words import VERDICTS

if TYPE_CHECKING:
    from kcircuits.study.between.runs import BetweenRuns
    from kcircuits.study.run import Run

_STYLES = {"changed": "red", "no-change": "green", "undetermined": "yellow"}


def add_options(parser: argparse.ArgumentParser | Any) -> None:
    """Adds ``--with``, as ``args.with_ref``."""
    parser.add_argument(
        "--with",
        dest="with_ref",
        metavar="RUN|METHOD",
        help="compare each fact with itself in another run of the same facts (its folder), or by "
        "another method of this run, at every epoch that both have",
    )


def run_with(args: argparse.Namespace) -> int:
    """Prints the overlap with another run or method.

    Args:
        args: ``with_ref``, ``epochs`` (references, as ``Run.select`` reads), ``by``, ``level``,
            ``html``, ``json``, ``quiet`` and what ``run_of`` reads.
    """
    from kcircuits.study.between.runs import BetweenRuns

    def bar(epochs: Sequence[str]) -> Iterable[str]:
        return progress(epochs, "epochs", quiet=args.quiet)

    run = run_of(args)
    epochs = None if args.epochs is None else run.select(args.epochs)
    found = BetweenRuns.read(
        run, _other(run, args), epochs, by=args.by, level=args.level, progress=bar
    )
    present(
        args,
        document=found.to_json,
        text=lambda: _print(found),
        page=lambda: _page(found),
    )
    return EXIT_OK


def _other(run: "Run", args: argparse.Namespace) -> "Run":
    """The other results: a folder by the same method, or a method of the same run."""
    from kcircuits.study.run import open_run

    folder = Path(args.with_ref)
    if folder.is_dir():
        return open_run(folder, method=run.method)
    if len(folder.parts) > 1:
        raise UsageError(
            f"there is no folder {args.with_ref!r}",
            field="with",
            hint="name the folder of a run, as runs/full-seed1, or a method of this run",
        )
    return open_run(run.path, method=args.with_ref)


def _page(found: "BetweenRuns") -> str:
    from kcircuits.study.between.page import runs_page  # plotly loads late

    return runs_page(found)


def _print(found: "BetweenRuns") -> None:
    _print_head(found)
    _print_rows(found)
    _print_own(found)


def _print_head(found: "BetweenRuns") -> None:
    first, second = (printable(name) for name in found.names)
    print(styled(f"{first} and {second}", "bold"))
    by = found.methods[0] if found.kind == "runs" else "the same checkpoints"
    print(
        f"  {printable(by)}; top {found.n_edges:,} of {found.topology.n_edges:,} edges, "
        f"{found.n_prompts} prompts (or folds) a fact, halved; overlaps count {found.level}s"
    )
    lacking = {fact_id for ids in found.missing.values() for fact_id in ids}
    if lacking:
        print(f"  left out at some epoch: {len(lacking)} facts without a cell in both")


def _print_rows(found: "BetweenRuns") -> None:
    lines = [
        [
            printable(row["epoch"]),
            printable(row["stratum"]),
            str(row["facts"]),
            number_text(row["lost"], ".1f"),
            number_text(row["gained"], ".1f"),
            number_text(row["kept"], ".1f"),
            number_text(row["jaccard"], ".2f"),
            number_text(row["ceiling"], ".2f"),
            number_text(row["chance"], ".3f"),
            number_text(row["turnover"], ".2f"),
            interval_text(row, "turnover"),
        ]
        for row in found.rows
    ]
    headers = ["epoch", "stratum", "facts", "first", "second", "both", "Jaccard", "ceiling"]
    print()
    print_aligned([*headers, "chance", "turnover", "interval"], lines, left=(0, 1))
    print(
        styled(
            f"  {found.level}s of the first alone, of the second alone and of both, mean per fact "
            "known in both;\n  Jaccard of half the prompts in the one with the other half in the "
            "other\n",
            "dim",
        )
    )
    for row in found.rows:
        word = styled(VERDICTS[row["verdict"]], _STYLES[row["verdict"]])
        name = f"{printable(row['epoch'])} {printable(row['stratum'])}"
        print(f"  {name:<20}  {word}: {printable(row['reason'])}")


def _print_own(found: "BetweenRuns") -> None:
    lines = [
        [
            printable(row["epoch"]),
            printable(row["stratum"]),
            str(row["own_facts"]),
            number_text(row["own"], ".2f"),
            number_text(row["others"], ".2f"),
            number_text(row["own_more"], "+.2f"),
            interval_text(row, "own_more"),
            number_text(row["own_p"], ".3f"),
        ]
        for row in found.rows
        if row["own_facts"]
    ]
    if not lines:
        return
    print(styled("\nA fact with itself, and with other facts of its relation", "bold"))
    headers = ["epoch", "stratum", "facts", "itself", "others", "more", "interval", "p"]
    print_aligned(headers, lines, left=(0, 1))
    print(styled("  shared: 1 as alike as the halves of one fact, 0 chance", "dim"))
