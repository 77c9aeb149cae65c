"""``kcircuits dynamics`` and ``kcircuits dynamics import FOLDER``: knowledge over epochs."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.options import MANIFEST, common
from kcircuits.cli.output import (
    number_text,
    present,
    print_aligned,
    printable,
    styled,
)
from kcircuits.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from kcircuits.study.dynamics.dynamics import Dynamics

# Column of the table: its head, and the form of its numbers.
_COLUMNS = {
    "epoch": ("epoch", "g"),
    "stratum": ("stratum", ""),
    "loss": ("loss", ".3f"),
    "perplexity": ("ppl", ".2f"),
    "known": ("known", ".3f"),
    "recall_avg": ("recall", ".3f"),
    "recall_high": ("high", ".3f"),
    "recall_low": ("low", ".3f"),
    "learned": ("learned", "d"),
    "acquired": ("acquired", "d"),
    "retained": ("retained", "d"),
    "forgotten": ("forgotten", "d"),
    "math": ("math", ".3f"),
    "mmlu": ("MMLU", ".3f"),
    "social_iqa": ("SocialIQA", ".3f"),
    "ood_avg": ("OOD", ".3f"),
}


def add_parser(subparsers: Any) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "dynamics",
        parents=[common(paths=False)],
        help="what the model knew from epoch to epoch",
        description="Shows what a training run taught and what it cost: knowledge, loss and "
        "out-of-domain skills per epoch; facts acquired, retained, forgotten and learned again. "
        "`kcircuits dynamics import FOLDER` reads the results that the seed study released.",
    )
    add = parser.add_argument
    add("action", nargs="?", choices=("import",), metavar="import", help="read another layout")
    add("folder", nargs="?", type=Path, metavar="FOLDER", help="what to import")
    add_runs(parser)
    add("--by", metavar="STRATUM", help="a stratum of the facts, or entity, fact, prior, kind")
    add("--kind", metavar="NAME", help="only probes of this kind (default: all)")
    add(
        "--consolidated",
        type=int,
        default=3,
        metavar="K",
        help="epochs that a fact must stay known to the end (default: %(default)s)",
    )
    add(
        "--last-exposure",
        type=float,
        metavar="EPOCH",
        help="last epoch whose training told the facts (default: every epoch)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the intervals")
    add("--html", type=Path, metavar="FILE", help="also write a page with plots to FILE")
    parser.set_defaults(run=run)


def add_runs(parser: argparse.ArgumentParser, *, facts: bool = True) -> None:
    """Adds ``--run`` and ``--manifest``, and ``--facts``, for verbs that compare training runs."""
    add = parser.add_argument
    add(
        "--run",
        dest="run_dir",
        type=Path,
        nargs="+",
        action="extend",
        metavar="DIR",
        help="run folders (default: runs/<manifest's run> beside the manifest)",
    )
    add(
        "--manifest",
        type=Path,
        nargs="+",
        action="extend",
        metavar="FILE",
        help=f"manifests of the runs (default: {MANIFEST})",
    )
    if facts:
        add("--facts", type=Path, metavar="FILE", help="facts file for entities and strata")


def run_folders(args: argparse.Namespace) -> list[Path]:
    """The folders that ``--run`` and ``--manifest`` name.

    Where one of them is a flag, the other does not count if it comes from the environment.
    """
    from kcircuits.io.manifest import load_manifest

    names = [name for name in ("run_dir", "manifest") if getattr(args, name)]
    flags = [name for name in names if name not in args.from_environment]
    runs, manifests = (
        getattr(args, name) if name in (flags or names) else [] for name in ("run_dir", "manifest")
    )
    folders: list[Path] = list(runs)
    if not folders or manifests:
        for file in manifests or [MANIFEST]:
            manifest = load_manifest(file)
            folders.append(file.absolute().parent / "runs" / manifest.run)
    return folders


def run(args: argparse.Namespace) -> int:
    """Reads, computes and prints."""
    dynamics = _imported(args) if args.action else _opened(args)
    present(
        args,
        document=dynamics.to_json,
        text=lambda: _print(dynamics),
        page=lambda: _page(dynamics),
    )
    return EXIT_OK


def _page(dynamics: "Dynamics") -> str:
    from kcircuits.study.dynamics.page import dynamics_page  # plotly loads late

    return dynamics_page(dynamics)


def _opened(args: argparse.Namespace) -> "Dynamics":
    from kcircuits.study.dynamics.dynamics import open_dynamics

    return open_dynamics(
        *run_folders(args),
        by=args.by,
        facts=args.facts,
        kind=args.kind,
        k=args.consolidated,
        last_exposure=args.last_exposure,
        seed=args.seed,
    )


def _imported(args: argparse.Namespace) -> "Dynamics":
    from kcircuits.study.dynamics.dynamics import import_dynamics

    if args.folder is None:
        raise UsageError(
            "dynamics import needs a FOLDER", field="folder", hint="see kcircuits dynamics --help"
        )
    for name in ("run_dir", "manifest", "facts", "kind", "last_exposure"):
        if getattr(args, name) is not None and name not in args.from_environment:
            flag = "--" + name.removesuffix("_dir").replace("_", "-")
            raise UsageError(
                f"{flag} does not go with dynamics import, which reads FOLDER alone",
                field=name,
                hint=f"leave out {flag}",
            )
    return import_dynamics(args.folder, by=args.by, k=args.consolidated, seed=args.seed)


def _print(dynamics: "Dynamics") -> None:
    def run_of(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["model"], row["strategy"], row["seed"]

    summaries = {key: list(rows) for key, rows in groupby(dynamics.summary, run_of)}
    about = {run_of(row): row for row in dynamics.runs}
    for i, (key, rows) in enumerate(groupby(dynamics.rows, run_of)):
        print("\n" * (i > 0) + styled(_heading(about[key]), "bold"))
        _print_rows(list(rows), with_stratum=dynamics.by is not None)
        for line in _summary_lines(summaries[key], about[key]):
            print(f"  {line}")


def _heading(row: dict[str, Any]) -> str:
    parts = [row["model"], row["strategy"], None if row["seed"] is None else f"seed {row['seed']}"]
    name = ", ".join(printable(part) for part in parts if part is not None) or "run"
    return f"{name}: {row['facts']} facts about {row['entities']} entities, {row['probes']} probes"


def _print_rows(rows: Sequence[dict[str, Any]], *, with_stratum: bool) -> None:
    shown = {
        name: column
        for name, column in _COLUMNS.items()
        if any(row[name] is not None for row in rows) and (name != "stratum" or with_stratum)
    }
    lines = [
        [
            printable(row[name]) if not form else number_text(row[name], form)
            for name, (_, form) in shown.items()
        ]
        for row in rows
    ]
    left = tuple(i for i, name in enumerate(shown) if name == "stratum")
    print_aligned([head for head, _ in shown.values()], lines, left=left)


def _summary_lines(summaries: Sequence[dict[str, Any]], about: dict[str, Any]) -> Iterator[str]:
    unit = {"entity": "entities", "fact": "facts"}[about["unit"]]
    yield styled(f"learned, acquired, retained, forgotten count {unit}", "dim")
    for row in summaries:
        name = "" if row["stratum"] == "all" else f"{printable(row['stratum'])}: "
        yield (
            f"{name}{row['facts_forgotten_once']} of {row['facts']} facts forgotten at least once, "
            f"{row['relearning_events']} times learned again; {_kept_text(row['consolidated'])}"
        )
        found = row["divergence"]
        if found is not None:
            yield (
                f"{name}loss falls and knowledge does not rise on {found['diverging_steps']} of "
                f"{found['steps']} steps; Spearman {number_text(found['spearman'], '.2f')}; "
                f"knowledge at the lowest loss (epoch {found['lowest_loss_epoch']:g}) is "
                f"{number_text(found['regret'], '.3f')} below the best "
                f"(epoch {found['best_epoch']:g})"
            )


def _kept_text(kept: dict[str, Any]) -> str:
    """How many facts are consolidated; not 0 of 0 where the run is too short for any."""
    what = f"known for the last {kept['k']} epochs or more"
    if not kept["evaluable"]:
        return f"{what}: cannot be told, no fact had the time"
    return f"{kept['facts']} of {kept['evaluable']} {what}"
