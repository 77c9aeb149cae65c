"""``kcircuits lab probe``: what a model knows of facts, asked at one moment."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.lab_train import add_open_questions
from kcircuits.cli.options import common
from kcircuits.cli.output import print_json, print_table, printable
from kcircuits.core.facts import Fact
from kcircuits.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from kcircuits.lab.strategies.strategy import Find

# As in the registry, which is not asked: it would load torch.
CHOICES = ("gold", "entity", "retrieved")


def add_parser(verbs: Any) -> None:
    """Add ``probe`` to the verbs of ``lab``."""
    probe = verbs.add_parser(
        "probe",
        parents=[common(paths=False)],
        help="ask a model, or a checkpoint, what it knows",
        description="Asks the probes of a facts file: a model (name, folder, Hub id), or a "
        "checkpoint of a manifest. With --documents the prompts carry documents to look the "
        "answer up in.",
    )
    add = probe.add_argument
    add("--model", metavar="MODEL", help="name, folder, Hub id")
    add("--manifest", type=Path, metavar="FILE", help="a manifest, instead of --model")
    add("--checkpoint", metavar="REF", help="of the manifest (default: last)")
    add("--facts", type=Path, metavar="FILE", help="a facts.jsonl (default: the manifest's)")
    add_open_questions(probe)
    add("--documents", type=Path, metavar="FILE", help="JSONL or CSV to look answers up in")
    add(
        "--choose",
        choices=CHOICES,
        metavar="gold|entity|retrieved",
        help="which of --documents a prompt carries: the one that states the fact, all about its "
        "subject, or the three that BM25 finds (default: retrieved)",
    )
    add("--device", default="cpu", help="where to compute (default: cpu)")
    add("--out", type=Path, metavar="FILE", help="write rows as in probes.jsonl")
    probe.set_defaults(run=run_probe)


def run_probe(args: argparse.Namespace) -> int:
    """Ask, write and print; whatever cannot be asked is told before a model is loaded."""
    from kcircuits.io.atomic import make_folder, write_atomic
    from kcircuits.io.facts import load_facts
    from kcircuits.lab.probing.alone import load_checkpoint, probe_facts
    from kcircuits.models.devices import find_device

    _require_used(args)
    device = find_device(args.device)
    checkpoint, facts_file = _asked(args)
    facts = load_facts(facts_file)
    if args.out is not None:
        if args.out.is_dir():
            raise UsageError("that is a folder", file=args.out, field="out", hint="name the file")
        make_folder(args.out.parent)
    find = _finder(args)
    model, tokenizer = load_checkpoint(checkpoint)
    with probing_bar(args.quiet) as progress:
        rows = probe_facts(
            model.to(device),
            tokenizer,
            facts,
            questions=args.open_questions or 0,
            find=find,
            progress=progress,
        )
    head = {"checkpoint": checkpoint.id, "epoch": checkpoint.epoch}
    rows = [head | row for row in rows]
    if args.out is not None:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomic(args.out, "".join(lines))
    if args.json:
        print_json("kcircuits.lab-probe/1", {"model": checkpoint.id, "rows": rows})
        return EXIT_OK
    table = probe_table(rows, {fact.id: stratum_of(fact) for fact in facts})
    print_table(list(table[0]), [list(row.values()) for row in table])
    if args.out is not None:
        print(f"wrote {printable(args.out)}")
    return EXIT_OK


@contextmanager
def probing_bar(quiet: bool) -> "Iterator[Callable[[int], object]]":
    """A progress bar on stderr over prompts and questions."""
    from tqdm import tqdm

    with tqdm(desc="probing", unit="prompt", disable=quiet, dynamic_ncols=True) as bar:
        yield bar.update


def stratum_of(fact: Fact) -> str:
    """The row of the table that a fact counts in: its split and, of an updated fact, which answer.

    Both answers of an updated subject cannot be true at once, so they are never averaged.
    """
    return ", ".join(fact.strata[key] for key in ("split", "told") if key in fact.strata) or "all"


def probe_table(
    rows: Sequence[Mapping[str, Any]], strata: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row for each stratum and kind of probe: number, and means over its probes."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((strata[row["fact"]], row["kind"]), []).append(row)
    return [
        {
            "stratum": stratum,
            "kind": kind,
            "probes": len(mine),
            "known": _mean([float(row["known"]) for row in mine]),
            "prob": _mean([row["prob"] for row in mine]),
            "recall": _mean([row["recall"] for row in mine]),
        }
        for (stratum, kind), mine in groups.items()
    ]


def _require_used(args: argparse.Namespace) -> None:
    """UsageError for an option that would be ignored, or that cannot be meant."""
    if args.choose is not None and args.documents is None:
        raise UsageError(
            f"--choose {args.choose} chooses among documents, and none are given",
            field="choose",
            hint="add --documents FILE, or leave --choose out",
        )
    if args.checkpoint is not None and args.manifest is None:
        raise UsageError(
            f"--checkpoint {args.checkpoint} is one of a manifest, and none is given",
            field="checkpoint",
            hint="add --manifest FILE instead of --model, or leave --checkpoint out",
        )
    if args.open_questions is not None and args.open_questions < 0:
        raise UsageError(
            f"--open-questions is {args.open_questions}; expected 0 or more for each fact",
            field="open-questions",
            hint="give the number of questions to ask of each fact",
        )


def _finder(args: argparse.Namespace) -> "Find | None":
    """What finds the documents of a prompt; None where prompts carry none."""
    from kcircuits.lab.probing.carried_documents import read_documents
    from kcircuits.lab.strategies import STRATEGIES

    if args.documents is None:
        return None
    choose = STRATEGIES[f"rag-{args.choose or 'retrieved'}"].documents
    assert choose is not None
    return choose(read_documents(args.documents))


def _asked(args: argparse.Namespace) -> tuple[Any, Path]:
    """The checkpoint to ask, and the facts file."""
    from kcircuits.core.manifest import Checkpoint
    from kcircuits.io.manifest import load_manifest
    from kcircuits.models import fetch_model

    if (args.model is None) == (args.manifest is None):
        raise UsageError(
            "expected one of --model and --manifest", field="model", hint="name what to ask"
        )
    if args.manifest is not None:
        manifest = load_manifest(args.manifest)
        return manifest[args.checkpoint or "last"], args.facts or manifest.facts
    if args.facts is None:
        raise UsageError(
            "--model needs --facts", field="facts", hint="write one with kcircuits lab build"
        )
    return Checkpoint(id=args.model, path=fetch_model(args.model)), args.facts


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
