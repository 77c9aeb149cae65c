"""``kcircuits lab build``: a benchmark for a model."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kcircuits.cli.lab_build_own import add_own_options, is_own, run_build_own
from kcircuits.cli.options import common
from kcircuits.cli.output import print_json, printable
from kcircuits.errors import EXIT_OK

OUT = Path("lab")


def add_parser(verbs: Any) -> None:
    """Add ``lab build``."""
    build = verbs.add_parser(
        "build",
        parents=[common(paths=False)],
        help="write facts.jsonl and documents.jsonl",
        description="Invents people, tells of them in documents and asks for them in prompts that "
        "no document holds; adds facts that the base model knows as controls. Refuses a benchmark "
        "whose groups differ in more than their frequency (matching.json, matching.html).",
    )
    build.add_argument(
        "--preset",
        metavar="smoke|small|study|circuits",
        help="base model and training (default: the one named like the spec, else small)",
    )
    build.add_argument(
        "--spec",
        metavar="NAME|FILE.yaml",
        help="the benchmark: smoke, small, study, circuits or a file (default: the preset's)",
    )
    build.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    build.add_argument("--model", metavar="MODEL", help="another base model: name, folder, Hub id")
    add_own_options(build)
    build.set_defaults(run=run_build)
    build.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"default: {OUT}")


def run_build(args: argparse.Namespace) -> int:
    """Build, and say what was built."""
    from kcircuits.io.atomic import write_atomic
    from kcircuits.io.facts import load_facts
    from kcircuits.lab.build import build
    from kcircuits.study.matching_page import matching_page

    if is_own(args):
        return run_build_own(args)
    with base_bar(args.quiet) as progress:
        built = build(
            args.preset,
            args.out,
            spec=args.spec,
            seed=args.seed,
            model=args.model,
            progress=progress,
        )
    n_facts, n_documents = len(load_facts(built.facts)), len(built.documents)
    page = args.out / "matching.html"
    if not page.exists():
        write_atomic(page, matching_page(built.matching(), f"{built.preset}, seed {built.seed}"))
    if args.json:
        content = {"out": str(args.out), "facts": n_facts, "documents": n_documents}
        content |= {"base_model": str(built.base), "matching": str(page)}
        print_json("kcircuits.lab-build/1", content)
    else:
        print(f"{printable(args.out)}: {n_facts} facts, {n_documents} documents")
        print(f"groups match: {printable(page)}")
    return EXIT_OK


@contextmanager
def base_bar(quiet: bool) -> Iterator[Callable[[int, int, float], None]]:
    """A progress bar for a base model that is made on the spot; silent where none is."""
    from tqdm import tqdm

    bars: list[tqdm[Any]] = []

    def advance(step: int, n_steps: int, loss: float) -> None:
        if not bars:
            bars.append(tqdm(total=n_steps, desc="base model", unit="step", disable=quiet))
        bars[0].set_postfix({"loss": f"{loss:.2f}"}, refresh=False)
        bars[0].update(step - bars[0].n)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.close()
