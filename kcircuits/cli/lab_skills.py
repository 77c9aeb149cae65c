"""``kcircuits lab skills``: what a model can do that no document is about."""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kcircuits.cli.options import common
from kcircuits.cli.output import print_json, print_table, printable
from kcircuits.errors import EXIT_OK, UsageError


def add_parser(verbs: Any) -> None:
    """Add ``skills`` to the verbs of ``lab``."""
    skills = verbs.add_parser(
        "skills",
        parents=[common(paths=False)],
        help="measure skills outside the documents",
        description="Asks a model to add, to copy, to tell good sentences from bad ones and to "
        "complete sentences about everyday life; on request the seed study's sets, and any task "
        "of the lm-evaluation-harness.",
    )
    add = skills.add_argument
    add("--model", required=True, metavar="MODEL", help="name, folder, Hub id")
    add("--skills", metavar="LIST", help="comma separated (default: all that need no file)")
    add("--seed", type=int, default=0, metavar="N", help="draws the items (default: 0)")
    add("--folder", type=Path, metavar="DIR", help="`data` of the seed study, for its skills")
    add("--include-path", type=Path, metavar="DIR", help="YAML files of local harness:TASK skills")
    add("--device", default="cpu", help="where to compute (default: cpu)")
    add("--out", type=Path, metavar="FILE", help="write rows as in skills.jsonl, with every item")
    skills.set_defaults(run=run_skills)


def run_skills(args: argparse.Namespace) -> int:
    """Measure, write and print; whatever cannot be measured is told before a model is loaded."""
    from kcircuits.io.atomic import make_folder, write_atomic
    from kcircuits.lab.skills import (
        DEFAULT_SKILLS,
        check_skills,
        make_setting,
        measure_skills,
    )
    from kcircuits.lab.training.train import load_base
    from kcircuits.models import fetch_model
    from kcircuits.models.devices import find_device

    device = find_device(args.device)
    names = DEFAULT_SKILLS if args.skills is None else args.skills.split(",")
    folders = {"folder": args.folder, "include_path": args.include_path}
    check_skills(names, make_setting(seed=args.seed, **folders))
    if args.out is not None:
        if args.out.is_dir():
            raise UsageError("that is a folder", file=args.out, field="out", hint="name the file")
        make_folder(args.out.parent)
    model, tokenizer = load_base(fetch_model(args.model))
    with skills_bar(args.quiet) as progress:
        rows = measure_skills(
            model.to(device), tokenizer, names, seed=args.seed, progress=progress, **folders
        )
    if args.out is not None:
        head = {"checkpoint": args.model, "epoch": None}
        write_atomic(args.out, "".join(json.dumps(head | row) + "\n" for row in rows))
    if args.json:
        print_json("kcircuits.lab-skills/1", {"model": args.model, "seed": args.seed, "rows": rows})
        return EXIT_OK
    shown = ["skill", "n", "accuracy"]
    print_table(shown, [[row[name] for name in shown] for row in rows])
    if args.out is not None:
        print(f"wrote {printable(args.out)}")
    return EXIT_OK


@contextmanager
def skills_bar(quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """A progress bar on stderr over the rows that were asked, with the skill's name."""
    from tqdm import tqdm

    with tqdm(desc="asking", unit="row", disable=quiet, dynamic_ncols=True) as bar:

        def advance(skill: str, n: int) -> None:
            bar.set_description_str(skill, refresh=False)
            bar.update(n)

        yield advance
