"""How well every method finds circuits that are known.

For each model of the laboratory's ground truths and each method of the registry: the AUROC of
|score| for the edges of the circuit, and how many of the circuit's n edges are among the n largest.
Means over facts, then over seeds. In float64, with every method's default parameters and the logit
difference.

    python benchmarks/ground_truth.py [--seeds N] [--only NAME] [--steps N] [--table FILE]
        [--out FILE]

``--steps`` trains the gates of edge pruning longer than by default. ``--table`` replaces the table
between the two marks in a page, such as docs/ground-truth.md.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from record import measurement, parser, report

import kcircuits as kc
from kcircuits.discovery import METHODS
from kcircuits.evaluation.auroc import edge_auroc, edge_recall
from kcircuits.lab.ground_truth import GROUND_TRUTHS, KnownCircuit, WeightsModel

MARKS = "<!-- table: benchmarks/ground_truth.py -->", "<!-- end of table -->"
# Scores [fact, n_forward, n_backward] of one method.
Finder = Callable[[kc.Model, KnownCircuit], np.ndarray]


def finders(recipe: kc.Recipe) -> dict[str, Finder]:
    """What scores edges: every method of the registry, those that are trained for a size too."""

    def by_attribution(method: str) -> Finder:
        return lambda model, known: kc.attribute(model, known.batch, method).values

    def by_pruning(model: kc.Model, known: KnownCircuit) -> np.ndarray:
        """Means of gates, trained for the true number of edges with all edges as candidates."""
        size = known.n_edges
        circuits = kc.prune(model, known.batch, n_edges=size, candidates=1.0, recipe=recipe)
        assert circuits.scores is not None
        return circuits.scores

    return {
        name: by_attribution(name) if method.score is not None else by_pruning
        for name, method in METHODS.items()
    }


def measure(name: str, found: dict[str, Finder], n_seeds: int) -> list[dict[str, Any]]:
    """AUROC and recall of every method on one ground truth."""
    auroc: dict[str, list[float]] = {method: [] for method in found}
    recall: dict[str, list[float]] = {method: [] for method in found}
    sizes: list[int] = []
    for seed in range(n_seeds):
        known = GROUND_TRUTHS[name].build(seed, torch.float64)
        model, topology = WeightsModel(known.weights, name), known.weights.topology
        sizes.append(known.n_edges)
        for method, scores in found.items():
            values = scores(model, known)
            auroc[method].append(float(edge_auroc(values, known.circuit, topology).mean()))
            recall[method].append(float(edge_recall(values, known.circuit, topology).mean()))
    return [
        measurement(
            f"{name}: {what}, {method}",
            values[method],
            unit="share",
            mean=mean(values[method]),
            model=name,
            method=method,
            quantity=what,
            promised=method in GROUND_TRUTHS[name].recovered_by,
            n_seeds=n_seeds,
            circuit_edges=sorted(set(sizes)),
            all_edges=topology.n_edges,
        )
        for method in found
        for what, values in (("AUROC", auroc), ("recall", recall))
    ]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row a model, one column a method; AUROC / recall, promises with a mark."""
    cells = {(r["model"], r["method"], r["quantity"]): r for r in results}
    models = list(dict.fromkeys(r["model"] for r in results))
    methods = list(dict.fromkeys(r["method"] for r in results))
    lines = [
        f"| model | edges | {' | '.join(f'`{m}`' for m in methods)} |",
        "|---" * (len(methods) + 2) + "|",
    ]
    for model in models:
        any_row = cells[model, methods[0], "AUROC"]
        edges = [str(n) for n in any_row["circuit_edges"]]
        row = [model, f"{'–'.join(dict.fromkeys((edges[0], edges[-1])))} of {any_row['all_edges']}"]
        for method in methods:
            auroc, recall = (cells[model, method, what] for what in ("AUROC", "recall"))
            mark = " ✓" if auroc["promised"] else ""
            row.append(f"{share(auroc['mean'])} / {share(recall['mean'], 2)}{mark}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def share(value: float, digits: int = 3) -> str:
    """A share that reads 1 only where it is 1."""
    if value == 1:
        return "1"
    return f"{min(value, 1 - 10**-digits):.{digits}f}"


def put_into(page: Path, text: str) -> None:
    """Replaces what stands between the marks of a page."""
    start, end = (re.escape(mark) for mark in MARKS)
    old = page.read_text(encoding="utf-8")
    new, n = re.subn(
        f"({start}\n).*?(\n{end})", lambda m: f"{m[1]}\n{text}\n{m[2]}", old, flags=re.DOTALL
    )
    if n != 1:
        raise SystemExit(f"{page} must have one place between {MARKS[0]!r} and {MARKS[1]!r}")
    page.write_text(new, encoding="utf-8")


def main() -> int:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--seeds", type=int, default=3, help="models of each kind")
    arguments.add_argument("--only", choices=list(GROUND_TRUTHS), help="one kind of model")
    arguments.add_argument("--steps", type=int, default=kc.Recipe.steps, help="of edge pruning")
    arguments.add_argument("--table", type=Path, help="page whose table to replace")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    found = finders(kc.Recipe(steps=options.steps))
    results: list[dict[str, Any]] = []
    for name in [options.only] if options.only else GROUND_TRUTHS:
        results += measure(name, found, options.seeds)
    code = report("ground-truth", results, options.out)
    print(table(results), file=sys.stderr)
    if options.table is not None:
        put_into(options.table, table(results))
    return code


if __name__ == "__main__":
    sys.exit(main())
