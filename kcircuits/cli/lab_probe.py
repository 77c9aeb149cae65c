"""``kcircuits lab probe``: what a model knows of facts, asked at one moment."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kcircuits.cli.lab_train import add_open_questions
from kcircuits.cli.options import common
from kcircuits.cli.output import print_json, print_table, printable
from kcircuits.errors import EXIT_OK, UsageError

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
    add("--checkpoint", default="last", metavar="REF", help="of the manifest (default: last)")
    add("--facts", type=Path, metavar="FILE", help="a facts.jsonl (default: the manifest's)")
    add_open_questions(probe)
    add("--documents", type=Path, metavar="FILE", help="a documents.jsonl to look answers up in")
    add(
        "--choose",
        choices=CHOICES,
        default="retrieved",
        metavar="gold|entity|retrieved",
        help="which documents a prompt carries: the one that states the fact, all about its "
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
    from kcircuits.lab.probing.carried_documents import read_documents
    from kcircuits.lab.strategies import STRATEGIES
    from kcircuits.models.devices import find_device

    device = find_device(args.device)
    checkpoint, facts_file = _asked(args)
    facts = load_facts(facts_file)
    if args.out is not None:
        if args.out.is_dir():
            raise UsageError("that is a folder", file=args.out, field="out", hint="name the file")
        make_folder(args.out.parent)
    find = None
    if args.documents is not None:
        choose = STRATEGIES[f"rag-{args.choose}"].documents
        assert choose is not None
        find = choose(read_documents(args.documents))
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
    table = probe_table(rows, {fact.id: fact.strata.get("split", "all") for fact in facts})
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
        return manifest[args.checkpoint], args.facts or manifest.facts
    if args.facts is None:
        raise UsageError(
            "--model needs --facts", field="facts", hint="write one with kcircuits lab build"
        )
    return Checkpoint(id=args.model, path=fetch_model(args.model)), args.facts


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
