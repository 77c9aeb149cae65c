"""``kcircuits lens``: what heads and layers say about the answers, and where they read it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.lens_text import print_lenses
from kcircuits.cli.options import add_memory, add_method, common, run_of
from kcircuits.cli.output import (
    present,
    print_error,
    prompt_bar,
    warn,
)
from kcircuits.core.lenses import RELATIONS
from kcircuits.errors import EXIT_OK, KCircuitsError, PartialError, UsageError

if TYPE_CHECKING:
    from kcircuits.study.lenses.lenses import RunLenses


def add_parser(subparsers: Any) -> None:
    """Adds the verb's parser."""
    parser = subparsers.add_parser(
        "lens",
        parents=[common()],
        help="what heads and layers say about the answers, and where they read it",
        description="Runs the facts' discovery prompts through each epoch's checkpoint: what every "
        "head adds to the answer's logit by the positions that it reads (roles: mover, relation, "
        "mixture), and the answer as each layer would give it (logit lens). Keeps the numbers in "
        "the run's folder; what is there is not computed again.",
    )
    add = parser.add_argument
    add("refs", nargs="?", metavar="REFS", help="e.g. ep0..ep9 or first,ep3,last (default: all)")
    add("--facts", metavar="LIST", help="ids and strata key=value, comma separated (default: all)")
    add_method(parser)
    add("--by", metavar="STRATUM", help="rows per value of a stratum's key")
    add(
        "--relation",
        default=RELATIONS[0],
        metavar="NAME",
        help="the relation's positions: all text but the subject, or the span that each prompt "
        "marks (default: %(default)s)",
    )
    add("--top", type=int, default=10, metavar="N", help="heads listed (default: 10)")
    add("--device", default="cpu", help="where to compute (default: cpu)")
    add_memory(parser)
    add("--html", type=Path, metavar="FILE", help="also write a page to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Computes what is missing, and prints what came out."""
    from kcircuits.study.lenses.compute import compute_lenses
    from kcircuits.study.lenses.lenses import read_lenses
    from kcircuits.sweep.request import choose_facts

    if args.top < 0:
        raise UsageError(f"--top is {args.top}; expected 0 or more", field="top")
    opened = run_of(args)
    refs = opened.epochs if args.refs is None else opened.select(args.refs)
    facts = [fact.id for fact in choose_facts(opened.facts, args.facts)]
    with prompt_bar("lenses of", quiet=args.quiet) as progress:
        failures = compute_lenses(
            opened,
            refs,
            fact_ids=facts,
            relation=args.relation,
            manifest=args.manifest,
            device=args.device,
            memory=args.memory,
            progress=progress,
        )
    for error in failures.values():
        print_error(error, as_json=False)
    done = [ref for ref in refs if ref not in failures]
    if not done:
        raise next(iter(failures.values()))
    lenses = read_lenses(opened, done, facts, by=args.by)
    problem = _problem(failures, len(refs))
    present(
        args,
        document=lambda: lenses.to_json(args.top) | (problem.to_json() if problem else {}),
        text=lambda: print_lenses(lenses, args.top),
        page=lambda: _page(lenses),
    )
    if problem and not args.json:
        print_error(problem, as_json=False)
    if lenses.left_out:
        warn(f"{len(lenses.left_out)} facts lack lenses, e.g. {lenses.left_out[0]!r}: left out")
    return problem.exit_code if problem else EXIT_OK


def _problem(failures: dict[str, KCircuitsError], n_epochs: int) -> PartialError | None:
    if not failures:
        return None
    return PartialError(
        f"{len(failures)} of {n_epochs} epochs are missing ({', '.join(failures)} not computed)",
        hint="mend what the messages name, then repeat the command",
    )


def _page(lenses: "RunLenses") -> str:
    from kcircuits.study.lenses.page import lenses_page  # plotly loads late

    return lenses_page(lenses)
