"""``kcircuits manifest init | check | show``: the list of a run's checkpoints."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kcircuits.cli.options import MANIFEST, common
from kcircuits.cli.output import print_error, print_json, print_table, printable, progress, warn
from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.errors import EXIT_OK, UsageError


def add_parser(subparsers: Any) -> None:
    """Add ``manifest`` with its sub-verbs."""
    manifest = subparsers.add_parser("manifest", help="write, check or show the checkpoints")
    verbs = manifest.add_subparsers(title="verbs", metavar="VERB", required=True)
    init = verbs.add_parser(
        "init",
        parents=[common(paths=False)],
        help="write a manifest of the checkpoints in a trainer's folder",
        description="Finds checkpoint-N, epoch_N, stepN and PEFT adapter folders, hashes them and "
        "writes the manifest. Epoch 0 is the base model.",
    )
    init.add_argument("train_dir", type=Path, metavar="TRAIN_DIR", help="the trainer's output")
    init.add_argument("--facts", type=Path, metavar="FILE", help="the facts file")
    init.add_argument("--base", type=Path, metavar="MODEL_DIR", help="the base model's folder")
    init.add_argument("--run", dest="run_name", metavar="NAME", help="the run's name")
    init.add_argument("--out", type=Path, default=MANIFEST, metavar="FILE", help="default: here")
    init.add_argument("--force", action="store_true", help="replace an existing manifest")
    init.set_defaults(run=run_init)
    for name, run, text in (
        ("check", run_check, "check that files exist, hashes agree and facts are right"),
        ("show", run_show, "print the checkpoints"),
    ):
        verb = verbs.add_parser(name, parents=[common()], help=text, description=text)
        verb.add_argument("file", nargs="?", type=Path, metavar="FILE", help=f"default: {MANIFEST}")
        verb.set_defaults(run=run)


def run_init(args: argparse.Namespace) -> int:
    """Discover, hash, write."""
    from kcircuits.io.checkpoint_files import content_hash
    from kcircuits.io.discover import discover_checkpoints
    from kcircuits.io.manifest import write_manifest
    from kcircuits.study.manifest_check import equal_hashes

    if args.out.exists() and not args.force:
        raise UsageError(
            f"{args.out} exists", field="--out", hint="replace it with --force, or use --out FILE"
        )
    found = discover_checkpoints(
        args.train_dir, base=args.base, facts=args.facts, run=args.run_name
    )
    checkpoints = tuple(
        replace(checkpoint, sha256=content_hash(checkpoint.path, checkpoint.adapter))
        for checkpoint in progress(found.manifest.checkpoints, "hashing", quiet=args.quiet)
    )
    manifest = replace(found.manifest, checkpoints=checkpoints, path=args.out.absolute())
    write_manifest(manifest, args.out)
    warnings = [*found.warnings, *equal_hashes((c.id, c.sha256) for c in checkpoints)]
    for warning in warnings:
        warn(warning)
    if args.json:
        content = {**_content(manifest), "warnings": warnings}
        print_json("kcircuits.manifest-init/1", content)
    else:
        print(f"wrote {printable(args.out)}")
        _print(manifest)
    return EXIT_OK


def run_check(args: argparse.Namespace) -> int:
    """Check everything that the manifest names."""
    from kcircuits.study.manifest_check import check_manifest

    manifest = _load(args)

    def bar(checkpoints: Iterable[Checkpoint]) -> Iterable[Checkpoint]:
        return progress(tuple(checkpoints), "hashing", quiet=args.quiet)

    found = check_manifest(manifest, progress=bar)
    states = {check.id: check for check in found.checkpoints}
    if args.json:
        content = _content(manifest)
        for row in content["checkpoints"]:
            row |= {"found": states[row["id"]].sha256, "state": states[row["id"]].state}
        told = [problem.to_json()["error"] for problem in found.problems]
        error = {"error": told[0]} if told else {}
        content |= {"warnings": list(found.warnings), "problems": told}
        print_json("kcircuits.manifest-check/1", content | error)
    else:
        _print(manifest, [states[checkpoint.id].state for checkpoint in manifest])
        for warning in found.warnings:
            warn(warning)
        for problem in found.problems:
            print_error(problem, as_json=False)
        if not found.problems:
            print("no problems")
    return found.problems[0].exit_code if found.problems else EXIT_OK


def run_show(args: argparse.Namespace) -> int:
    """Print the manifest; the files that it names are not looked at."""
    manifest = _load(args)
    if args.json:
        print_json("kcircuits.manifest-show/1", _content(manifest))
    else:
        _print(manifest)
    return EXIT_OK


def _load(args: argparse.Namespace) -> Manifest:
    from kcircuits.io.manifest import load_manifest

    return load_manifest(args.file or args.manifest or MANIFEST)


def _content(manifest: Manifest) -> dict[str, Any]:
    return {
        "file": str(manifest.path),
        "run": manifest.run,
        "base_model": manifest.base_model,
        "tokenizer": None if manifest.tokenizer is None else str(manifest.tokenizer),
        "facts": str(manifest.facts),
        "checkpoints": [
            {
                "id": checkpoint.id,
                "epoch": checkpoint.epoch,
                "step": checkpoint.step,
                "path": str(checkpoint.path),
                "adapter": None if checkpoint.adapter is None else str(checkpoint.adapter),
                "sha256": checkpoint.sha256,
                "identity": checkpoint.is_identity,
            }
            for checkpoint in manifest
        ],
    }


def _print(manifest: Manifest, states: Sequence[str] | None = None) -> None:
    print(f"run {printable(manifest.run)}, base model {printable(manifest.base_model)}")
    print(f"facts {printable(_short(manifest.facts))}")
    states = states or ["unverified" if c.sha256 is None else "declared" for c in manifest]
    print_table(
        ["id", "epoch", "step", "sha256", "state", "folder"],
        [
            [
                checkpoint.id,
                checkpoint.epoch,
                checkpoint.step,
                checkpoint.sha256 and checkpoint.sha256[:12],
                state,
                _short(checkpoint.adapter or checkpoint.path),
            ]
            for checkpoint, state in zip(manifest, states, strict=True)
        ],
    )


def _short(path: Path) -> Path:
    """The path as seen from the current folder, where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
