"""``kcircuits lab build --documents FILE --facts FILE``: a benchmark of one's own data."""

import argparse
from pathlib import Path
from typing import Any

from kcircuits.cli.output import print_json, printable
from kcircuits.errors import EXIT_OK, UsageError


def add_own_options(build: Any) -> None:
    """Add the options that take files instead of a spec."""
    own = build.add_argument_group("documents and facts of your own, instead of --spec")
    own.add_argument(
        "--documents", type=Path, metavar="FILE", help="JSONL or CSV: subject, text, ..."
    )
    own.add_argument(
        "--facts",
        type=Path,
        metavar="FILE",
        help="JSONL or CSV: subject, relation, object, prompt with {subject}; or a facts.jsonl",
    )
    own.add_argument(
        "--skip-unpaired",
        action="store_true",
        help="leave out prompts that no other subject of the relation can corrupt, and list them",
    )
    own.add_argument(
        "--strict", action="store_true", help="refuse groups that differ in more than frequency"
    )


def is_own(args: argparse.Namespace) -> bool:
    """Whether files are given; UsageError where options do not go together."""
    files = {"--documents": args.documents, "--facts": args.facts}
    missing = [name for name, file in files.items() if file is None]
    others = {"--skip-unpaired": args.skip_unpaired, "--strict": args.strict}
    if len(missing) == len(files):
        if alone := next((name for name, value in others.items() if value), None):
            raise UsageError(
                f"{alone} is about documents and facts of your own",
                field=alone,
                hint="give --documents and --facts",
            )
        return False
    if missing:
        raise UsageError(
            f"{missing[0]} is missing",
            field=missing[0],
            hint="documents are trained on and facts asked for: give both files",
        )
    if args.spec is not None:
        raise UsageError(
            "--spec generates documents and facts, and these are given",
            field="--spec",
            hint="leave --spec out, or the two files",
        )
    return True


def run_build_own(args: argparse.Namespace) -> int:
    """Build, and say what was built, what was left out and whether groups match."""
    from kcircuits.io.atomic import write_atomic
    from kcircuits.io.facts import load_facts
    from kcircuits.lab.own.build import build_own, left_out
    from kcircuits.study.matching_page import matching_page

    built = build_own(
        args.documents,
        args.facts,
        args.model,
        args.out,
        preset=args.preset,
        seed=args.seed,
        is_strict=args.strict,
        skips_unpaired=args.skip_unpaired,
    )
    n_facts, n_documents, report = (
        len(load_facts(built.facts)),
        len(built.documents),
        built.matching(),
    )
    page = args.out / "matching.html"
    if not page.exists():
        write_atomic(page, matching_page(report, f"{args.facts.name}, {args.documents.name}"))
    missing = left_out(args.out)
    if args.json:
        content = {"out": str(args.out), "facts": n_facts, "documents": n_documents}
        content |= {"base_model": str(built.base), "matching": str(page)}
        content |= {"is_matched": report.is_matched, "left_out": missing}
        print_json("kcircuits.lab-build/1", content)
        return EXIT_OK
    print(f"{printable(args.out)}: {n_facts} facts, {n_documents} documents")
    for line in missing:
        print(f"left out: {printable(line)}")
    told = "groups match" if report.is_matched else "groups differ in more than their frequency"
    print(f"{told}: {printable(page)}")
    return EXIT_OK
