"""``kcircuits status`` and ``kcircuits ls``: what a run holds, and whether it is whole."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.options import add_method, common, run_dir_of
from kcircuits.cli.output import print_error, print_json, print_table, printable
from kcircuits.errors import EXIT_OK, KCircuitsError, UsageError

if TYPE_CHECKING:
    from kcircuits.study.run import Run

LISTS = ("runs", "epochs", "facts")


def add_parser(subparsers: Any) -> None:
    """Add ``status`` and ``ls``."""
    status = subparsers.add_parser(
        "status",
        parents=[common()],
        help="cells done, due and failed",
        description="Shows for each epoch how many facts are done, due and failed.",
    )
    add_method(status)
    status.add_argument("--verify", action="store_true", help="read and check every stored byte")
    status.add_argument(
        "--repair",
        action="store_true",
        help="remove stored files that do not verify: cells, lenses, transfers; the verb that made "
        "them computes them again",
    )
    status.set_defaults(run=run_status)
    ls = subparsers.add_parser(
        "ls",
        parents=[common()],
        help="list runs, epochs or facts",
        description="Lists the runs beside the run's folder, or the epochs or facts of the run.",
    )
    ls.add_argument("what", nargs="?", choices=LISTS, default="runs", help="default: %(default)s")
    ls.set_defaults(run=run_ls)


def run_status(args: argparse.Namespace) -> int:
    """Count the cells of each epoch."""
    from kcircuits.io.whole import corrupt_files, repair
    from kcircuits.study.run import open_run

    folder = run_dir_of(args)
    removed = repair(folder) if args.repair else []
    problems = corrupt_files(folder) if args.verify else []
    if problems:
        return _print_problems(args, folder, problems)
    run = open_run(folder, method=args.method)
    rows = [_epoch_row(run, epoch) for epoch in run.epochs]
    failed = _failed_rows(run)
    if args.json:
        content = {"run": str(folder), "name": run.name, **_settings(run), "epochs": rows}
        content["beside"] = [_run_row(other) for other in run.beside]
        content |= {"failed": failed, "removed": removed, "verified": bool(args.verify)}
        print_json("kcircuits.status/1", content)
        return EXIT_OK
    print(f"{printable(run.name)}: {run.method}, {_budget(run)}, {printable(folder)}")
    _print_rows(rows)
    for other in map(_run_row, run.beside):
        n_cells = other["epochs"] * other["facts"]
        print(f"beside: {other['method']}, {other['budget']}, {other['done']} of {n_cells} cells")
    for row in failed:
        print(f"failed: {printable(row['fact'])} at {row['epoch']}: {printable(row['message'])}")
    for name in removed:
        print(f"removed {name}")
    if args.verify:
        print("every stored byte verifies")
    return EXIT_OK


def run_ls(args: argparse.Namespace) -> int:
    """List runs, epochs or facts."""
    from kcircuits.study.run import open_run

    folder = run_dir_of(args)
    if args.what == "runs":
        rows = [_folder_row(path) for path in _run_folders(folder)]
    elif args.what == "epochs":
        run = open_run(folder)
        rows = [_epoch_row(run, epoch) for epoch in run.epochs]
    else:
        rows = [_fact_row(fact) for fact in open_run(folder).facts]
    if args.json:
        print_json("kcircuits.ls/1", {args.what: rows})
    elif args.what == "facts":
        strata = [", ".join(f"{k}={v}" for k, v in row["strata"].items()) for row in rows]
        shown = [[*list(row.values())[:4], text] for row, text in zip(rows, strata, strict=True)]
        print_table(("fact", "subject", "relation", "object", "strata"), shown)
    else:
        _print_rows(rows)
    return EXIT_OK


def _print_problems(args: argparse.Namespace, folder: Path, problems: "list[Any]") -> int:
    told = [problem.to_json()["error"] for problem in problems]
    if args.json:
        content = {"run": str(folder), "problems": told, "error": told[0]}
        print_json("kcircuits.status/1", content)
    else:
        for problem in problems:
            print_error(problem, as_json=False)
    return problems[0].exit_code


def _epoch_row(run: "Run", epoch: str) -> dict[str, Any]:
    checkpoint, rows = run.checkpoint(epoch), run.rows(epoch)
    n_failed = sum(row.is_failed for row in rows.values())
    return {
        "id": epoch,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "hash": (checkpoint.content_hash or "")[:12] or None,
        "state": "verified" if checkpoint.is_verified else "unverified",
        "done": len(rows) - n_failed,
        "failed": n_failed,
        "due": len(run.fact_ids) - len(rows),
        "known": sum(row.is_known for row in rows.values()),
    }


def _failed_rows(run: "Run") -> list[dict[str, Any]]:
    return [
        {"epoch": epoch, "fact": row.fact_id, "message": row.message}
        for epoch in run.epochs
        for row in run.rows(epoch).values()
        if row.is_failed
    ]


def _settings(run: "Run") -> dict[str, Any]:
    settings = run.request.settings
    return {name: settings[name] for name in ("method", "params", "fraction", "n_edges", "dtype")}


def _budget(run: "Run") -> str:
    settings = run.request.settings
    share = settings["fraction"]
    return f"{settings['n_edges']} edges" if share is None else f"{100 * share:g}% of edges"


def _run_folders(folder: Path) -> list[Path]:
    from kcircuits.io.run_record import RUN_FILE

    found = sorted(file.parent for file in folder.parent.glob(f"*/{RUN_FILE}"))
    if not found:
        raise UsageError(
            f"there are no runs in {folder.parent}", hint="compute one with `kcircuits run`"
        )
    return found


def _folder_row(folder: Path) -> dict[str, Any]:
    from kcircuits.study.run import open_run

    try:
        return _run_row(open_run(folder))
    except KCircuitsError as error:
        return {"run": folder.name, "state": error.message}


def _run_row(run: "Run") -> dict[str, Any]:
    rows = [_epoch_row(run, epoch) for epoch in run.epochs]
    return {
        "run": run.path.name,
        "state": "due" if any(row["due"] for row in rows) else "done",
        "method": run.method,
        "budget": _budget(run),
        "epochs": len(run.epochs),
        "facts": len(run.fact_ids),
        "done": sum(row["done"] for row in rows),
        "failed": sum(row["failed"] for row in rows),
        "due": sum(row["due"] for row in rows),
    }


def _fact_row(fact: Any) -> dict[str, Any]:
    names = ("id", "subject", "relation", "object")
    return {name: getattr(fact, name) for name in names} | {"strata": dict(fact.strata)}


def _print_rows(rows: list[dict[str, Any]]) -> None:
    headers = max((list(row) for row in rows), key=len)
    print_table(headers, [[row.get(name) for name in headers] for row in rows])
