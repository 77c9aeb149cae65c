"""``kcircuits lab build | train``: make a benchmark, then a training run to look at."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.options import common
from kcircuits.cli.output import print_json, print_table, printable
from kcircuits.errors import EXIT_OK

if TYPE_CHECKING:
    from kcircuits.lab.loop import Step

OUT = Path("lab")


def add_parser(subparsers: Any) -> None:
    """Add ``lab`` with its sub-verbs."""
    lab = subparsers.add_parser("lab", help="make a benchmark and train on it")
    verbs = lab.add_subparsers(title="verbs", metavar="VERB", required=True)
    build = verbs.add_parser(
        "build",
        parents=[common(paths=False)],
        help="write facts.jsonl and documents.jsonl",
        description="Invents people, tells of them in documents and asks for them in prompts that "
        "no document holds; adds facts that the base model knows as controls.",
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
    train.add_argument("--strategy", default="full", metavar="full|lora", help="default: full")
    train.add_argument("--epochs", type=int, metavar="N", help="default: the preset's")
    train.add_argument("--lr", type=float, metavar="RATE", help="default: the preset's")
    train.add_argument("--seed", type=int, metavar="N", help="default: the benchmark's")
    train.set_defaults(run=run_train)
    for verb in (build, train):
        verb.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"default: {OUT}")


def run_build(args: argparse.Namespace) -> int:
    """Build, and say what was built."""
    from kcircuits.io.facts import load_facts
    from kcircuits.lab.study import build

    with base_bar(args.quiet) as progress:
        built = build(args.preset, args.out, seed=args.seed, model=args.model, progress=progress)
    n_facts, n_documents = len(load_facts(built.facts)), len(built.documents)
    if args.json:
        content = {"out": str(args.out), "facts": n_facts, "documents": n_documents}
        print_json("kcircuits.lab-build/1", content | {"base_model": str(built.base)})
    else:
        print(f"{printable(args.out)}: {n_facts} facts, {n_documents} documents")
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
