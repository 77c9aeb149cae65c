"""``kcircuits track``: how circuits change from epoch to epoch."""

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
    progress,
    styled,
    warn,
)
from kcircuits.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from kcircuits.study.track.track import Track

Row = dict[str, Any]


def add_parser(subparsers: Any) -> None:
    """Adds the verb's parser."""
    parser = subparsers.add_parser(
        "track",
        parents=[common()],
        help="how circuits change from epoch to epoch",
        description="Births and deaths of edges at every step, how long they stay, the core that "
        "persists, entropy, depth and hubs of circuits, and whether circuits settle once a fact is "
        "known; beside each number what the noise of the method gives.",
    )
    add = parser.add_argument
    add("--epochs", metavar="REFS", help="ep0,ep3..ep7,last (default: all that have results)")
    add("--facts", metavar="LIST", help="ids and strata key=value, comma separated (default: all)")
    add_method(parser)
    add("--by", metavar="STRATUM", help="a stratum's key, relation, or knowledge")
    add("--level", choices=("edge", "node"), default="edge", help="what is born and dies")
    add("--top", type=int, default=10, metavar="N", help="edges and nodes listed (default: 10)")
    add("--seed", type=int, default=0, metavar="N", help="of intervals and swapped labels")
    add("--html", type=Path, metavar="FILE", help="also write a page to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the track."""
    from kcircuits.sweep.request import choose_facts

    for name in ("top", "seed"):
        if getattr(args, name) < 0:
            raise UsageError(f"--{name} is {getattr(args, name)}; expected 0 or more", field=name)
    opened = run_of(args)
    chosen = None if args.facts is None else choose_facts(opened.facts, args.facts)
    n_facts = len(opened.fact_ids if chosen is None else chosen)
    track = opened.track(
        by=args.by,
        level=args.level,
        epochs=None if args.epochs is None else opened.select(args.epochs),
        facts=None if chosen is None else [fact.id for fact in chosen],
        seed=args.seed,
        progress=lambda facts: progress(facts, "facts", quiet=args.quiet, total=n_facts),
    )
    present(
        args,
        document=lambda: track.to_json(top=args.top),
        text=lambda: _print_track(track, args.top),
        page=lambda: _page(track),
    )
    if track.left_out:
        fact_id, why = next(iter(track.left_out.items()))
        warn(f"{len(track.left_out)} facts are left out, e.g. {printable(fact_id)} {why}")
    return EXIT_OK


def _page(track: "Track") -> str:
    from kcircuits.study.track.page import track_page  # plotly loads late

    return track_page(track)


def _print_track(track: "Track", top: int) -> None:
    print_head(track)
    for stratum in track.groups:
        print(f"\n{styled(printable(stratum), 'bold')}")
        _print_shape([row for row in track.rows if row["stratum"] == stratum])
        _print_steps([row for row in track.rows if row["stratum"] == stratum], track.level)
        _print_lifetimes([row for row in track.life_table if row["stratum"] == stratum])
        _print_core([row for row in track.core() if row["stratum"] == stratum], track.level)
        _print_items(track, stratum, top)
    _print_settling(track.settling)


def print_head(track: "Track") -> None:
    """Prints the run, its method, budget and epochs."""
    params = ", ".join(f"{name} {value}" for name, value in sorted(track.params.items()))
    n_facts, n_epochs = len(track.facts), len(track.epochs)
    print(styled(f"{printable(track.run)}: {n_facts} facts, {n_epochs} epochs", "bold"))
    print(
        f"  {track.method}{f' ({printable(params)})' if params else ''}\n"
        f"  top {track.n_edges:,} of {track.topology.n_edges:,} edges ({track.fraction:.2%}), "
        f"{track.n_prompts} {track.rows_are} a fact, halved"
    )


def _print_shape(rows: list[Row]) -> None:
    lines = [
        [
            printable(row["epoch"]),
            f"{row['known']}/{row['facts']}",
            number_text(row["present"], ".1f"),
            number_text(row["hubs"], ".1f"),
            number_text(row["entropy"], ".2f"),
            interval_text(row, "entropy"),
            number_text(row["entropy_noise"], ".2f"),
            number_text(row["depth"], ".2f"),
            interval_text(row, "depth"),
            number_text(row["depth_noise"], ".2f"),
        ]
        for row in rows
    ]
    headers = ["epoch", "known", "there", "hubs", "entropy", "", "+-", "depth", "", "+-"]
    print_aligned(headers, lines)
    _note(
        "means over the facts known at the epoch; there: in both halves of the prompts; entropy in "
        "nats;\ndepth: mean sender layer; +-: by how much halves of one fact's prompts differ"
    )


def _print_steps(rows: list[Row], level: str) -> None:
    steps = [row for row in rows if row["compared"] is not None]
    if not steps:
        return
    lines = [
        [
            f"to {printable(row['epoch'])}",
            str(row["compared"]),
            *_change(row, "births", "+.1f", 1),
            *_change(row, "deaths", "+.1f", -1),
            number_text(row["kept"], ".1f"),
            number_text(row["turnover"], ".2f"),
            interval_text(row, "turnover"),
        ]
        for row in steps
    ]
    headers = ["step", "facts", "born", "", "noise", "died", "", "noise", "kept", "turnover", ""]
    print()
    print_aligned(headers, lines)
    _note(
        f"{level}s per fact known at both epochs, both halves agreeing; noise: the same with epoch "
        "labels\nswapped between prompts; turnover 0 none, 1 chance"
    )


def _print_lifetimes(rows: list[Row]) -> None:
    observed = [row for row in rows if row["labels"] == "observed"]
    if not observed:
        print("  nothing was born early enough to be looked for again")
        return
    swapped = {row["k"]: row for row in rows if row["labels"] == "swapped"}
    lines = [
        [
            f"{row['k']} {'epoch' if row['k'] == 1 else 'epochs'}",
            str(row["at_risk"]),
            number_text(row["hazard"], ".2f"),
            interval_text(row, "hazard"),
            number_text(swapped.get(row["k"], {}).get("hazard"), ".2f"),
            number_text(row["survival"], ".2f"),
            interval_text(row, "survival"),
            number_text(swapped.get(row["k"], {}).get("survival"), ".2f"),
        ]
        for row in observed
    ]
    print()
    headers = ["after", "at risk", "dies", "", "noise", "still there", "", "noise"]
    print_aligned(headers, lines)
    _note(f"of {observed[0]['spells']} born while their fact was known")


def _print_core(rows: list[Row], level: str) -> None:
    for row in rows:
        if not row["facts"]:
            print("  core: no fact is known at two epochs")
            continue
        ends = "" if row["size_low"] is None else interval_text(row, "size", ".1f") + " "
        print(
            f"  core: {row['size']:.1f} {ends}of {row['per_epoch']:.1f} "
            f"{level}s there at an epoch are there at every epoch;\n"
            f"  {row['swapped']:.1f} with swapped labels; {row['facts']} facts known at two epochs "
            "or more"
        )


def _print_items(track: "Track", stratum: str, top: int) -> None:
    core, hubs, roles = (
        [row for row in rows if row["stratum"] == stratum][:top]
        for rows in (track.core_items(), track.hubs, track.roles)
    )
    if core:
        print()
        lines = [[row["item"], str(row["facts"])] for row in core]
        print_aligned(["in the core", "of facts"], lines)
    if hubs:
        print()
        print_aligned(
            ["hub", "in facts at " + ", ".join(map(printable, track.epochs))],
            [[row["node"], " ".join(f"{n:>3}" for n in row["hub_in"])] for row in hubs],
            left=(0, 1),
        )
    names = ("became_hub", "stopped_hub", "joined", "left", "entered_core", "left_core")
    if roles:
        print()
        lines = [[row["node"], *(str(sum(row[name])) for name in names)] for row in roles]
        print_aligned(["role", *(name.replace("_", " ") for name in names)], lines)
        _note("in how many facts, over all steps")


def _print_settling(rows: list[Row]) -> None:
    if not rows:
        return
    print(styled("\nSteps since a fact was acquired", "bold"))
    for group in dict.fromkeys(row["group"] for row in rows):
        lines = [
            [
                str(row["step"]),
                str(row["facts"]),
                *_change(row, "births", "+.1f", 1)[:2],
                *_change(row, "deaths", "+.1f", -1)[:2],
                number_text(row["swapped"], ".1f"),
                number_text(row["fewer"], "+.1f"),
                interval_text(row, "fewer", ".1f"),
                number_text(row["turnover"], ".2f"),
                interval_text(row, "turnover"),
            ]
            for row in rows
            if row["group"] == group
        ]
        headers = ["step", "facts", "born", "", "died", "", "noise", "fewer", "", "turnover", ""]
        print(f"  {group}")
        print_aligned(headers, lines)
    _note(
        "known before and never known: since the first epoch; noise: births and deaths with "
        "swapped labels;\nfewer: births and deaths less than at the same fact's step 0"
    )


def _change(row: Row, name: str, form: str, sign: int) -> list[str]:
    """Births or deaths with their interval, and what swapped labels give."""
    value = row[name]
    return [
        number_text(None if value is None else sign * value, form),
        interval_text(row, name, ".1f"),
        number_text(row.get(f"{name}_swapped"), ".1f"),
    ]


def _note(text: str) -> None:
    print(styled("\n".join(f"  {line}" for line in text.split("\n")), "dim"))
