"""``kcircuits transfer``: what circuits of one epoch do on the weights of others."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.options import add_memory, add_method, common, run_of
from kcircuits.cli.output import (
    interval_text,
    number_text,
    present,
    print_aligned,
    printable,
    prompt_bar,
    styled,
    warn,
)
from kcircuits.core.ablation import ABLATIONS
from kcircuits.engine.metrics import METRICS
from kcircuits.errors import EXIT_OK

if TYPE_CHECKING:
    from kcircuits.study.transfer.transfer import Transfer

_WAY = "ratio of means"
_LOSSES = ("loss", "loss_both_ways")
Row = dict[str, Any]


def add_parser(subparsers: Any) -> None:
    """Adds the verb's parser."""
    parser = subparsers.add_parser(
        "transfer",
        parents=[common()],
        help="what circuits of an epoch do on the weights of others",
        description="Runs the circuits of every epoch on the weights of every epoch, on each "
        "fact's evaluation prompts: faithfulness beside the circuits that those weights give "
        "themselves, and beside random ones. What was run before is read from the run folder.",
    )
    add = parser.add_argument
    add(
        "--from",
        dest="sources",
        metavar="REFS",
        help="epochs that circuits come from: ep0..ep9 or first,ep3,last (default: all)",
    )
    add("--to", dest="targets", metavar="REFS", help="epochs whose weights they run on, likewise")
    add("--by", metavar="STRATUM", help="also circuits of these strata on the facts of each")
    add("--facts", metavar="LIST", help="ids and strata key=value, comma separated (default: all)")
    add_method(parser)
    add("--metric", metavar="NAME", help=f"{', '.join(METRICS)} (default: the run's)")
    judged = ", ".join(name for name in ABLATIONS if name != "optimal")
    add(
        "--ablation",
        metavar="NAME",
        help=f"what edges outside a circuit carry: {judged} (default: the run's)",
    )
    add(
        "--baseline",
        type=int,
        default=1,
        metavar="N",
        help="random circuits beside each circuit, layers matched; 0 for none (default: 1)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of intervals and random circuits")
    add("--device", default="cpu", help="where to compute (default: cpu)")
    add_memory(parser)
    add("--html", type=Path, metavar="FILE", help="also write a page to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs what is missing, and prints what came out."""
    from kcircuits.sweep.request import choose_facts

    opened = run_of(args)
    chosen = choose_facts(opened.facts, args.facts)
    with prompt_bar("on", quiet=args.quiet) as progress:
        transfer = opened.transfer(
            sources=None if args.sources is None else opened.select(args.sources),
            targets=None if args.targets is None else opened.select(args.targets),
            by=args.by,
            fact_ids=[fact.id for fact in chosen],
            manifest=args.manifest,
            ablation=args.ablation,
            metric=args.metric,
            n_draws=args.baseline,
            seed=args.seed,
            device=args.device,
            memory=args.memory,
            progress=progress,
        )
    present(
        args,
        document=transfer.to_json,
        text=lambda: _print_transfer(transfer),
        page=lambda: _page(transfer),
    )
    failed = max((row["failed"] for row in transfer.rows), default=0)
    if failed:
        warn(f"up to {failed} facts have no circuit at an epoch: left out there")
    return EXIT_OK


def _page(transfer: "Transfer") -> str:
    from kcircuits.study.transfer.page import transfer_page  # plotly loads late

    return transfer_page(transfer)


def _print_transfer(transfer: "Transfer") -> None:
    _print_head(transfer)
    rows = [row for row in transfer.rows if row["set"] == _WAY]
    places = "(from: circuits; to: weights)"
    _print_grid(f"Faithfulness {places}", rows, "faithfulness", "from")
    _print_grid("Transfer loss: own minus moved", rows, "loss", "from")
    if any(row["loss_both_ways"] is not None for row in rows):
        _print_grid("Loss both ways: mean of the two directions", rows, "loss_both_ways", "from")
    note = (
        "  *: the interval over 10 or more subjects excludes 0, each cell by itself; own: the"
        "\n  circuit found on those weights; facts not known at both epochs are left out"
    )
    print(styled(note, "dim"))
    _print_grid("Facts", rows, "facts", "from", form="d")
    _print_columns(rows)
    lines = [row for row in transfer.lines if row["set"] == _WAY]
    _print_grid("Chosen circuits: faithfulness", lines, "faithfulness", "line")
    _print_grid("Chosen circuits: transfer loss", lines, "loss", "line")
    _print_strata(transfer)


def _print_head(transfer: "Transfer") -> None:
    params = ", ".join(f"{name} {value}" for name, value in sorted(transfer.params.items()))
    share = transfer.n_edges / transfer.n_total
    print(
        styled(printable(transfer.run), "bold") + f"  {len(transfer.facts)} facts\n"
        f"  {transfer.method}{f' ({printable(params)})' if params else ''}\n"
        f"  top {transfer.n_edges:,} of {transfer.n_total:,} edges ({share:.2%}), the others "
        f"ablated: {transfer.ablation}\n"
        f"  {transfer.metric} ({transfer.unit}) on evaluation prompts; {_WAY} over facts"
    )


def _print_grid(
    title: str, rows: Sequence[Row], name: str, down: str, *, form: str = ".2f"
) -> None:
    """A value of every pair, its rows by the field ``down``; * where the interval excludes 0."""
    starts, stops = (list(dict.fromkeys(row[end] for row in rows)) for end in (down, "to"))
    at = {(row[down], row["to"]): row for row in rows}
    print(styled(f"\n{title}", "bold"))
    print_aligned(
        ["", *(printable(stop) + " " * (name in _LOSSES) for stop in stops)],
        [[printable(start), *(_cell(at[start, s], name, form) for s in stops)] for start in starts],
    )


def _cell(row: Row, name: str, form: str) -> str:
    from kcircuits.analysis.transfer.rows import is_apart

    text = number_text(row[name], form)
    return text + ("*" if is_apart(row, name) else " ") if name in _LOSSES else text


def _print_columns(rows: Sequence[Row]) -> None:
    """What stands beside the circuits of every epoch on its own weights."""
    print(styled("\nOn their own weights", "bold"))
    names = ("own", "half", "random")
    print_aligned(
        ["", "facts", "F", "interval", "half", "random", "Hit@1", "Hit@10", "rank"],
        [
            [
                printable(row["to"]),
                str(row["facts"]),
                number_text(row[names[0]], ".2f"),
                interval_text(row, "own"),
                *(number_text(row[name], ".2f") for name in names[1:]),
                *(number_text(row[name], ".2f") for name in ("hit_at_1", "hit_at_10")),
                number_text(row["target_rank"], ".1f"),
            ]
            for row in rows
            if row["from"] == row["to"]
        ],
    )
    note = (
        "  F: faithfulness, 0 without any edge, 1 as the model; half: of circuits found on half of"
        "\n  the prompts; random: as many edges between the same layers; rank: median over facts"
    )
    print(styled(note, "dim"))


def _print_strata(transfer: "Transfer") -> None:
    rows = [row for row in transfer.strata if row["set"] == _WAY]
    if not rows:
        return
    print(styled(f"\nBetween strata ({printable(transfer.by)})", "bold"))
    print_aligned(
        ["epoch", "circuit of", "subjects", "facts of", "facts", "F", "interval", "own", "random",
         "loss", "interval"],
        [
            [
                *map(printable, (row["epoch"], row["from"])),
                str(row["circuit_entities"]),
                printable(row["to"]),
                str(row["facts"]),
                number_text(row["faithfulness"], ".2f"),
                interval_text(row, "faithfulness"),
                *(number_text(row[name], ".2f") for name in ("own", "random", "loss")),
                interval_text(row, "loss"),
            ]
            for row in rows
        ],
        left=(0, 1, 3),
    )  # fmt: skip
    note = (
        "  subjects: in the smallest of the circuits; scores of a fact's own subject are left out"
        "\n  of every circuit that it is judged by"
    )
    print(styled(note, "dim"))
