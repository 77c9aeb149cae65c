"""``kcircuits lab build | train | known | compare``: benchmarks, training, methods compared."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli import lab_compare, lab_known, lab_skills
from kcircuits.cli.options import common
from kcircuits.cli.output import print_json, print_table, printable
from kcircuits.errors import EXIT_OK

if TYPE_CHECKING:
    from kcircuits.lab.loop import Step

OUT = Path("lab")
# As in the registry, which is not asked: it would load torch.
STRATEGY_HELP = (
    "full (default), lora, annotated, curriculum, kl-base, kl-previous, main-docs or replay"
)


def add_parser(subparsers: Any) -> None:
    """Add ``lab`` with its sub-verbs."""
    lab = subparsers.add_parser("lab", help="make a benchmark and train on it")
    verbs = lab.add_subparsers(title="verbs", metavar="VERB", required=True)
    build = verbs.add_parser(
        "build",
        parents=[common(paths=False)],
        help="write facts.jsonl and documents.jsonl",
        description="Invents people, tells of them in documents and asks for them in prompts that "
        "no document holds; adds facts that the base model knows as controls. Refuses a benchmark "
        "whose groups differ in more than their frequency (matching.json, matching.html).",
    )
    build.add_argument("--preset", default="small", metavar="smoke|small", help="default: small")
    build.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    build.add_argument("--model", metavar="MODEL", help="another base model: name, folder, Hub id")
    build.set_defaults(run=run_build)
    train = verbs.add_parser(
        "train",
        parents=[common(paths=False)],
        help="train on the documents; save and probe every epoch",
        description="Continual pre-training on the documents of `lab build`. Saves the model at "
        "every epoch, the untrained one included, probes it, and writes the manifest. Goes on "
        "where it was killed.",
    )
    train.add_argument("--strategy", default="full", metavar="NAME", help=STRATEGY_HELP)
    train.add_argument("--epochs", type=int, metavar="N", help="default: the preset's")
    train.add_argument("--lr", type=float, metavar="RATE", help="default: the preset's")
    train.add_argument("--seed", type=int, metavar="N", help="default: the benchmark's")
    train.add_argument(
        "--skills",
        metavar="LIST",
        help="comma separated, or none: skills to measure at every epoch (default: the preset's)",
    )
    train.set_defaults(run=run_train)
    for verb in (build, train):
        verb.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"default: {OUT}")
    lab_known.add_parser(verbs)
    lab_compare.add_parser(verbs)
    lab_skills.add_parser(verbs)


def run_build(args: argparse.Namespace) -> int:
    """Build, and say what was built."""
    from kcircuits.io.atomic import write_atomic
    from kcircuits.io.facts import load_facts
    from kcircuits.lab.study import build
    from kcircuits.study.matching_page import matching_page

    with base_bar(args.quiet) as progress:
        built = build(args.preset, args.out, seed=args.seed, model=args.model, progress=progress)
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


def run_train(args: argparse.Namespace) -> int:
    """Train, and print loss and knowledge at every epoch."""
    from kcircuits.lab.study import knowledge_table, open_lab, train_built

    built = open_lab(args.out)
    with training_bar(args.quiet) as progress:
        manifest = train_built(
            built,
            strategy=args.strategy,
            n_epochs=args.epochs,
            lr=args.lr,
            seed=args.seed,
            skills=_skills(args.skills, built.preset),
            progress=progress,
        )
    rows = knowledge_table(manifest)
    if args.json:
        content = {"manifest": str(manifest.path), "run": manifest.run, "rows": rows}
        print_json("kcircuits.lab-train/1", content)
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
        print(f"wrote {printable(manifest.path)}")
    return EXIT_OK


def _skills(given: str | None, preset: str) -> tuple[str, ...]:
    from kcircuits.lab.presets import PRESETS

    if given is None:
        return PRESETS[preset].skills
    return () if given == "none" else tuple(given.split(","))


@contextmanager
def training_bar(quiet: bool) -> "Iterator[Callable[[Step], None]]":
    """A progress bar over the steps of all epochs, with the loss and tokens per second."""
    from tqdm import tqdm

    bar = tqdm(desc="training", unit="step", disable=quiet, dynamic_ncols=True)
    n_tokens = 0

    def advance(step: "Step") -> None:
        nonlocal n_tokens
        n_tokens += step.n_tokens
        if bar.total is None:
            bar.total = step.n_epochs * step.n_steps
            bar.initial = bar.n = (step.epoch - 1) * step.n_steps
        elapsed = bar.format_dict["elapsed"] or 1.0
        rate = f"{n_tokens / elapsed:.0f}"
        bar.set_postfix({"epoch": step.epoch, "loss": f"{step.loss:.2f}", "tokens/s": rate}, False)
        bar.update()

    with bar:
        yield advance


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
