"""``kcircuits inspect FACT``: all about one fact."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.diff import verdict_text
from kcircuits.cli.options import add_method, common, run_of
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

if TYPE_CHECKING:
    from kcircuits.study.track.inspection import Inspection

_MARKS = {"there": "●", "half": "◐", "gone": "·", None: " "}
_KNOWN = {True: "yes", False: "no", None: "-"}
_TEXT_WIDTH = 60


def add_parser(subparsers: Any) -> None:
    """Adds the verb's parser."""
    parser = subparsers.add_parser(
        "inspect",
        parents=[common()],
        help="all about one fact: prompts, epochs, edges and their history",
        description="What a fact asks, what the model knew of it at every epoch, the strongest "
        "edges of its circuit with their history, births and deaths, and the turnover of every "
        "step with the verdict that it has among all facts of the step.",
    )
    add = parser.add_argument
    add("fact", metavar="FACT", help="id of a fact, see `kcircuits ls facts`")
    add("--epochs", metavar="REFS", help="ep0,ep3..ep7,last (default: all that have results)")
    add_method(parser)
    add("--level", choices=("edge", "node"), default="edge", help="what is born and dies")
    add("--top", type=int, default=15, metavar="N", help="edges listed (default: 15)")
    add("--html", type=Path, metavar="FILE", help="also write a page to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the fact."""
    if args.top < 0:
        raise UsageError(f"--top is {args.top}; expected 0 or more", field="top")
    opened = run_of(args)
    found = opened.inspect(
        args.fact,
        epochs=None if args.epochs is None else opened.select(args.epochs),
        level=args.level,
        progress=lambda facts: progress(
            facts, "facts", quiet=args.quiet, total=len(opened.fact_ids)
        ),
    )
    present(
        args,
        document=lambda: found.to_json(top=args.top),
        text=lambda: _print(found, args.top),
        page=lambda: _page(found),
    )
    return EXIT_OK


def _print(found: "Inspection", top: int) -> None:
    _print_fact(found)
    _print_epochs(found)
    _print_steps(found)
    _print_edges(found, top)


def _page(found: "Inspection") -> str:
    from kcircuits.study.track.inspection_page import inspection_page  # plotly loads late

    return inspection_page(found)


def _print_fact(found: "Inspection") -> None:
    fact, track = found.fact, found.track
    print(styled(printable(fact.id), "bold"))
    print(f"  {printable(fact.subject)} | {printable(fact.relation)} | {printable(fact.object)}")
    if fact.strata:
        strata = ", ".join(f"{printable(k)} {printable(v)}" for k, v in fact.strata.items())
        print(f"  strata: {strata}")
    print(
        f"  {printable(found.knowledge)} in {printable(track.run)}; {track.method}, "
        f"top {track.n_edges:,} of {track.topology.n_edges:,} edges"
    )
    print(styled("\nPrompts", "bold"))
    lines = [
        [fact.use_of(i), _short(prompt.clean), printable(prompt.target), printable(prompt.foil)]
        for i, prompt in enumerate(fact.prompts)
    ]
    print_aligned(["use", "clean", "target", "foil"], lines, left=(0, 1, 2, 3))


def _print_epochs(found: "Inspection") -> None:
    print(styled("\nEpochs", "bold"))
    lines = [
        [
            printable(row["epoch"]),
            _KNOWN[row["known"]],
            number_text(row["prob"], ".3f"),
            number_text(row["rank"], ".1f"),
            number_text(row["faithfulness"], ".2f"),
            number_text(row["there"], "d"),
            number_text(row["entropy"], ".2f"),
            number_text(row["entropy_noise"], ".2f"),
            number_text(row["depth"], ".2f"),
            number_text(row["depth_noise"], ".2f"),
            ", ".join(row["hubs"] or []) or "-",
        ]
        for row in found.rows
    ]
    headers = [
        "epoch",
        "known",
        "prob",
        "rank",
        "faithful",
        "there",
        "entropy",
        "+-",
        "depth",
        "+-",
    ]
    print_aligned([*headers, "hubs"], lines, left=(0, 10))
    print(
        styled(
            f"  there: {found.track.level}s in both halves of the prompts; "
            "+-: difference between the halves",
            "dim",
        )
    )


def _print_steps(found: "Inspection") -> None:
    if not found.steps:
        return
    print(styled("\nSteps", "bold"))
    lines = [
        [
            f"{printable(row['from'])} -> {printable(row['to'])}",
            number_text(row["born"], "+d"),
            number_text(None if row["died"] is None else -row["died"], "+d"),
            number_text(row["noise"], ".0f"),
            number_text(row["kept"], "d"),
            number_text(row["turnover"], ".2f"),
            interval_text(row, "turnover"),
            "no result" if row["verdict"] is None else verdict_text(row),
        ]
        for row in found.steps
    ]
    headers = ["step", "born", "died", "noise", "kept", "turnover", "interval", "verdict"]
    print_aligned(headers, lines, left=(0, 7))
    print(
        styled(
            "  noise: births and deaths with epoch labels swapped; verdict among all facts of "
            "the step",
            "dim",
        )
    )


def _print_edges(found: "Inspection", top: int) -> None:
    meaning = found.track.meaning
    for title, rows in (
        ("Strongest edges", found.edges),
        ("Strongest edges that were born or died", found.changed_edges),
    ):
        if rows[:top]:
            print()
            print(f"{styled(title, 'bold')}  (mean {meaning.names}; {meaning.note})")
            _print_history(rows[:top], found.track.epochs, len(rows))
    print(
        styled(
            "  ● in both halves of the prompts, ◐ undecided, · in neither; "
            f"core: {len(found.core)} {found.track.level}s",
            "dim",
        )
    )


def _print_history(rows: list[dict[str, Any]], epochs: Sequence[str], n_all: int) -> None:
    first, last = printable(epochs[0]), printable(epochs[-1])
    lines = [
        [
            row["edge"],
            "".join(_MARKS[state] for state in row["states"]),
            number_text(row["scores"][0], "+.4f"),
            number_text(row["scores"][-1], "+.4f"),
            printable(",".join(row["born"])) or "-",
            printable(",".join(row["died"])) or "-",
            "core" if row["core"] else "",
        ]
        for row in rows
    ]
    headers = [f"{len(rows)} of {n_all}", f"{first}..{last}", first, last, "born", "died", ""]
    print_aligned(headers, lines, left=(0, 1, 4, 5, 6))


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _TEXT_WIDTH else "..." + shown[3 - _TEXT_WIDTH :]
