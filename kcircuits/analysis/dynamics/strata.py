"""Groups of facts, their knowledge with intervals over entities, and differences between groups.

Facts of one entity rise and fall together, so the entity is the unit that is drawn.

Source: METHODS.md section 7; Field and Welsh 2007 (clusters drawn whole).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from kcircuits.analysis.dynamics.draws import drawn_ratios, interval_ends, ratio_interval
from kcircuits.analysis.dynamics.series import (
    ProbeSeries,
    deciding_probes,
    fact_means,
    select_facts,
    select_kind,
)
from kcircuits.core.bootstrap import N_DRAWS
from kcircuits.errors import UsageError

ALL = "all"
# Groups that the probes themselves give: one per entity, per fact, or by prior knowledge; and
# groups of probes, by how they ask.
ENTITY, FACT, PRIOR, KIND = "entity", "fact", "prior", "kind"
# Where facts of one stratum lack another: ``told`` is there for updated facts alone.
NONE = "none"
# Splits that documents leave alone; and what marks an answer that they replace by another one,
# which no document tells either, but which is not left alone.
CONTROLS = ("control", "held-out")
REPLACED = ("told", "before")


@dataclass(frozen=True, kw_only=True)
class MeanSeries:
    """A mean over facts at each epoch, with 95% intervals over entities.

    Attributes:
        mean: The mean.
        low: Lower ends; NaN with fewer than two entities.
        high: Upper ends.
        n_facts: Number of facts.
        n_entities: Number of entities drawn.
    """

    mean: Float[np.ndarray, " epoch"]
    low: Float[np.ndarray, " epoch"]
    high: Float[np.ndarray, " epoch"]
    n_facts: int
    n_entities: int


def stratum_series(series: ProbeSeries, by: str | None) -> dict[str, ProbeSeries]:
    """The run seen through each of its strata, in the order of ``fact_groups``.

    Args:
        series: The run.
        by: As in ``fact_groups``, or ``kind``: the probes of each kind alone.

    Raises:
        UsageError: No fact has such a stratum.
    """
    if by == KIND and not all(by in strata for strata in series.strata):
        return {kind: select_kind(series, kind) for kind in dict.fromkeys(series.kinds)}
    return {name: select_facts(series, chosen) for name, chosen in fact_groups(series, by).items()}


def fact_groups(series: ProbeSeries, by: str | None) -> dict[str, Bool[np.ndarray, " fact"]]:
    """The facts of each stratum, strata in the order of their first facts.

    Args:
        series: The run.
        by: A key of the facts' strata, facts that lack it being the group ``none``; ``entity``,
            ``fact`` or ``prior`` (unknown, partly or known by the share of the fact's probes known
            before training), unless every fact has a stratum of that name; None for all together.

    Raises:
        UsageError: No fact has such a stratum.
    """
    if by is None:
        return {ALL: np.ones(len(series.fact_ids), dtype=bool)}
    if all(by in strata for strata in series.strata):
        labels: Sequence[str] = [str(strata[by]) for strata in series.strata]
    elif by == ENTITY:
        labels = series.entities
    elif by == FACT:
        labels = series.fact_ids
    elif by == PRIOR:
        labels = prior_knowledge(series)
    elif any(by in strata for strata in series.strata):
        labels = [str(strata.get(by, NONE)) for strata in series.strata]
    else:
        raise _no_stratum(series, by)
    column = np.array(labels, dtype=object)
    return {label: column == label for label in dict.fromkeys(labels)}


def prior_knowledge(series: ProbeSeries) -> list[str]:
    """``known``, ``partly`` or ``unknown``: all, some or none of what decides it, at the start."""
    rows = deciding_probes(series, np.ones(len(series.fact_idx), dtype=bool))
    start = series.is_known[rows, :1].astype(float)
    shares = fact_means(start, series.fact_idx[rows], len(series.fact_ids))[:, 0]
    return ["known" if s == 1 else "unknown" if s == 0 else "partly" for s in shares.tolist()]


def mean_series(
    values: Float[np.ndarray, "fact epoch"],
    entities: Shaped[np.ndarray, " fact"],
    *,
    seed: int = 0,
    n_draws: int = N_DRAWS,
) -> MeanSeries:
    """Mean over facts at each epoch."""
    ones = np.ones(len(values))
    mean, low, high = ratio_interval(values, ones, entities, seed=seed, n_draws=n_draws)
    return MeanSeries(
        mean=mean, low=low, high=high, n_facts=len(values), n_entities=len(np.unique(entities))
    )


def difference_series(
    values: Float[np.ndarray, "fact epoch"],
    entities: Shaped[np.ndarray, " fact"],
    is_first: Bool[np.ndarray, " fact"],
    *,
    since_start: bool,
    seed: int = 0,
    n_draws: int = N_DRAWS,
) -> MeanSeries:
    """Mean of one group minus mean of the others, e.g. trained minus control.

    Args:
        values: A number of each fact at each epoch.
        entities: Entity of each fact; an entity in both groups is drawn for both at once.
        is_first: The group that is subtracted from.
        since_start: Of the changes since the first epoch: what training on the facts did beyond
            what training on anything does (known controls rise at epoch 1 by format alone).
        seed: Of the bootstrap.
        n_draws: Of the bootstrap.
    """
    if since_start:
        values = values - values[:, :1]
    drawn = [
        drawn_ratios(
            values * group[:, None], group.astype(float), entities, seed=seed, n_draws=n_draws
        )
        for group in (is_first, ~is_first)
    ]
    both = None if drawn[0] is None or drawn[1] is None else drawn[0] - drawn[1]
    low, high = interval_ends(both, (values.shape[1],))
    return MeanSeries(
        mean=values[is_first].mean(0) - values[~is_first].mean(0), low=low, high=high,
        n_facts=len(values), n_entities=len(np.unique(entities)),
    )  # fmt: skip


def trained_facts(series: ProbeSeries) -> Bool[np.ndarray, " fact"]:
    """Facts that documents tell: all but controls, held-out ones and answers that are replaced."""
    key, before = REPLACED
    is_replaced = np.array([strata.get(key) == before for strata in series.strata], dtype=bool)
    return ~control_facts(series) & ~is_replaced


def control_facts(series: ProbeSeries) -> Bool[np.ndarray, " fact"]:
    """Facts that no document is about: controls and held-out ones."""
    return np.array([strata.get("split") in CONTROLS for strata in series.strata], dtype=bool)


def _no_stratum(series: ProbeSeries, by: str) -> UsageError:
    keys = dict.fromkeys(key for strata in series.strata for key in strata)
    there = ", ".join([*keys, *(name for name in (ENTITY, FACT, PRIOR, KIND) if name not in keys)])
    return UsageError(
        f"{series.name}: there is no stratum {by!r}; there are {there}",
        field="by",
        hint="choose one of those, or add it to the facts file",
    )
