"""The table of ``kcircuits dynamics``: one row per epoch and stratum of a run.

Fields, as DESIGN.md fixes them. Shares (``known``, recalls, accuracies) are in 0..1; ``learned``,
``acquired``, ``retained`` and ``forgotten`` are counts, of entities where a run has open questions
and of facts else, against the epoch measured before; None where there is no number.

Source: Mousavi, Alghisi, Riccardi 2026, arXiv 2601.03858, table 4.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from kcircuits.analysis.dynamics.ood import ood_average, seed_skill
from kcircuits.analysis.dynamics.series import (
    ProbeSeries,
    fact_known,
    learned_units,
)
from kcircuits.analysis.dynamics.steps import step_counts
from kcircuits.analysis.dynamics.strata import stratum_series

Row = dict[str, Any]
FIELDS = (
    "model", "strategy", "seed", "epoch", "stratum", "loss", "perplexity", "known", "recall_avg",
    "recall_high", "recall_low", "learned", "acquired", "retained", "forgotten", "math", "mmlu",
    "social_iqa", "ood_avg", "skills",
)  # fmt: skip


def dynamics_rows(series: ProbeSeries, by: str | None = None) -> list[Row]:
    """The rows of one run, epoch after epoch within each stratum.

    Args:
        series: The run.
        by: As in ``strata.stratum_series``.

    Raises:
        UsageError: A fact has no such stratum.
    """
    shared = _shared_columns(series)
    rows: list[Row] = []
    for stratum, part in stratum_series(series, by).items():
        own = _stratum_columns(part)
        for i, epoch in enumerate(series.epochs.tolist()):
            row: Row = {"model": series.model, "strategy": series.strategy, "seed": series.seed}
            row |= {"epoch": int(epoch) if epoch.is_integer() else epoch, "stratum": stratum}
            row |= {name: values[i] for name, values in {**shared, **own}.items()}
            rows.append({name: row[name] for name in FIELDS})
    return rows


def recall_means(series: ProbeSeries) -> dict[str, Float[np.ndarray, " epoch"]]:
    """Mean recall over open probes: ``avg``, and of facts with ``frequency`` high and low.

    Those that the source states itself stand for those that it does not let us compute.
    """
    if series.stated_recall:
        return dict(series.stated_recall)
    frequency = np.array([strata.get("frequency", "") for strata in series.strata], dtype=object)
    chosen = {"avg": np.ones(len(series.fact_ids), dtype=bool)}
    chosen |= {name: frequency == name for name in ("high", "low")}
    means: dict[str, Float[np.ndarray, " epoch"]] = {}
    for name, facts in chosen.items():
        rows: Bool[np.ndarray, " probe"] = series.is_open & facts[series.fact_idx]
        none = np.full(len(series.epochs), np.nan)
        means[name] = series.recall[rows].mean(0) if rows.any() else none
    return means


def number_or_none(value: float) -> float | None:
    """A finite number as a float, else None (JSON has no NaN)."""
    return float(value) if np.isfinite(value) else None


def numbers_or_none(values: Iterable[float]) -> list[float | None]:
    """Each number, or None where it is not finite."""
    return [number_or_none(value) for value in values]


def _shared_columns(series: ProbeSeries) -> dict[str, list[Any]]:
    """What is measured of the model as a whole, and stands in every stratum's rows."""
    n_epochs = len(series.epochs)
    accuracy = {name: skill.accuracy for name, skill in series.skills.items()}
    named = {seed_skill(name): values for name, values in accuracy.items()}
    skills = [
        {name: number_or_none(values[i]) for name, values in accuracy.items()} or None
        for i in range(n_epochs)
    ]
    none = np.full(n_epochs, np.nan)
    columns = {name: named.get(name, none) for name in ("math", "mmlu", "social_iqa")}
    columns |= {"loss": series.loss, "perplexity": series.perplexity}
    columns |= {"ood_avg": ood_average(series.skills, n_epochs)}
    return {name: numbers_or_none(values) for name, values in columns.items()} | {"skills": skills}


def _stratum_columns(series: ProbeSeries) -> dict[str, list[Any]]:
    counts = step_counts(learned_units(series)[1])
    steps = {name: getattr(counts, name) for name in ("acquired", "retained", "forgotten")}
    columns: dict[str, list[Any]] = {"known": fact_known(series).mean(0).tolist()}
    columns |= {f"recall_{n}": numbers_or_none(v) for n, v in recall_means(series).items()}
    columns |= {"learned": counts.learned.tolist()}
    columns |= {name: [None, *values.tolist()] for name, values in steps.items()}
    return columns
