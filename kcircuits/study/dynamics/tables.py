"""The tables behind ``kcircuits dynamics``, as plain rows: None where there is no number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from kcircuits.analysis.dynamics.events import NEVER, consolidation, fact_events
from kcircuits.analysis.dynamics.exposure import (
    FactExposure,
    fact_exposure,
    mean_effectivity,
    retention,
)
from kcircuits.analysis.dynamics.lifetimes import window_table
from kcircuits.analysis.dynamics.ood import skill_change
from kcircuits.analysis.dynamics.rows import number_or_none
from kcircuits.analysis.dynamics.series import (
    ProbeSeries,
    entity_recall,
    fact_known,
    fact_logprob,
    knowledge_curve,
    knowledge_values,
    learned_units,
    probe_halves,
    select_facts,
)
from kcircuits.analysis.dynamics.strata import (
    MeanSeries,
    control_facts,
    difference_series,
    mean_series,
    stratum_series,
    trained_facts,
)
from kcircuits.analysis.dynamics.trend import divergence, nonmonotonicity
from kcircuits.analysis.survival import LifeTable

Row = dict[str, Any]
# Epochs after t_LAM at which retention is told.
RETENTION_AT = (1, 2, 3, 5, 10)


def head(series: ProbeSeries) -> Row:
    """Which run a row is about."""
    return {"model": series.model, "strategy": series.strategy, "seed": series.seed}


def run_row(series: ProbeSeries) -> Row:
    """What a run's numbers are about."""
    return head(series) | {
        "epochs": _epochs(series),
        "facts": len(series.fact_ids),
        "entities": len(set(series.entities)),
        "probes": len(series.fact_idx),
        "knowledge": knowledge_values(series)[0],
        "unit": "entity" if series.has_open else "fact",
    }


def summary_row(
    series: ProbeSeries, stratum: str, *, k: int, last_exposure: float | None, seed: int
) -> Row:
    """Events, consolidation, lifetimes, exposure and trends of the facts of one stratum."""
    is_known, entities = fact_known(series), np.array(series.entities, dtype=object)
    kept = consolidation(is_known, k)
    exposure = exposure_of(series, last_exposure)
    return {
        **head(series),
        "stratum": stratum,
        "facts": len(series.fact_ids),
        "entities": len(set(series.entities)),
        **_event_totals(is_known, series),
        "consolidated": {
            "k": k,
            "facts": int(kept.is_consolidated.sum()),
            "evaluable": int(kept.is_evaluable.sum()),
            "evaluable_acquired": int((kept.is_evaluable & kept.is_acquired).sum()),
        },
        "survival": survival_rows(window_table(is_known, entities, seed=seed)),
        "effectivity": _effectivity(exposure, entities, seed),
        "retention": [
            {name: number_or_none(v) if isinstance(v, float) else v for name, v in vars(r).items()}
            for n in RETENTION_AT
            if n < len(series.epochs)
            for r in retention(exposure, n, entities, seed=seed)
        ],
        "nonmonotonicity": _nonmonotonicity(series),
        "divergence": _divergence(series),
    }


def survival_rows(table: LifeTable) -> list[Row]:
    """One row per age that some window reached and was looked at once more."""
    return [
        {
            "k": i + 1,
            "at_risk": int(table.at_risk[i]),
            "forgotten": int(table.ended[i]),
            "hazard": number_or_none(table.hazard[i]),
            "survival": number_or_none(table.survival[i]),
            "low": number_or_none(table.low[i]),
            "high": number_or_none(table.high[i]),
        }
        for i in range(len(table.at_risk))
        if table.at_risk[i]
    ]


def fact_rows(series: ProbeSeries, *, k: int, last_exposure: float | None) -> list[Row]:
    """Events, consolidation and effect of exposure of each fact."""
    exposure = exposure_of(series, last_exposure)
    rows = _event_rows(series, "fact", series.fact_ids, fact_known(series), k)
    for i, row in enumerate(rows):
        row["entity"] = series.entities[i]
        row["effectivity"] = number_or_none(exposure.effectivity[i])
        row["gain"] = number_or_none(exposure.gain[i])
    return rows


def entity_rows(series: ProbeSeries, *, k: int) -> list[Row]:
    """Events of each entity's learned state, and its recall; none without open questions."""
    if not series.has_open:
        return []
    rows = _event_rows(series, "entity", *learned_units(series), k)
    for row, recall in zip(rows, entity_recall(series)[1], strict=True):
        row["recall"] = recall.tolist()
    return rows


def knowledge_rows(series: ProbeSeries, by: str | None, *, seed: int) -> list[Row]:
    """Mean knowledge at each epoch and stratum with its interval over entities."""
    rows: list[Row] = []
    for stratum, part in stratum_series(series, by).items():
        measure, values = knowledge_values(part)
        means = mean_series(values, np.array(part.entities, dtype=object), seed=seed)
        about = {"stratum": stratum, "measure": measure}
        rows += _mean_rows(series, about, means)
    return rows


def difference_rows(series: ProbeSeries, *, seed: int) -> list[Row]:
    """Trained minus control facts: as they are, and as changes since the first epoch.

    Answers that documents replace by others are neither, and are left out.
    """
    is_trained, is_control = trained_facts(series), control_facts(series)
    if not is_trained.any() or not is_control.any():
        return []
    series = select_facts(series, is_trained | is_control)
    measure, values = knowledge_values(series)
    entities, is_first = np.array(series.entities, dtype=object), trained_facts(series)
    rows: list[Row] = []
    for since_start in (False, True):
        means = difference_series(values, entities, is_first, since_start=since_start, seed=seed)
        about = {"measure": measure, "since_start": since_start}
        rows += _mean_rows(series, about, means)
    return rows


def skill_rows(series: ProbeSeries, *, seed: int) -> list[Row]:
    """Change of each skill since the first epoch; with an interval where items were kept."""
    rows: list[Row] = []
    for name, skill in series.skills.items():
        change = skill_change(skill, seed=seed)
        for i, epoch in enumerate(_epochs(series)):
            rows.append(
                {
                    **head(series),
                    "skill": name,
                    "epoch": epoch,
                    "accuracy": number_or_none(skill.accuracy[i]),
                    "change": number_or_none(change.change[i]),
                    "low": number_or_none(change.low[i]),
                    "high": number_or_none(change.high[i]),
                    "items": change.n_items,
                }
            )
    return rows


def exposure_of(series: ProbeSeries, last_exposure: float | None) -> FactExposure:
    """Effect of exposures, trained facts being exposed at each epoch up to the last exposure."""
    until = series.epochs[-1] if last_exposure is None else last_exposure
    is_told = trained_facts(series)[:, None] & (series.epochs <= until)
    return fact_exposure(fact_logprob(series), is_told)


def _mean_rows(series: ProbeSeries, about: Row, means: MeanSeries) -> list[Row]:
    return [
        {
            **head(series),
            **about,
            "epoch": epoch,
            "mean": number_or_none(means.mean[i]),
            "low": number_or_none(means.low[i]),
            "high": number_or_none(means.high[i]),
            "facts": means.n_facts,
            "entities": means.n_entities,
        }
        for i, epoch in enumerate(_epochs(series))
    ]


def _event_rows(
    series: ProbeSeries,
    unit: str,
    names: Sequence[str],
    is_known: Bool[np.ndarray, "unit epoch"],
    k: int,
) -> list[Row]:
    events, kept, epochs = fact_events(is_known), consolidation(is_known, k), _epochs(series)
    return [
        {
            **head(series),
            unit: name,
            "known": is_known[i].astype(int).tolist(),
            "acquired_at": None if at == NEVER else epochs[at],
            "learning_events": int(events.n_learned[i]),
            "forgetting_events": int(events.n_forgotten[i]),
            "relearned": int(events.n_relearned[i]),
            "longest": int(events.longest[i]),
            "final": int(events.final[i]),
            "consolidated": bool(kept.is_consolidated[i]) if kept.is_evaluable[i] else None,
        }
        for i, (name, at) in enumerate(zip(names, events.acquisition_idx.tolist(), strict=True))
    ]


def _event_totals(is_known: Bool[np.ndarray, "fact epoch"], series: ProbeSeries) -> Row:
    events = fact_events(is_known)
    places = events.acquisition_idx[events.acquisition_idx > 0]
    return {
        "learning_events": int(events.n_learned.sum()),
        "forgetting_events": int(events.n_forgotten.sum()),
        "relearning_events": int(events.n_relearned.sum()),
        "facts_forgotten_once": int((events.n_forgotten > 0).sum()),
        "known_before": int((events.acquisition_idx == 0).sum()),
        "acquired_in_run": len(places),
        "never_known": int((events.acquisition_idx == NEVER).sum()),
        "median_acquisition": float(np.median(series.epochs[places])) if len(places) else None,
    }


def _effectivity(exposure: FactExposure, entities: Any, seed: int) -> Row | None:
    mean, low, high, n_facts = mean_effectivity(exposure, entities, seed=seed)
    if not n_facts:
        return None
    ends = {"mean": mean, "low": low, "high": high}
    return {name: number_or_none(value) for name, value in ends.items()} | {"facts": n_facts}


def _nonmonotonicity(series: ProbeSeries) -> Row:
    curves = [knowledge_curve(series)]
    curves += [knowledge_curve(series, half) for half in probe_halves(series)]
    names = ("all", "half_a", "half_b")
    values = nonmonotonicity(np.stack(curves)).tolist()
    return {name: number_or_none(value) for name, value in zip(names, values, strict=True)}


def _divergence(series: ProbeSeries) -> Row | None:
    found = divergence(series.loss, knowledge_curve(series))
    if not found.n_epochs:
        return None
    epochs = _epochs(series)
    return {
        "epochs": found.n_epochs,
        "spearman": number_or_none(found.spearman),
        "steps": found.n_steps,
        "diverging_steps": found.n_diverging,
        "share": number_or_none(found.share),
        "regret": number_or_none(found.regret),
        "best_epoch": epochs[found.best_epoch],
        "lowest_loss_epoch": epochs[found.lowest_loss_epoch],
    }


def _epochs(series: ProbeSeries) -> list[float]:
    return [int(e) if e.is_integer() else e for e in series.epochs.tolist()]
