"""``kcircuits diff A B``: what changed in the circuits between two epochs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.options import add_method, common, run_of
from kcircuits.cli.output import (
    interval_text,
    number_text,
    present,
    print_aligned,
    printable,
    styled,
)
from kcircuits.errors import EXIT_DIFFERENT, EXIT_OK, UsageError

if TYPE_CHECKING:
    from kcircuits.study.diff.diff import Diff

_WORDS = {
    "changed": "changed",
    "no-change": "no change beyond noise",
    "undetermined": "cannot tell",
}
_STYLES = {"changed": "red", "no-change": "green", "undetermined": "yellow"}
_N_IDS = 6
_HASH_DIGITS = 12


def add_parser(subparsers: Any) -> None:
    """Adds the verb's parser."""
    parser = subparsers.add_parser(
        "diff",
        parents=[common()],
        help="what changed in the circuits between two epochs",
        description="Edges and nodes gained and lost between two epochs, each overlap beside its "
        "noise ceiling and chance, the turnover with its interval, and a verdict.",
    )
    parser.add_argument("a", metavar="A", help="an epoch: ep3, step2400, first, last")
    parser.add_argument("b", metavar="B", help="the epoch to compare it with")
    add_method(parser)
    parser.add_argument("--fact", metavar="ID", help="one fact, as it stands among all facts")
    parser.add_argument("--by", metavar="STRATUM", help="one row per value of a stratum's key")
    parser.add_argument(
        "--level", choices=("edge", "node"), default="edge", help="what overlaps count"
    )
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="edges and nodes listed (default: 10)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page to FILE")
    parser.add_argument(
        "--exit-code",
        action="store_true",
        help="exit 1 if a stratum or fact changed, or a fact was acquired or forgotten",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the diff; 1 with ``--exit-code`` where something changed."""
    if args.top < 0:
        raise UsageError(f"--top is {args.top}; expected 0 or more", field="top")
    if args.fact is not None and args.by is not None:
        raise UsageError(
            "--fact and --by exclude each other: one fact has one row", field="by", hint="drop one"
        )
    diff = run_of(args).diff(args.a, args.b, by=args.by, level=args.level)
    if args.fact is not None:
        diff = diff.only(args.fact)
    present(
        args,
        document=lambda: diff.to_json(n_edges=args.top),
        text=lambda: _print_diff(diff, args.top),
        page=lambda: _page(diff),
    )
    return EXIT_DIFFERENT if args.exit_code and diff.is_different else EXIT_OK


def _page(diff: "Diff") -> str:
    from kcircuits.study.diff.page import diff_page  # plotly loads late

    return diff_page(diff)


def _print_diff(diff: "Diff", top: int) -> None:
    _print_head(diff)
    print_rows(diff)
    _print_edges(diff, top)
    _print_nodes(diff, top)
    _print_facts(diff)


def _print_head(diff: "Diff") -> None:
    start, stop = (printable(name) for name in diff.epochs)
    one = f"  fact {printable(diff.fact_diffs[0].fact.id)}" if len(diff.fact_diffs) == 1 else ""
    print(styled(f"{start} -> {stop}{one}", "bold"))
    width = max(len(start), len(stop))
    for epoch, digest in zip(diff.epochs, diff.hashes, strict=True):
        mark = "  unverified: its manifest entry declares no sha256" * (epoch in diff.unverified)
        print(f"  {printable(epoch):<{width}}  {digest[:_HASH_DIGITS]}{mark}")
    params = ", ".join(f"{name} {value}" for name, value in sorted(diff.params.items()))
    print(
        f"  {diff.method}{f' ({printable(params)})' if params else ''}\n"
        f"  top {diff.n_edges:,} of {diff.topology.n_edges:,} edges ({diff.fraction:.2%}), "
        f"{diff.n_prompts} {diff.rows_are} a fact, halved; overlaps count {diff.level}s"
    )


def print_rows(diff: "Diff") -> None:
    """Prints overlap between ceiling and chance, turnover and verdict of every stratum."""
    lines = [
        [
            printable(row["stratum"]),
            str(row["facts"]),
            number_text(row["gained"], "+.1f"),
            number_text(None if row["lost"] is None else -row["lost"], "+.1f"),
            number_text(row["kept"], ".1f"),
            number_text(row["jaccard"], ".2f"),
            number_text(row["ceiling"], ".2f"),
            number_text(row["chance"], ".3f"),
            number_text(row["turnover"], ".2f"),
            interval_text(row, "turnover"),
            number_text(row["turnover_detectable"], ".2f"),
        ]
        for row in diff.rows
    ]
    headers = ["stratum", "facts", "gained", "lost", "kept", "Jaccard", "ceiling", "chance"]
    headers += ["turnover", "interval", "visible"]
    print()
    print_aligned(headers, lines)
    print(
        styled(
            "  mean per fact; Jaccard of one half of the prompts with the other; turnover 0 none, "
            "1 chance;\n  visible: the smallest turnover that would have been called changed\n",
            "dim",
        )
    )
    width = max(len(printable(row["stratum"])) for row in diff.rows)
    for row in diff.rows:
        print(f"  {printable(row['stratum']):<{width}}  {verdict_text(row)}")
    if diff.jaccard_same_prompts is not None:
        pruned = ""
        if len(diff.fact_diffs) == 1:
            pruned = f", {number_text(diff.jaccard_pruned(), '.2f')} without dangling nodes"
        print(
            f"  circuits of all prompts, not to be set beside the ceiling: "
            f"Jaccard {diff.jaccard_same_prompts:.2f}{pruned}"
        )
    unknown = sum(row["unknown"] for row in diff.rows)
    if unknown and len(diff.fact_diffs) > 1:
        print(f"  left out: {_count(unknown, 'fact')} not known at both epochs")
    if diff.missing:
        print(f"  left out: {_count(len(diff.missing), 'fact')} without a cell at both epochs")


def _print_edges(diff: "Diff", top: int) -> None:
    start, stop = (printable(name) for name in diff.epochs)
    if len(diff.fact_diffs) == 1:
        rows = diff.edges[:top]
        counts = [[row["status"]] for row in rows]
        scope = f"{diff.meaning.names}, - where too small to be kept"
        headers = ["status"]
    else:
        rows = diff.edge_totals(n_edges=top)
        counts = [_counts(row) for row in rows]
        n_facts = _count(sum(row["facts"] for row in diff.rows), "fact")
        scope = f"mean {diff.meaning.names} over {n_facts}"
        headers = ["gained", "lost", "kept in facts"]
    if not rows:
        return
    print(styled("\nEdges that changed most", "bold") + f"  ({scope}; {diff.meaning.note})")
    lines = [[row["edge"], *_scores(row), *count] for row, count in zip(rows, counts, strict=True)]
    print_aligned(["edge", start, stop, *headers], lines)


def _print_nodes(diff: "Diff", top: int) -> None:
    rows = diff.nodes[:top]
    if not rows:
        return
    is_one = len(diff.fact_diffs) == 1
    print(styled("\nNodes that changed most", "bold"))
    if is_one:
        lines = [[row["node"], "gained" if row["gained"] else "lost"] for row in rows]
        print_aligned(["node", "status"], lines)
    else:
        lines = [[row["node"], *_counts(row)] for row in rows]
        print_aligned(["node", "gained", "lost", "kept in facts"], lines)


def _print_facts(diff: "Diff") -> None:
    print(styled("\nFacts", "bold"))
    for word in ("acquired", "retained", "forgotten"):
        ids = getattr(diff.facts, word)
        named = ", ".join(printable(name) for name in ids[:_N_IDS])
        more = f", and {len(ids) - _N_IDS} more" if len(ids) > _N_IDS else ""
        print(f"  {word:<9}  {len(ids):>3}  {named}{more}".rstrip())


def _scores(row: dict[str, Any]) -> list[str]:
    """Both scores; a dash where the edge was too small to be kept."""
    is_kept = row.get("is_kept", (True, True))
    ends = zip(("from", "to"), is_kept, strict=True)
    return [number_text(row[end] if kept else None, "+.4f") for end, kept in ends]


def _counts(row: dict[str, Any]) -> list[str]:
    return [f"+{row['gained']}", f"-{row['lost']}", f"{row['kept']}"]


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def verdict_text(row: dict[str, Any]) -> str:
    """A row's verdict in words, with its reason."""
    from kcircuits.analysis.overlap.verdict import IDENTICAL

    reason = printable(row["reason"])
    word = styled(_WORDS[row["verdict"]], _STYLES[row["verdict"]])
    return reason if row["reason"] == IDENTICAL else f"{word}: {reason}"
