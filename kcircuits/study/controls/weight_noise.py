"""Gaussian noise of growing size on the weights: turnover grows with it.

The noise is the same at every size, only larger: a straight way away from the checkpoint. Each
matrix (embedding, heads, MLPs, unembedding) gets noise of a share of its own standard deviation.
Turnover against the clean checkpoint must order as the sizes do: a larger size may lie below a
smaller one only where their intervals overlap (rank correlation 1, up to such ties), and the
largest must be called changed.
"""

from dataclasses import replace
from itertools import combinations
from typing import Any

from kcircuits.lab.ground_truth import WeightsModel
from kcircuits.lab.weight_changes import add_noise
from kcircuits.study.controls.bench import Bench
from kcircuits.study.controls.control import Check, Outcome, verdict_check
from kcircuits.study.controls.same_checkpoint import identity_checks

# SmolLM2-135M: turnover .005, .02, .17 at the first three.
SIZES = (0.05, 0.1, 0.2, 0.4)
_NUMBERS = ("turnover", "turnover_low", "turnover_high", "jaccard", "ceiling", "verdict", "reason")


def control(bench: Bench) -> Outcome:
    """Scores the checkpoint under noise of each size."""

    def cells(size: float) -> list[Any]:
        noisy = add_noise(bench.model.weights, size, bench.seed, is_relative=True)
        return bench.cells(WeightsModel(noisy, f"noise of {size:g}"))

    nothing, _ = identity_checks(bench, cells(0.0))
    found = {size: bench.diff(bench.clean, cells(size)).rows[0] for size in SIZES}
    rows = [{"size": size, **{name: row[name] for name in _NUMBERS}} for size, row in found.items()]
    told = [row for row in rows if row["turnover_low"] is not None]
    largest = told[-1]["size"] if told else SIZES[-1]
    return Outcome(
        did=f"added Gaussian noise to every matrix of {bench.epoch}, 0 and "
        f"{', '.join(f'{size:g}' for size in SIZES)} times its own spread (seed {bench.seed})",
        checks=(
            replace(nothing, expected=f"{nothing.expected} at size 0"),
            order_check(told),
            verdict_check(found[largest], "changed", f" at size {largest:g}"),
        ),
        rows=rows,
    )


def order_check(rows: list[dict[str, Any]]) -> Check:
    """That turnover orders as the sizes do, up to ties.

    Args:
        rows: ``size, turnover, turnover_low, turnover_high``, sizes ascending.
    """
    wrong = [
        (low["size"], high["size"])
        for low, high in combinations(rows, 2)
        if low["turnover_low"] > high["turnover_high"]
    ]
    values = ", ".join(f"{row['size']:g}: {row['turnover']:.3f}" for row in rows)
    fallen = "; ".join(f"{high:g} lies below {low:g}" for low, high in wrong)
    return Check(
        expected="turnover orders as the noise does, ties where intervals overlap",
        measured=f"{values}{'; ' if fallen else ''}{fallen}",
        is_met=not wrong if len(rows) > 1 else None,
        reason="" if len(rows) > 1 else "fewer than two sizes have a turnover with an interval",
    )
