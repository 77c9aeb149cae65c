"""``kcircuits lab known``: real facts that a model knows."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.options import common
from kcircuits.cli.output import print_json, print_table, printable
from kcircuits.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from kcircuits.lab.real.known_facts import KnownFacts


def add_parser(verbs: Any) -> None:
    """Add ``known`` to the verbs of ``lab``."""
    known = verbs.add_parser(
        "known",
        parents=[common(paths=False)],
        help="write a facts.jsonl that a model knows",
        description="Asks a model real facts and writes as many as are wanted of those that it "
        "knows by their discovery and by their evaluation prompts, spread over relations and over "
        "answers of one and of several tokens. No subject comes twice.",
    )
    known.add_argument("--model", required=True, metavar="MODEL", help="name, folder, Hub id")
    known.add_argument("--out", required=True, type=Path, metavar="FILE", help="a facts.jsonl")
    known.add_argument("--n", type=int, default=24, metavar="N", help="default: 24")
    known.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    known.set_defaults(run=run_known)


def run_known(args: argparse.Namespace) -> int:
    """Draw, write, and print what was asked, known and drawn of each relation."""
    from tqdm import tqdm

    from kcircuits.io.atomic import make_folder
    from kcircuits.io.facts import write_facts
    from kcircuits.lab.real.known_facts import draw_known_facts, require_draw
    from kcircuits.models import fetch_model, load_model

    require_draw(args.n, args.seed)
    if args.out.is_dir():
        raise UsageError("that is a folder", file=args.out, field="out", hint="name the file")
    make_folder(args.out.parent)
    model = load_model(fetch_model(args.model))
    with tqdm(desc="asking", unit="fact", disable=args.quiet) as bar:
        known = draw_known_facts(model, args.n, args.seed, progress=bar.update)
    write_facts(known.facts, args.out)
    if args.json:
        content = {"out": str(args.out), "facts": len(known.facts), "rows": known_rows(known)}
        print_json("kcircuits.lab-known/1", content)
    else:
        rows = known_rows(known)
        print_table(list(rows[0]), [list(row.values()) for row in rows])
        print(f"wrote {printable(args.out)}: {len(known.facts)} facts")
    return EXIT_OK


def known_rows(known: "KnownFacts") -> list[dict[str, Any]]:
    """A row for each relation of the pool.

    ``several`` counts the drawn facts whose answers have several tokens; ``gap`` is in logits, the
    mean over the drawn facts.
    """
    rows = []
    for relation, n_pool in known.n_pool.items():
        drawn = [fact for fact in known.facts if fact.relation == relation]
        gaps = [known.gaps[fact.id] for fact in drawn]
        rows.append(
            {
                "relation": relation,
                "pool": n_pool,
                "known": known.n_known[relation],
                "drawn": len(drawn),
                "several": sum(f.strata["answer_tokens"] == "several" for f in drawn),
                "gap": sum(gaps) / len(gaps) if gaps else None,
            }
        )
    return rows
