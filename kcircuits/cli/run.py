"""``kcircuits run``: computes what the results lack, at every epoch and for every fact."""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.options import add_memory, common, manifest_of, parse_params, run_dir_of
from kcircuits.cli.output import print_error, print_json, print_table, printable
from kcircuits.core.ablation import DEFAULT_ABLATION
from kcircuits.discovery import DEFAULT_METHOD, METHODS
from kcircuits.engine.metrics import DEFAULT_METRIC, METRICS
from kcircuits.errors import EXIT_OK, KCircuitsError, PartialError, UsageError
from kcircuits.sweep.request import DTYPES, SWEPT_ABLATIONS, Request, choose_facts, make_settings

if TYPE_CHECKING:
    from kcircuits.sweep.compute import Compute
    from kcircuits.sweep.local import SweepResult
    from kcircuits.sweep.plan import BatchState

ENGINES = ("local",)


def add_parser(subparsers: Any) -> None:
    """Add ``run``."""
    parser = subparsers.add_parser(
        "run",
        parents=[common()],
        help="find and evaluate the circuits of all facts at all epochs",
        description="Finds one circuit per fact and epoch and evaluates it. Goes on where an "
        "earlier call stopped; what is finished is not computed again.",
    )
    add = parser.add_argument
    add("--epochs", metavar="REFS", help="e.g. ep0..ep9 or first,ep3,last (default: all)")
    add("--facts", metavar="LIST", help="ids and strata key=value, comma separated (default: all)")
    add(
        "--method",
        default=DEFAULT_METHOD,
        metavar="NAME",
        help=f"{', '.join(METHODS)} (default: %(default)s)",
    )
    add(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the method, e.g. steps=200 for edge-pruning; may be repeated",
    )
    add("--ig-steps", type=int, metavar="N", help="integration steps (default: 5)")
    add("--ig-grid", metavar="GRID", help="integration grid: left (default) or right")
    add("--metric", metavar="NAME", help=f"{', '.join(METRICS)} (default: {DEFAULT_METRIC})")
    add(
        "--ablation",
        default=DEFAULT_ABLATION,
        metavar="NAME",
        help=f"what edges outside a circuit carry: {', '.join(SWEPT_ABLATIONS)} "
        "(default: %(default)s)",
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--fraction", type=float, help="edges of a circuit (default: 0.005 of all)")
    budget.add_argument("--n-edges", type=int, metavar="N", help="edges of a circuit, as a number")
    add(
        "--dtype",
        default=DTYPES[0],
        metavar="NAME",
        help=f"{', '.join(DTYPES)} (default: %(default)s)",
    )
    add("--device", default="cpu", help="where to compute (default: cpu)")
    add_memory(parser)
    add("--batch-size", type=int, metavar="N", help="facts per batch, the unit of redo")
    add("--engine", choices=ENGINES, default="local", help="who computes (default: %(default)s)")
    add("--wait", type=float, default=0.0, metavar="S", help="seconds to wait for another writer")
    add("--dry-run", action="store_true", help="print what would be computed, and stop")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Plan, compute, commit."""
    if not 0 <= args.wait < math.inf:
        raise UsageError(
            f"--wait is {args.wait:g}; expected seconds, 0 or more and finite", field="wait"
        )
    request, folder = _request(args), run_dir_of(args)
    if args.dry_run:
        return _dry_run(args, request, folder)
    from tqdm import tqdm

    from kcircuits.sweep.compute import LateCompute
    from kcircuits.sweep.local import run_local

    def compute() -> "Compute":
        from kcircuits.sweep.model_compute import ModelCompute

        return ModelCompute(request.settings, memory=args.memory)

    def report(_: str, error: KCircuitsError) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            print_error(error, as_json=False)

    result = run_local(
        request,
        folder,
        LateCompute(compute),
        wait_s=args.wait,
        show_progress=not args.quiet,
        on_failure=report,
    )
    if result.failures and not result.n_done:
        raise next(iter(result.failures.values()))
    return _print_result(args, folder, result)


def _params(args: argparse.Namespace) -> dict[str, Any]:
    """The method's parameters; values read as JSON where they are, else as text."""
    params = {"metric": args.metric, "ig_steps": args.ig_steps, "ig_grid": args.ig_grid}
    return params | parse_params(args.param)


def _request(args: argparse.Namespace) -> Request:
    from kcircuits.io.facts import load_facts

    manifest = manifest_of(args)
    settings = make_settings(
        args.method,
        params=_params(args),
        ablation=args.ablation,
        fraction=args.fraction,
        n_edges=args.n_edges,
        dtype=args.dtype,
        device=args.device,
    )
    facts = load_facts(manifest.facts)
    return Request(
        manifest=manifest,
        known_facts=facts,
        facts=choose_facts(facts, args.facts),
        checkpoints=manifest.select(args.epochs)
        if args.epochs is not None
        else manifest.checkpoints,
        settings=settings,
        batch_size=args.batch_size,
    )


def _dry_run(args: argparse.Namespace, request: Request, folder: Path) -> int:
    from kcircuits.sweep.plan import preview

    states = preview(request, folder)
    if args.json:
        batches = [vars(state) | {"facts": list(state.facts)} for state in states]
        content = {"run": str(folder), "settings": request.settings.to_json(), "batches": batches}
        print_json("kcircuits.run-plan/1", content)
        return EXIT_OK
    print_table(
        ("epoch", "batches", "facts", "done", "due"),
        [_epoch_row(c.id, [s for s in states if s.epoch == c.id]) for c in request.checkpoints],
    )
    n_due = sum(len(state.facts) - state.done for state in states)
    print(f"{n_due} cells due, into {printable(folder)}")
    return EXIT_OK


def _epoch_row(epoch: str, states: "list[BatchState]") -> tuple[object, ...]:
    n_facts, n_done = sum(len(s.facts) for s in states), sum(s.done for s in states)
    return epoch, len(states), n_facts, n_done, n_facts - n_done


def _print_result(args: argparse.Namespace, folder: Path, result: "SweepResult") -> int:
    problem = _problem(result)
    content = {
        "run": str(folder),
        "cells": result.n_cells,
        "done": result.n_done,
        "computed": result.n_computed,
        "failed": result.n_failed,
        "failures": {epoch: error.message for epoch, error in result.failures.items()},
        "disagreements": result.disagreements,
    }
    if args.json:
        print_json("kcircuits.run/1", content | (problem.to_json() if problem else {}))
    else:
        print(
            f"{result.n_done} of {result.n_cells} cells done, {result.n_computed} of them now, "
            f"{result.n_failed} failed: {printable(folder)}"
        )
        if problem:
            print_error(problem, as_json=False)
    return problem.exit_code if problem else EXIT_OK


def _problem(result: "SweepResult") -> PartialError | None:
    """What keeps the run from being whole, with counts."""
    parts: list[str] = []
    if result.failures:
        n_missing = result.n_cells - result.n_done
        names = ", ".join(result.failures)
        parts.append(f"{n_missing} of {result.n_cells} cells are missing ({names} not computed)")
    if result.n_failed:
        parts.append(f"{result.n_failed} cells have no finite numbers (see `kcircuits status`)")
    if result.disagreements:
        first = result.disagreements[0]
        parts.append(f"{len(result.disagreements)} cells did not reproduce, e.g. {first}")
    if not parts:
        return None
    return PartialError(
        "; ".join(parts), hint="mend what the messages name, then repeat the command"
    )
