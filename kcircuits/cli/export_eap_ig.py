"""``kcircuits export eap-ig``: one file a fact, which EAP-IG and MIB's circuit track read."""

import argparse
from pathlib import Path
from typing import Any

from kcircuits.cli.export import FORMATS
from kcircuits.cli.options import add_method, common, run_of
from kcircuits.cli.output import print_json, print_table, printable, warn
from kcircuits.errors import EXIT_OK

ALL = "all"


def add_parser(subparsers: Any) -> None:
    """Adds the format."""
    parser = subparsers.add_parser(
        "eap-ig",
        parents=[common()],
        help=FORMATS["eap-ig"].summary,
        description="Writes the circuits of an epoch, one file a fact: the scores of all edges, as "
        "importances (higher is better), and which edges are in the circuit at the run's budget. "
        "EAP-IG reads a file with Graph.from_json, MIB with run_evaluation.py --circuit-files.",
    )
    parser.add_argument("--epoch", required=True, metavar="REF", help="ep3, step2400, first, last")
    add_method(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--fact",
        nargs="+",
        action="extend",
        metavar="ID",
        help="which facts (default: all that have numbers)",
    )
    parser.add_argument("--pt", action="store_true", help="torch files, read by Graph.from_pt")
    parser.add_argument(
        "--d-model",
        type=int,
        metavar="N",
        help="width of the model (default: what the checkpoint's config.json says)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the files and prints their names."""
    from kcircuits.discovery.interchange import write_eap_ig
    from kcircuits.study.exports import checkpoint_width, epoch_circuits

    opened = run_of(args)  # the store loads late
    is_all = args.fact in (None, [ALL]) and ALL not in opened.fact_ids
    circuits = epoch_circuits(opened, args.epoch, None if is_all else args.fact)
    width = args.d_model
    if width is None:
        width = checkpoint_width(opened, args.epoch, args.manifest)
    suffix = ".pt" if args.pt else ".json"
    files = write_eap_ig(args.out, circuits, d_model=width, suffix=suffix)
    left_out = [fact for fact in opened.fact_ids if fact not in circuits.fact_ids] if is_all else []
    rows = [
        {"fact": fact, "file": file.name, "edges": int(n_edges)}
        for fact, file, n_edges in zip(circuits.fact_ids, files, circuits.n_edges, strict=True)
    ]
    epoch = opened.checkpoint(args.epoch).id
    if args.json:
        content = {"epoch": epoch, "out": str(args.out), "d_model": width, "files": rows}
        print_json("kcircuits.export-eap-ig/1", {**content, "left_out": left_out})
        return EXIT_OK
    print(f"{epoch}: {len(rows)} facts in {printable(args.out)}")
    print_table(("fact", "file", "edges"), [list(row.values()) for row in rows])
    if left_out:
        warn(f"{len(left_out)} facts have no numbers at {epoch}, e.g. {left_out[0]!r}: left out")
    return EXIT_OK
