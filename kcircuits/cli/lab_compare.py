"""``kcircuits lab compare``: methods of finding circuits side by side."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kcircuits.cli.options import add_memory, common, parse_params
from kcircuits.cli.output import print_json, print_table, printable
from kcircuits.discovery import METHODS
from kcircuits.errors import EXIT_OK, UsageError
from kcircuits.lab.comparison import TRAINED_SIZES


def add_parser(verbs: Any) -> None:
    """Add ``compare`` to the verbs of ``lab``."""
    compare = verbs.add_parser(
        "compare",
        parents=[common(paths=False)],
        help="compare methods of finding circuits",
        description="Finds circuits of every fact by each method, judges them on the evaluation "
        "prompts, and writes a table (comparison.json) and a page (comparison.html). Goes on where "
        "it was stopped: a method that the folder has is not run again.",
    )
    add = compare.add_argument
    add("--model", required=True, metavar="MODEL", help="name, folder, Hub id")
    add("--facts", required=True, type=Path, metavar="FILE", help="of lab known, or your own")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for table and page")
    add(
        "--methods",
        default=",".join(name for name in METHODS if name != "exact"),
        metavar="LIST",
        help="comma separated (default: all but exact, which runs the model once per edge)",
    )
    add(
        "--param",
        action="append",
        default=[],
        metavar="METHOD.NAME=VALUE",
        help="a parameter of a method, e.g. edge-pruning.steps=200; may be repeated",
    )
    add(
        "--sizes",
        default=",".join(f"{100 * size:g}" for size in TRAINED_SIZES),
        metavar="LIST",
        help="of circuits that a method is trained for, %% of all edges (default: %(default)s)",
    )
    add_memory(compare)
    compare.set_defaults(run=run_compare)


def run_compare(args: argparse.Namespace) -> int:
    """Compare, write, and print the table."""
    from kcircuits.io.facts import load_facts
    from kcircuits.models import fetch_model, load_model, tokenize
    from kcircuits.study.comparison.compute import PAGE, run_comparison

    methods = _methods_of(args)
    sizes = _sizes_of(args.sizes)
    facts = load_facts(args.facts)
    model = load_model(fetch_model(args.model))
    with comparing_bar(args.quiet) as progress:
        comparison = run_comparison(
            model,
            tokenize(model, facts),
            facts,
            methods,
            args.out,
            trained_sizes=sizes,
            memory=args.memory,
            progress=progress,
        )
    if args.json:
        print_json("kcircuits.lab-compare/1", comparison.to_json())
        return EXIT_OK
    rows = comparison.rows()
    shown = [name for name in rows[0] if not name.endswith(("_low", "_high"))]
    print_table(
        [name.replace("_", " ") for name in shown], [[row[name] for name in shown] for row in rows]
    )
    print(f"wrote {printable(args.out / PAGE)}")
    return EXIT_OK


def _methods_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Each wanted method with the parameters that were given for it, checked."""
    from kcircuits.discovery.registry import resolve_params
    from kcircuits.engine.metrics import DEFAULT_METRIC

    methods: dict[str, dict[str, Any]] = {name: {} for name in args.methods.split(",")}
    for given in args.param:
        name, _, rest = given.partition(".")
        if name not in methods or "=" not in rest:
            raise UsageError(
                f"--param is {given!r}; expected METHOD.NAME=VALUE with one of "
                f"{', '.join(methods)}",
                field="param",
                hint="e.g. edge-pruning.steps=200",
            )
        methods[name] |= parse_params([rest])
    for name, params in methods.items():
        resolve_params(name, DEFAULT_METRIC, params)
    return methods


def _sizes_of(text: str) -> list[float]:
    """Shares of all edges, from percentages."""
    try:
        sizes = [float(part) / 100 for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or sizes != sorted(set(sizes)) or not 0 < sizes[0] <= sizes[-1] < 1:
        raise UsageError(
            f"--sizes is {text!r}; expected percentages in ascending order",
            field="sizes",
            hint="e.g. .5,1,2,5",
        )
    return sizes


@contextmanager
def comparing_bar(quiet: bool) -> "Iterator[Callable[[str], Callable[[str, float], object]]]":
    """A progress bar for each method, from 0 to 1 anew for each thing that is done."""
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    bars: dict[str, tqdm[Any]] = {}

    def begin(method: str) -> Callable[[str, float], object]:
        def advance(what: str, share: float) -> None:
            desc = f"{method}, {what}"
            if desc not in bars:
                bars[desc] = tqdm(total=1.0, desc=desc, bar_format=form, disable=quiet)
            bars[desc].update(share - bars[desc].n)

        return advance

    try:
        yield begin
    finally:
        for bar in bars.values():
            bar.close()
