"""``kcircuits demo``: the whole study on a real small model, ending with a page to open."""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.lab_build import base_bar
from kcircuits.cli.lab_train import STRATEGY_HELP, training_bar
from kcircuits.cli.options import common
from kcircuits.cli.output import print_json, print_table, printable, styled
from kcircuits.errors import EXIT_OK

if TYPE_CHECKING:
    from kcircuits.study.demo import Demo

OUT = Path("kcircuits-demo")
N_STEPS = 6


def add_parser(subparsers: Any) -> None:
    """Add ``demo``."""
    parser = subparsers.add_parser(
        "demo",
        parents=[common(paths=False)],
        help="the whole study on a small model",
        description="Makes a benchmark, trains a small language model on it, finds one circuit per "
        "fact and epoch, prunes a few beside them, compares the epochs, and writes a report to "
        "open in a browser. Goes on where it was killed. small: SmolLM2-135M, some 16 minutes on "
        "two cores; smoke: a model made on the spot, a few minutes.",
    )
    parser.add_argument("--preset", default="small", metavar="smoke|small", help="default: small")
    parser.add_argument("--strategy", default="full", metavar="NAME", help=STRATEGY_HELP)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"default: {OUT}")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run all steps, then print the summary and the path to open."""
    started = time.monotonic()
    steps = iter(range(1, N_STEPS + 1))

    def say(text: str) -> None:
        if not args.json:
            minutes, seconds = divmod(int(time.monotonic() - started), 60)
            clock = styled(f"{minutes:02d}:{seconds:02d}", "dim")
            print(f"{clock} [{next(steps)}/{N_STEPS}] {text}", flush=True)

    if not args.json:
        print(styled(f"everything goes into {printable(args.out)}", "dim"), flush=True)
    from kcircuits.study.demo import run_demo

    demo = run_demo(
        args.out,
        preset=args.preset,
        strategy=args.strategy,
        seed=args.seed,
        quiet=args.quiet,
        say=say,
        base_bar=partial(base_bar, args.quiet),
        training_bar=partial(training_bar, args.quiet),
    )
    if args.json:
        print_json("kcircuits.demo/1", _content(demo))
    else:
        _print_summary(demo, time.monotonic() - started)
    return EXIT_OK


def _content(demo: "Demo") -> dict[str, Any]:
    from kcircuits.lab.study import knowledge_table

    return {
        "manifest": str(demo.manifest.path),
        "run": str(demo.run.path),
        "knowledge": knowledge_table(demo.manifest),
        "methods": demo.method_rows,
        "diff": demo.diff.to_json()["rows"],
        "diff_page": str(demo.diff_page),
        "track_page": str(demo.track_page),
        "report": str(demo.report),
    }


def _print_summary(demo: "Demo", seconds: float) -> None:
    from kcircuits.cli.diff import print_rows
    from kcircuits.lab.study import knowledge_table

    print(styled("\nKnowledge", "bold") + "  (share of untrained paraphrases answered right)")
    rows = knowledge_table(demo.manifest)
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    start, stop = demo.diff.epochs
    print(styled(f"\nCircuits, {start} -> {stop}", "bold"))
    print_rows(demo.diff)
    if demo.pruned is not None:
        last = demo.run.epochs[-1]
        print(styled(f"\nMethods, {last}", "bold") + "  (faithfulness on prompts kept apart)")
        print_table(list(demo.method_rows[0]), [list(row.values()) for row in demo.method_rows])
    print(styled(f"\nDone in {seconds / 60:.1f} minutes.", "bold") + " Open in a browser:")
    for page in (demo.report, demo.diff_page, demo.track_page):
        print(f"  {printable(page.resolve())}")
    print("Ask it more:")
    known = next((cell.fact_id for cell in demo.run.cells(stop) if cell.is_known), None)
    print(f"  cd {printable(demo.manifest.path and demo.manifest.path.parent)}")
    print(f"  kcircuits diff {start} {stop}")
    print("  kcircuits overlap --against first")
    print("  kcircuits track --by knowledge")
    print(f"  kcircuits inspect {printable(known or demo.run.fact_ids[0])}")
    print("  kcircuits lens")
    print(f"  kcircuits transfer --from first,{start},{stop} --to first,{start},{stop}")
    print("  kcircuits link")
    print(f"  kcircuits evaluate {stop}")
