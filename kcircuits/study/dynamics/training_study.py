"""A study of training strategies: the same benchmark, several strategies, several training seeds.

Five questions, each with its table: is knowledge unstable while the loss falls; do prior knowledge
and exposure matter; does the model lose other skills early; which strategy forgets least; which
stopping rule loses least? Every number of a strategy is a mean over training seeds with an interval
over them; every number of a stratum is a mean over its facts, each averaged over the seeds, with an
interval over entities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from kcircuits.analysis.dynamics.measures import MEASURES, trained_part
from kcircuits.analysis.dynamics.ood import ood_average
from kcircuits.analysis.dynamics.rows import number_or_none
from kcircuits.analysis.dynamics.seeds import SeedMean, seed_mean
from kcircuits.analysis.dynamics.series import ProbeSeries, knowledge_curve, knowledge_values
from kcircuits.analysis.dynamics.strata import mean_series
from kcircuits.errors import UsageError
from kcircuits.study.dynamics.dynamics import open_dynamics
from kcircuits.study.dynamics.stopping import Stopping, replay_rules

Row = dict[str, Any]
SCHEMA = "kcircuits.training-study/1"
# What facts are told apart by, where they have it: who tells them, and what was known before.
STRATA = ("frequency", "prior")


@dataclass(frozen=True, kw_only=True)
class TrainingStudy:
    """Runs of one benchmark; made by ``open_training_study``.

    Attributes:
        series: The runs, in the order of strategies.
        stopping: Stopping rules replayed on them.
        reference: Strategy that the others are compared with.
        model: Name of the base model, where known.
    """

    series: tuple[ProbeSeries, ...]
    stopping: Stopping
    reference: str
    model: str | None = None

    @cached_property
    def by_strategy(self) -> Mapping[str, Mapping[int, ProbeSeries]]:
        """The runs by strategy and training seed."""
        found: dict[str, dict[int, ProbeSeries]] = {}
        for each in self.series:
            found.setdefault(str(each.strategy), {})[int(each.seed or 0)] = each
        return found

    @cached_property
    def epochs(self) -> list[Row]:
        """Per strategy and epoch, means over seeds: ``known`` of trained facts, ``loss``, ``ood``.

        Each with ``_low`` and ``_high``, and ``seeds``.
        """
        return [
            self._epoch_row(strategy, list(runs.values()), place)
            for strategy, runs in self.by_strategy.items()
            for place in range(len(next(iter(runs.values())).epochs))
        ]

    @cached_property
    def measures(self) -> list[Row]:
        """Per strategy and measure: ``mean, low, high, seeds``, and against the reference.

        ``difference`` (this strategy minus the reference, seed by seed) has ``difference_low`` and
        ``difference_high``; ``differs`` says whether that interval leaves out 0.
        """
        values = {
            strategy: {
                name: {seed: measure(run) for seed, run in runs.items()}
                for name, (_, measure) in MEASURES.items()
            }
            for strategy, runs in self.by_strategy.items()
        }
        reference = values.get(self.reference, {})
        return [
            _measure_row(strategy, name, found[name], reference.get(name, {}))
            for strategy, found in values.items()
            for name in MEASURES
        ]

    @cached_property
    def strata(self) -> list[Row]:
        """Share of facts known, per strategy, split, stratum and epoch, with intervals."""
        return [
            row
            for strategy, runs in self.by_strategy.items()
            for row in _strata_rows(strategy, list(runs.values()))
        ]

    @cached_property
    def rules(self) -> list[Row]:
        """Per strategy and stopping rule: ``cost``, ``spent`` and ``ood``, means over seeds."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.stopping.rows:
            groups.setdefault((row["strategy"], row["rule"]), []).append(row)
        return [
            {"strategy": strategy, "rule": rule, "seeds": len(rows)}
            | _mean_of(rows, "cost")
            | _mean_of(rows, "spent")
            | _mean_of(rows, "ood")
            for (strategy, rule), rows in groups.items()
        ]

    def to_json(self) -> Row:
        """All tables as one document."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "facts": len(self.series[0].fact_ids),
            "entities": len(set(self.series[0].entities)),
            "runs": [
                {"strategy": each.strategy, "seed": each.seed, "epochs": each.epochs.tolist()}
                for each in self.series
            ],
            "reference": self.reference,
            "measured": {name: said for name, (said, _) in MEASURES.items()},
            "epochs": self.epochs,
            "measures": self.measures,
            "strata": self.strata,
            "rules": self.rules,
            "rules_against_lowest_loss": self.stopping.comparisons,
        }

    def _epoch_row(self, strategy: str, runs: Sequence[ProbeSeries], place: int) -> Row:
        known = [knowledge_curve(trained_part(run))[place] for run in runs]
        ood = [ood_average(run.skills, len(run.epochs))[place] for run in runs]
        loss = [run.loss[place] for run in runs]
        row: Row = {"strategy": strategy, "epoch": float(runs[0].epochs[place])}
        for name, values in (("known", known), ("loss", loss), ("ood", ood)):
            row |= _ends(name, seed_mean(np.array(values, dtype=float)))
        return row | {"seeds": len(runs)}


def open_training_study(
    *runs: str | Path,
    facts: str | Path | None = None,
    reference: str | None = None,
    model: str | None = None,
) -> TrainingStudy:
    """The study of finished runs.

    Args:
        runs: Run folders, of one benchmark.
        facts: A facts file, for entities and strata; default the runs' own.
        reference: Strategy to compare with; default that of the first run.
        model: Name of the base model; default what the runs' manifest says.

    Raises:
        UsageError: No run, runs of other facts or epochs, or no run of the reference.
    """
    series = open_dynamics(*runs, facts=facts).series
    _require_one_benchmark(series)
    names = list(dict.fromkeys(str(each.strategy) for each in series))
    reference = reference or names[0]
    if reference not in names:
        raise UsageError(
            f"no run has the strategy {reference!r}",
            field="reference",
            hint=f"choose from {', '.join(names)}",
        )
    return TrainingStudy(
        series=series,
        stopping=replay_rules(*runs, facts=facts),
        reference=reference,
        model=model or series[0].model,
    )


def _require_one_benchmark(series: Sequence[ProbeSeries]) -> None:
    """UsageError where runs asked for other facts, or seeds of a strategy have other epochs."""
    epochs: dict[str | None, ProbeSeries] = {}
    for each in series:
        if each.fact_ids != series[0].fact_ids:
            raise UsageError(
                f"{each.name} and {series[0].name} asked for other facts",
                field="run",
                hint="compare runs that were trained on one benchmark",
            )
        first = epochs.setdefault(each.strategy, each)
        if not np.array_equal(first.epochs, each.epochs):
            raise UsageError(
                f"{each.name} has epochs up to {each.epochs[-1]:g}, {first.name} up to "
                f"{first.epochs[-1]:g}",
                field="run",
                hint="train each seed of a strategy for as many epochs",
            )


def _measure_row(
    strategy: str, name: str, mine: Mapping[int, float], theirs: Mapping[int, float]
) -> Row:
    own = seed_mean(np.array(list(mine.values())))
    pairs = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    against = seed_mean(np.array(pairs, dtype=float))
    row: Row = {"strategy": strategy, "measure": name, **_ends("", own), "seeds": own.n_seeds}
    return row | _ends("difference", against) | {"differs": against.excludes_zero}


def _strata_rows(strategy: str, runs: Sequence[ProbeSeries]) -> list[Row]:
    """Facts averaged over seeds, within each split."""
    first = runs[0]
    values: Float[np.ndarray, "fact epoch"] = np.mean([knowledge_values(r)[1] for r in runs], 0)
    entities = np.array(first.entities, dtype=object)
    splits = np.array([_split_of(strata) for strata in first.strata], dtype=object)
    rows: list[Row] = []
    for split in dict.fromkeys(splits):
        for stratum, value, chosen in _groups(first, splits == split):
            means = mean_series(values[chosen], entities[chosen], seed=0)
            about = {"strategy": strategy, "split": split, "stratum": stratum, "value": value}
            rows += [
                {
                    **about,
                    "epoch": float(epoch),
                    "mean": number_or_none(means.mean[i]),
                    "low": number_or_none(means.low[i]),
                    "high": number_or_none(means.high[i]),
                    "facts": means.n_facts,
                    "entities": means.n_entities,
                    "seeds": len(runs),
                }
                for i, epoch in enumerate(first.epochs.tolist())
            ]
    return rows


def _split_of(strata: Mapping[str, str]) -> str:
    """Who the facts are about and which part they play: ``invented trained``, ``real control``."""
    return " ".join(strata[key] for key in ("type", "split", "told") if key in strata) or "all"


def _groups(series: ProbeSeries, chosen: Any) -> list[tuple[str, str, Any]]:
    """A split as a whole and by each stratum: its name, its value, its facts."""
    found = [("all", "all", chosen)]
    for stratum in STRATA:
        labels = np.array([strata.get(stratum, "") for strata in series.strata], dtype=object)
        here = [label for label in dict.fromkeys(labels[chosen]) if label]
        if len(here) > 1 or (here and stratum == "prior"):
            found += [(stratum, label, chosen & (labels == label)) for label in here]
    return found


def _mean_of(rows: Sequence[Row], name: str) -> Row:
    values = [np.nan if row[name] is None else row[name] for row in rows]
    return _ends(name, seed_mean(np.array(values, dtype=float)))


def _ends(name: str, found: SeedMean) -> Row:
    names = (name, f"{name}_low", f"{name}_high") if name else ("mean", "low", "high")
    return {
        key: number_or_none(value)
        for key, value in zip(names, (found.mean, found.low, found.high), strict=True)
    }
