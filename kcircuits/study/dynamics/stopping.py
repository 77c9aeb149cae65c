"""Stopping rules replayed on finished runs: a table of what each would have kept and cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from kcircuits.analysis.dynamics.rows import number_or_none
from kcircuits.analysis.dynamics.series import ProbeSeries, knowledge_values
from kcircuits.analysis.overlap.jackknife import student_quantile
from kcircuits.analysis.stopping.registry import RULES, stopping_rule
from kcircuits.analysis.stopping.replay import (
    HINDSIGHT,
    N_SPLITS,
    Replay,
    SplitRun,
    split_run,
)
from kcircuits.analysis.stopping.rule import StoppingRule
from kcircuits.errors import KCircuitsError, UsageError
from kcircuits.study.dynamics.sources import check_seed, open_runs
from kcircuits.study.dynamics.tables import head
from kcircuits.study.run import Run, open_run

Row = dict[str, Any]
SCHEMA = "kcircuits.stopping/1"
# Training seeds from which anything is said about one rule against another (METHODS.md section 7).
MIN_SEEDS = 3
REFERENCE = "lowest-loss"


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Rules replayed on runs; made by ``replay_rules``.

    Attributes:
        runs: The runs, split in halves.
        rules: The rules by name.
    """

    runs: tuple[SplitRun, ...]
    rules: Mapping[str, StoppingRule]

    @cached_property
    def rows(self) -> list[Row]:
        """One row per run and rule, with the best epoch in hindsight last."""
        return [row for run in self.runs for row in self._run_rows(run)]

    @cached_property
    def comparisons(self) -> list[Row]:
        """Each rule against the lowest loss, per model and strategy, paired over training seeds.

        Fewer than 3 seeds give no interval, and ``claim`` says so.
        """
        groups: dict[tuple[Any, Any], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row["model"], row["strategy"]), []).append(row)
        return [
            _comparison(rows, rule)
            for rows in groups.values()
            for rule in self.rules
            if rule != REFERENCE and REFERENCE in self.rules
        ]

    def to_json(self) -> dict[str, Any]:
        """The document that ``kcircuits stopping --json`` prints."""
        return {
            "schema": SCHEMA,
            "splits": self.runs[0].n_splits,
            "rules": {name: asdict(rule) for name, rule in self.rules.items()},  # type: ignore[call-overload]
            "rows": self.rows,
            "comparisons": self.comparisons,
        }

    def _run_rows(self, run: SplitRun) -> list[Row]:
        rows = [self._row(run, name, rule) for name, rule in self.rules.items()]
        return [*rows, {**_head(run, HINDSIGHT), **_numbers(run, run.hindsight()), "note": None}]

    def _row(self, run: SplitRun, name: str, rule: StoppingRule) -> Row:
        if run.whole.has(rule.needs):
            return {**_head(run, name), **_numbers(run, run.replay(rule)), "note": None}
        return {
            **_head(run, name),
            **dict.fromkeys(("kept", "stopped", "spent", "knowledge", "ood", "cost")),
            "picks": [],
            "note": f"not available: the run has no {rule.needs}",
        }


def replay_rules(
    *runs: str | Path,
    rules: Mapping[str, StoppingRule] | Sequence[str] = tuple(RULES),
    facts: str | Path | None = None,
    kind: str | None = None,
    seed: int = 0,
    n_splits: int = N_SPLITS,
) -> Stopping:
    """Replays stopping rules on finished runs.

    Args:
        runs: Run folders.
        rules: Rules by name, or names of rules with their defaults.
        facts: A facts file, for entities; default the runs' own.
        kind: Only probes of this kind.
        seed: Of the splits into halves.
        n_splits: How many splits.

    Raises:
        UsageError: No such run or rule, a seed below 0, or too few entities to split.
    """
    if n_splits < 1:
        raise UsageError(f"splits is {n_splits}; expected at least 1", field="splits", hint="20")
    check_seed(seed)
    chosen = rules if isinstance(rules, Mapping) else {name: stopping_rule(name) for name in rules}
    opened = open_runs(runs, facts=facts, kind=kind)
    n_inside = Counter(folder for folder, _ in opened)
    split: list[SplitRun] = []
    for folder, series in opened:
        # The folder's circuits are of one training; several would share them wrongly.
        turnover = circuit_turnover(folder, series) if n_inside[folder] == 1 else None
        split.append(split_run(series, turnover, seed=seed, n_splits=n_splits))
    return Stopping(runs=tuple(split), rules=chosen)


def circuit_turnover(folder: Path, series: ProbeSeries) -> Float[np.ndarray, " epoch"] | None:
    """Turnover of the circuits of all facts known at both ends of each step; None without circuits.

    NaN where a step has no estimate (too few facts known, a ceiling too low, a cell missing).
    """
    try:
        run = open_run(folder)
    except KCircuitsError:
        return None
    by_epoch = {c.epoch: c.id for c in run.checkpoints if c.epoch is not None}
    turnover = np.full(len(series.epochs), np.nan)
    for i, (before, after) in enumerate(pairwise(series.epochs.tolist()), start=1):
        if before in by_epoch and after in by_epoch:
            turnover[i] = _step_turnover(run, by_epoch[before], by_epoch[after])
    return turnover


def _step_turnover(run: Run, before: str, after: str) -> float:
    try:
        value = run.diff(before, after).rows[0]["turnover"]
    except KCircuitsError:
        return float("nan")
    return float("nan") if value is None else float(value)


def _head(run: SplitRun, rule: str) -> Row:
    return {
        **head(run.series),
        "rule": rule,
        "measure": knowledge_values(run.series)[0],
        "facts": len(run.series.fact_ids),
        "entities": len(set(run.series.entities)),
        "items_split": run.has_item_halves,
    }


def _numbers(run: SplitRun, found: Replay) -> Row:
    epochs = run.series.epochs
    return {
        "kept": float(epochs[found.stop.pick]),
        "stopped": float(epochs[found.stop.spent]),
        "picks": sorted(set(found.picks)),
        "spent": found.spent,
        "knowledge": found.knowledge,
        "ood": number_or_none(found.ood),
        "cost": found.cost,
    }


def _comparison(rows: Sequence[Row], rule: str) -> Row:
    at = {(row["rule"], row["seed"]): row["knowledge"] for row in rows}
    seeds = [
        seed
        for name, seed in at
        if name == rule and at[name, seed] is not None and at[REFERENCE, seed] is not None
    ]
    differences = np.array([at[rule, seed] - at[REFERENCE, seed] for seed in seeds])
    n_seeds = len(seeds)
    made: Row = {"model": rows[0]["model"], "strategy": rows[0]["strategy"], "rule": rule}
    made |= {"against": REFERENCE, "seeds": n_seeds, "low": None, "high": None}
    difference = float(differences.mean()) if n_seeds else None
    made["difference"] = difference
    if difference is None or n_seeds < MIN_SEEDS:
        made["claim"] = f"none: {n_seeds} training seeds, at least {MIN_SEEDS} are needed"
        return made
    error = float(differences.std(ddof=1)) / np.sqrt(n_seeds)
    reach = student_quantile(0.975, n_seeds - 1) * error
    made["low"], made["high"] = difference - reach, difference + reach
    is_apart = abs(difference) > reach
    made["claim"] = ("better" if difference > 0 else "worse") if is_apart else "cannot tell"
    return made
