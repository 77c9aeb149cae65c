"""``kcircuits link``: does the circuit of a fact change before the fact is forgotten?"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.dynamics import add_runs, run_folders
from kcircuits.cli.options import add_method, common
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
    from kcircuits.study.link.link import Link

_STYLES = {"precedes": "red", "less-turnover": "red", "no-link": "green", "undetermined": "yellow"}


def add_parser(subparsers: Any) -> None:
    """Adds the verb's parser."""
    parser = subparsers.add_parser(
        "link",
        parents=[common(paths=False)],
        help="whether circuits change before facts are forgotten",
        description="Compares the turnover of circuits in one step with forgetting in the next, "
        "tested by exchanging knowledge trajectories between entities; lists the edges that tell "
        "facts that stay from facts that are lost again. Give the runs of all training seeds.",
    )
    add = parser.add_argument
    add_runs(parser, facts=False)
    add_method(parser)
    add("--by", metavar="STRATUM", help="one row per value of a stratum's key, or of relation")
    add(
        "--within",
        nargs="+",
        metavar="KEY",
        help="strata within which entities exchange trajectories (default: split, frequency and "
        "exposure, where facts have them)",
    )
    add(
        "--consolidated",
        type=int,
        default=2,
        metavar="K",
        help="epochs that a fact must stay known to the end (default: %(default)s)",
    )
    add(
        "--permutations",
        type=int,
        default=10_000,
        metavar="N",
        help="exchanges drawn (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the exchanges")
    add("--top", type=int, default=10, metavar="N", help="edges and nodes listed (default: 10)")
    add("--html", type=Path, metavar="FILE", help="also write a page with plots to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reads, tests and prints."""
    from kcircuits.study.link.link import link

    if args.top < 0:
        raise UsageError(f"--top is {args.top}; expected 0 or more", field="top")
    found = link(
        progress(run_folders(args), "runs", quiet=args.quiet),
        by=args.by,
        k=args.consolidated,
        within=args.within,
        n_permutations=args.permutations,
        seed=args.seed,
        method=args.method,
    )
    present(
        args,
        document=lambda: found.to_json(n_edges=args.top),
        text=lambda: _print(found, args.top),
        page=lambda: _page(found),
    )
    return EXIT_OK


def _page(link: "Link") -> str:
    from kcircuits.study.link.page import link_page  # plotly loads late

    return link_page(link)


def _print(link: "Link", top: int) -> None:
    _print_runs(link)
    _print_tests(link)
    _print_same_step(link)
    for found in link.distinctions:
        row = found.row()
        of = f", {printable(row['strategy'] or 'run')}" if len(link.groups) > 1 else ""
        _print_distinction(row, found.items(top), found.level, of)


def _print_runs(link: "Link") -> None:
    print(styled("Turnover of circuits and forgetting", "bold"))
    for source in link.sources:
        left_out = f"; left out: {len(source.left_out)} facts" if source.left_out else ""
        skipped = ", ".join(map(printable, source.skipped))
        print(
            f"  {_run_name(vars(source) | {'run': source.run.name})}: {len(source.facts)} facts, "
            f"{len(source.epochs)} epochs, {printable(source.run.method)}, "
            f"top {source.first_cell.n_edges:,} edges{left_out}"
            + (f"; not complete: {skipped}" if skipped else "")
        )
    within = ", ".join(map(printable, link.within)) or "no stratum"
    print(f"  entities exchange trajectories within {within}")


def _print_tests(link: "Link") -> None:
    from kcircuits.analysis.link.verdict import WORDS

    lines: list[list[str]] = []
    for test in link.tests:
        pooled = test.row()
        name = printable(pooled["stratum"])
        if len(link.groups) > 1:
            name = f"{printable(pooled['strategy'] or 'run')}: {name}"
        lines.append(_test_line(name, pooled))
        if len(test.alone) > 1:
            lines += [_test_line(f"  {_run_name(row)}", row) for row in test.seed_rows()]
    print(styled("\nTurnover t-1 -> t of facts known at both, before they are forgotten", "bold"))
    heads = ["facts", "at risk", "forgotten", "tau before", "tau else", "AUROC", "interval",
             "not adjusted", "p"]  # fmt: skip
    print_aligned(heads, lines)
    print(
        styled(
            "  tau before: of fact-steps followed by forgetting; tau else: by none; AUROC: chance "
            "that the one\n  turned over more than the other in the same step, stratum, exposure "
            "and margin held constant\n",
            "dim",
        )
    )
    for test in link.tests:
        row = test.row()
        seeds = f"{row['seeds']} training seed{'s' * (row['seeds'] != 1)}"
        word = styled(WORDS[row["verdict"]], _STYLES[row["verdict"]])
        print(f"  {printable(row['stratum'])}, {seeds}: {word}: {printable(row['reason'])}")


def _print_same_step(link: "Link") -> None:
    print(styled("\nTurnover in the step itself", "bold") + "  (descriptive)")
    lines = [
        [
            _same_step_name(link, row),
            str(row["fact_steps"]),
            str(row["entities"]),
            number_text(row["ceiling"], ".2f"),
            number_text(row["turnover"], ".2f"),
            interval_text(row, "turnover"),
        ]
        for row in link.same_step
    ]
    print_aligned(["in the step", "fact-steps", "entities", "ceiling", "tau", "interval"], lines)
    print(
        styled("  the circuit of a fact that is not known is not the circuit of that fact", "dim")
    )


def _same_step_name(link: "Link", row: dict[str, Any]) -> str:
    """What happened, of whom: as much of it as tells rows apart."""
    of = [printable(row["strategy"] or "run")] if len(link.groups) > 1 else []
    of += [printable(row["stratum"])] if link.by else []
    return ", ".join([*of, row["change"]])


def _print_distinction(
    row: dict[str, Any], items: Sequence[dict[str, Any]], level: str, of: str
) -> None:
    facts = f"{row['consolidated']} consolidated and {row['transient']} transient facts"
    print(styled(f"\n{level.capitalize()}s that distinguish {facts}{of}", "bold"))
    if row["reason"]:
        print(f"  {styled('cannot tell', 'yellow')}: {printable(row['reason'])}")
        return
    print(
        f"  {row['found']} of {row['tested']} tested (of {row['present']} there) at a false "
        f"discovery rate of 5%; first known at epoch "
        f"{number_text(row['acquired_at_consolidated'], '.1f')} and "
        f"{number_text(row['acquired_at_transient'], '.1f')} on average"
    )
    if not items:
        return
    lines = [
        [
            item[level],
            number_text(item["share_consolidated"], ".2f"),
            number_text(item["share_transient"], ".2f"),
            number_text(item["difference"], "+.2f"),
            number_text(item["p"], ".4f"),
            number_text(item["q"], ".3f"),
            f"{item['agreeing_seeds']} of {row['seeds']}",
        ]
        for item in items
    ]
    print_aligned(
        [level, "consolidated", "transient", "difference", "p", "q", "seeds agree"], lines
    )


def _test_line(name: str, row: dict[str, Any]) -> list[str]:
    return [
        name,
        str(row["at_risk"]),
        str(row["forgotten"]),
        number_text(row["tau_forgotten"], ".3f"),
        number_text(row["tau_retained"], ".3f"),
        number_text(row["auroc"], ".2f"),
        interval_text(row, "auroc"),
        number_text(row["auroc_raw"], ".2f"),
        number_text(row["p"], ".3g"),
    ]


def _run_name(row: dict[str, Any]) -> str:
    seed = None if row["seed"] is None else f"seed {row['seed']}"
    return ", ".join(printable(part) for part in (row["strategy"] or row["run"], seed) if part)
