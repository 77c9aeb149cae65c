"""``kcircuits doctor``: is the installation well, is the run, and do the controls hold."""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kcircuits.cli.options import MANIFEST, add_memory, add_method, common, manifest_of, run_dir_of
from kcircuits.cli.output import print_error, print_json, printable, progress, styled
from kcircuits.errors import EXIT_OK, DoctorError, KCircuitsError, UsageError
from kcircuits.study.controls.registry import CONTROLS, find_controls

if TYPE_CHECKING:
    from kcircuits.core.manifest import Checkpoint, Manifest
    from kcircuits.study.controls.bench import Bench
    from kcircuits.study.controls.control import Control, Outcome
    from kcircuits.study.health import Finding
    from kcircuits.study.run import Run
    from kcircuits.sweep.compute import Advance

_COLOURS = {
    "ok": "green", "passed": "green", "warning": "yellow", "cannot-tell": "yellow",
    "problem": "red", "failed": "red",
}  # fmt: skip
# The control, what came of it, and how many seconds it took.
Ran = tuple["Control", "Outcome", float]


def add_parser(subparsers: Any) -> None:
    """Adds the verb's parser."""
    parser = subparsers.add_parser(
        "doctor",
        parents=[common()],
        help="is the installation well, is the run, do the controls hold",
        description="Looks at versions, device, stored results, checkpoints and facts. With "
        "--controls it makes pairs of epochs of which the truth is known out of one checkpoint of "
        "the run, and reads them as any other pair: "
        + "; ".join(f"{control.name}: {control.question}" for control in CONTROLS.values())
        + ".",
    )
    add = parser.add_argument
    add(
        "--controls",
        nargs="*",
        metavar="NAME",
        help=f"run controls: {', '.join(CONTROLS)} (default: all)",
    )
    add("--epoch", default="last", metavar="REF", help="controls: the checkpoint (default: last)")
    add(
        "--facts",
        metavar="LIST",
        help="controls: ids and strata key=value, comma separated; those not known are left out "
        "(default: ten known ones)",
    )
    add_method(parser)
    add("--seed", type=int, default=0, metavar="N", help="of what controls draw")
    add("--device", default="cpu", help="where to compute (default: cpu)")
    add_memory(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Looks at everything, or runs the controls."""
    return _health(args) if args.controls is None else _controls(args)


def _health(args: argparse.Namespace) -> int:
    findings: list[Finding] = []
    for finding in _findings(args):
        findings.append(finding)
        if not args.json:
            _print_finding(finding)
    problems = [finding.to_error() for finding in findings if finding.state == "problem"]
    if args.json:
        from kcircuits.study.health import finding_row

        error = problems[0].to_json() if problems else {}
        content = {"findings": [finding_row(finding) for finding in findings], **error}
        print_json("kcircuits.doctor/1", content)
    return problems[0].exit_code if problems else EXIT_OK


def _findings(args: argparse.Namespace) -> "Iterator[Finding]":
    from kcircuits.study.health import (
        Finding,
        installation_findings,
        manifest_findings,
        run_findings,
    )

    def bar(checkpoints: "Iterable[Checkpoint]") -> "Iterable[Checkpoint]":
        return progress(tuple(checkpoints), "hashing", quiet=args.quiet)

    yield from installation_findings(args.device)
    is_asked = args.run_dir is not None or args.manifest is not None
    if not is_asked and not MANIFEST.exists():
        yield Finding(what="run", found=f"there is no {MANIFEST} here: no run was looked at")
        return
    opened: Run | None = None
    manifest: Manifest | None = None
    try:
        opened = _open(args)
        yield from run_findings(opened)
    except KCircuitsError as error:
        yield _absent("run", error, is_asked=args.run_dir is not None)
    try:
        manifest = _manifest(args, opened)
    except KCircuitsError as error:
        yield _absent("manifest", error, is_asked=True)
    if manifest is not None:
        yield from manifest_findings(manifest, opened, progress=bar)


def _absent(what: str, error: KCircuitsError, *, is_asked: bool) -> "Finding":
    """A run that was not computed yet is no problem unless its folder was named."""
    from kcircuits.study.health import Finding

    is_mild = isinstance(error, UsageError) and not is_asked
    return Finding(
        what=what,
        found=error.message,
        state="warning" if is_mild else "problem",
        remedy=error.hint,
        error=error,
    )


def _open(args: argparse.Namespace) -> "Run":
    from kcircuits.study.run import open_run

    return open_run(run_dir_of(args), method=args.method)


def _manifest(args: argparse.Namespace, opened: "Run | None") -> "Manifest":
    """The manifest that was named, else the one that the run was made from."""
    from kcircuits.io.manifest import load_manifest

    if args.manifest is None and args.run_dir is not None and opened is not None:
        return load_manifest(opened.path / opened.record.manifest)
    return manifest_of(args)


def _print_finding(finding: "Finding") -> None:
    print(f"{styled(f'{finding.state:8}', _COLOURS[finding.state])} "
          f"{printable(finding.what)}: {printable(finding.found)}")  # fmt: skip
    if finding.remedy:
        print(f"{'':9}remedy: {printable(finding.remedy)}")


def _controls(args: argparse.Namespace) -> int:
    chosen = find_controls(args.controls)
    opened = _open(args)
    with _bar(args.quiet) as (advance, bar):
        bench = _bench(args, opened, advance)
        bar.total = bench.n_prompts * (1 + sum(control.n_scorings for control in chosen))
        if not args.json:
            _print_head(bench)
        ran: list[Ran] = []
        for control in chosen:
            bar.set_description(control.name)
            began = time.monotonic()
            ran.append((control, control.run(bench), time.monotonic() - began))
            if not args.json:
                with bar.external_write_mode():
                    _print_outcome(*ran[-1])
    failed = [control.name for control, outcome, _ in ran if outcome.verdict == "failed"]
    error = DoctorError(
        f"{len(failed)} of {len(ran)} controls failed: {', '.join(failed)}",
        hint="do not rely on verdicts of this run before you know why",
    )
    if args.json:
        content = _content(bench, ran)
        print_json("kcircuits.controls/1", content | (error.to_json() if failed else {}))
    elif failed:
        print_error(error, as_json=False)
    return error.exit_code if failed else EXIT_OK


@contextmanager
def _bar(quiet: bool) -> "Iterator[tuple[Advance, Any]]":
    from tqdm import tqdm

    with tqdm(desc="loading", unit="prompt", disable=quiet, dynamic_ncols=True) as bar:

        def advance(n_prompts: int, note: str = "", /) -> None:
            bar.set_postfix_str(note, refresh=False)
            bar.update(n_prompts)

        yield advance, bar


def _bench(args: argparse.Namespace, opened: "Run", advance: "Advance") -> "Bench":
    from kcircuits.study.controls.bench import open_bench
    from kcircuits.sweep.request import choose_facts

    facts = None if args.facts is None else choose_facts(opened.facts, args.facts)
    return open_bench(
        opened,
        args.epoch,
        fact_ids=None if facts is None else [fact.id for fact in facts],
        manifest=args.manifest,
        device=args.device,
        memory=args.memory,
        seed=args.seed,
        advance=advance,
    )


def _print_head(bench: "Bench") -> None:
    run = bench.run
    print(
        styled(f"{printable(run.name)} {bench.epoch}", "bold")
        + f"  {len(bench.facts)} facts known there, {bench.n_prompts} discovery prompts\n"
        f"  {run.method}, top {run.n_edges:,} of {run.topology.n_edges:,} edges, seed {bench.seed}"
    )


def _print_outcome(control: "Control", outcome: "Outcome", seconds: float) -> None:
    word = styled(outcome.verdict, _COLOURS[outcome.verdict])
    print(f"\n{styled(control.name, 'bold')}: {word}  ({seconds:.0f} s)  {control.question}")
    print(f"  {printable(outcome.did)}")
    for check in outcome.checks:
        print(f"  {styled(f'{check.verdict:11}', _COLOURS[check.verdict])} {check.expected}")
        print(f"  {'':11} {printable(check.measured)}")
        if check.reason:
            print(f"  {'':11} {printable(check.reason)}")


def _content(bench: "Bench", ran: Sequence[Ran]) -> dict[str, Any]:
    return {
        "run": bench.run.name,
        "epoch": bench.epoch,
        "method": bench.run.method,
        "n_edges": bench.run.n_edges,
        "seed": bench.seed,
        "facts": [record.id for record in bench.facts],
        "controls": [
            {
                "control": control.name,
                "question": control.question,
                "did": outcome.did,
                "verdict": outcome.verdict,
                "seconds": seconds,
                "checks": [vars(check) | {"verdict": check.verdict} for check in outcome.checks],
                "rows": list(outcome.rows),
            }
            for control, outcome, seconds in ran
        ],
    }
