"""``kcircuits lab train``: continual pre-training on a benchmark."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.lab_build import OUT
from kcircuits.cli.options import common
from kcircuits.cli.output import print_json, print_table, printable
from kcircuits.errors import EXIT_OK

if TYPE_CHECKING:
    from kcircuits.lab.training.step import Step

N_QUESTIONS = 2
# As in the registry, which is not asked: it would load torch.
STRATEGY_HELP = (
    "full (default), lora, annotated, curriculum, kl-base, kl-previous, main-docs, replay, "
    "rag-gold, rag-entity or rag-retrieved"
)


def add_parser(verbs: Any) -> None:
    """Add ``lab train``."""
    train = verbs.add_parser(
        "train",
        parents=[common(paths=False)],
        help="train on the documents; save and probe every epoch",
        description="Continual pre-training on the documents of `lab build`. Saves the model at "
        "every epoch, the untrained one included, probes it, and writes the manifest. Goes on "
        "where it was killed. On a GPU where there is one; on several by "
        "`accelerate launch -m kcircuits lab train ...`.",
    )
    train.add_argument(
        "--strategy", default="full", metavar="NAME", help=f"{STRATEGY_HELP} (rag-* train nothing)"
    )
    train.add_argument(
        "--recipe", metavar="NAME", help="settings (default: the preset's; see lab recipes)"
    )
    train.add_argument("--epochs", type=int, metavar="N", help="default: the preset's")
    train.add_argument("--lr", type=float, metavar="RATE", help="default: the preset's")
    train.add_argument(
        "--batch-size", type=int, metavar="N", help="documents per step (default: the preset's)"
    )
    train.add_argument(
        "--seed", type=int, metavar="N", help="default: the recipe's, else the benchmark's"
    )
    train.add_argument(
        "--skills",
        metavar="LIST",
        help="comma separated, or none: skills to measure at every epoch (default: the preset's)",
    )
    add_open_questions(train)
    train.add_argument(
        "--precision", metavar="NAME", help="float32, bfloat16 or auto (default: the preset's)"
    )
    train.add_argument(
        "--report-to",
        default="none",
        metavar="LIST",
        help="comma separated trackers: tensorboard, wandb, ... (default: none)",
    )
    train.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help=f"the benchmark (default: {OUT})"
    )
    train.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="the run's folder, so that one benchmark gives many runs (default: --out)",
    )
    train.set_defaults(run=run_train)


def add_open_questions(parser: argparse.ArgumentParser) -> None:
    """Adds ``--open-questions``."""
    parser.add_argument(
        "--open-questions",
        type=int,
        nargs="?",
        const=N_QUESTIONS,
        metavar="N",
        help=f"ask each fact in words too, N questions at most (without N: {N_QUESTIONS}; default: "
        "none)",
    )


def run_train(args: argparse.Namespace) -> int:
    """Train, and print loss and knowledge at every epoch."""
    from kcircuits.lab.build import open_lab
    from kcircuits.lab.study import knowledge_table, train_built
    from kcircuits.lab.training.processes import is_main_process, parting

    built = open_lab(args.out)
    with parting(), training_bar(args.quiet or not is_main_process()) as progress:
        manifest = train_built(
            built,
            to=args.to,
            strategy=args.strategy,
            recipe=args.recipe,
            n_epochs=args.epochs,
            lr=args.lr,
            batch_size=args.batch_size,
            seed=args.seed,
            precision=args.precision,
            questions=args.open_questions,
            skills=skill_names(args.skills, built.preset),
            report_to=() if args.report_to == "none" else tuple(args.report_to.split(",")),
            progress=progress,
        )
    if not is_main_process():
        return EXIT_OK
    rows = knowledge_table(manifest)
    if args.json:
        content = {"manifest": str(manifest.path), "run": manifest.run, "rows": rows}
        print_json("kcircuits.lab-train/1", content)
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
        print(f"wrote {printable(manifest.path)}")
    return EXIT_OK


def skill_names(given: str | None, preset: str) -> tuple[str, ...]:
    """What ``--skills`` asks for; the preset's skills where it was not given."""
    from kcircuits.lab.presets import PRESETS

    if given is None:
        return PRESETS[preset].skills
    return () if given == "none" else tuple(given.split(","))


@contextmanager
def training_bar(quiet: bool, name: str = "training") -> "Iterator[Callable[[Step], None]]":
    """A progress bar over the steps of all epochs, with the loss and tokens per second."""
    from tqdm import tqdm

    bars: list[tqdm[Any]] = []  # begun with the first step: an error before it shows no bar
    n_tokens = 0

    def advance(step: "Step") -> None:
        nonlocal n_tokens
        if bars:
            n_tokens += step.n_tokens  # since the bar began: after the first step
        else:
            n_before = (step.epoch - 1) * step.n_steps
            bars.append(
                tqdm(
                    desc=name,
                    unit="step",
                    total=step.n_epochs * step.n_steps,
                    initial=n_before,
                    disable=quiet,
                    dynamic_ncols=True,
                )
            )
        elapsed = bars[0].format_dict["elapsed"] or 1.0
        told = {"epoch": step.epoch, "loss": f"{step.loss:.2f}"}
        bars[0].set_postfix({**told, "tokens/s": f"{n_tokens / elapsed:.0f}"}, False)
        bars[0].update()

    try:
        yield advance
    finally:
        for bar in bars:
            bar.close()
