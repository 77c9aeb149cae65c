"""Overlap between all pairs of epochs over the facts of a stratum, with intervals over entities.

Means are taken over the facts that are known at both epochs of a pair (or whose scores are equal
at both), turnover is 1 - sum k_st / sum c as everywhere. The 95% intervals are percentiles over
resamples of *entities*: facts of one subject share names and noise. All resamples of all pairs are
products of one matrix of weights [resample, fact] with the stored values [fact, epoch, epoch].
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.analysis.overlap.all_pairs import MEASURES, OVERLAP
from kcircuits.analysis.overlap.corrected import jaccard_from_overlap
from kcircuits.analysis.overlap.jackknife import CONFIDENCE, MIN_ENTITIES
from kcircuits.analysis.overlap.turnover import MIN_CEILING
from kcircuits.core.bootstrap import draw_clusters, percentiles

N_RESAMPLES = 200
Table = Float[np.ndarray, "epoch epoch"]
FactTables = Float[np.ndarray, "fact epoch epoch"]
# These are shares of common items, or of common weight, and are shown as |X & Y| / |X | Y|.
_AS_JACCARD = (OVERLAP, "weighted")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number for each pair of epochs, and its interval; NaN where there is none."""

    value: Table
    low: Table
    high: Table


@dataclass(frozen=True, kw_only=True)
class MeasureSummary:
    """One measure over the facts of a stratum.

    Attributes:
        value: Of one half at one epoch with the other half at the other; on the diagonal, of two
            halves at the same epoch. The plain and the weighted overlap as Jaccards.
        ceiling: What no change would give; the value itself on the diagonal.
        chance: What chance would give.
        turnover: Tau; 0 on the diagonal, NaN where the ceiling is too low.
    """

    value: Estimate
    ceiling: Estimate
    chance: Table
    turnover: Estimate


@dataclass(frozen=True, kw_only=True)
class PairSummary:
    """All pairs of epochs over the facts of a stratum.

    Attributes:
        n_facts: Facts that enter each pair.
        n_entities: Their entities.
        measures: The measures by name.
        means: Other tables by name, as means over the facts.
    """

    n_facts: Int[np.ndarray, "epoch epoch"]
    n_entities: Int[np.ndarray, "epoch epoch"]
    measures: Mapping[str, MeasureSummary]
    means: Mapping[str, Table]


def compared_pairs(
    is_known: Bool[np.ndarray, "fact epoch"],
    is_identical: Bool[np.ndarray, "fact epoch epoch"],
) -> Bool[np.ndarray, "fact epoch epoch"]:
    """Which facts enter each pair: known at both epochs, or nothing changed at all.

    An epoch is always identical to itself; there a fact enters where it is known.
    """
    both = is_known[:, :, None] & is_known[:, None, :]
    return both | (is_identical & ~np.eye(is_known.shape[1], dtype=bool))


def summarise_pairs(
    tables: Mapping[str, FactTables],
    is_compared: Bool[np.ndarray, "fact epoch epoch"],
    is_identical: Bool[np.ndarray, "fact epoch epoch"],
    entities: Shaped[np.ndarray, " fact"],
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> PairSummary:
    """Sums up the tables of facts.

    Args:
        tables: Of each fact, by name, see ``PairTables``.
        is_compared: Which facts enter each pair, see ``compared_pairs``.
        is_identical: Where a fact's scores are equal at both epochs.
        entities: Entity of each fact.
        n_resamples: Number of resamples of the entities.
        seed: Of the resamples.
    """
    halved = is_compared & np.isfinite(tables[OVERLAP])
    draws = draw_clusters(entities, seed=seed, n_draws=n_resamples)
    n_entities = _n_entities(halved, entities)
    sums = _Sums(halved, np.vstack([np.ones(len(draws[0])), draws]), n_entities >= MIN_ENTITIES)
    is_chance = {f"{name}_chance" for name in MEASURES}
    return PairSummary(
        n_facts=halved.sum(0),
        n_entities=n_entities,
        measures={
            name: _summarise(name, tables[name], tables[f"{name}_chance"], is_identical, sums)
            for name in MEASURES
            if name in tables
        },
        means={
            name: _mean(table, halved)
            for name, table in tables.items()
            if name not in MEASURES and name not in is_chance
        },
    )


@dataclass(frozen=True)
class _Sums:
    """Sums over the facts compared: of all facts first, then of each resample."""

    is_compared: Bool[np.ndarray, "fact epoch epoch"]
    weights: Float[np.ndarray, "draw fact"]
    has_interval: Bool[np.ndarray, "epoch epoch"]

    def of(self, table: FactTables) -> Float[np.ndarray, "draw epoch epoch"]:
        return np.tensordot(self.weights, np.where(self.is_compared, table, 0.0), 1)

    def ratio(self, top: FactTables, bottom: FactTables | float = 1.0) -> np.ndarray:
        """Sum of one table over the sum of another, NaN where that is not above 0."""
        tops, bottoms = self.of(top), self.of(np.broadcast_to(bottom, top.shape))
        return np.where(bottoms > 0, tops, np.nan) / np.where(bottoms > 0, bottoms, 1)

    def estimate(self, values: Float[np.ndarray, "draw epoch epoch"]) -> Estimate:
        """The value, and the interval that holds the middle of the resamples.

        A resample without a value counts below the lower and above the upper end.
        """
        drawn = values[1:]
        low, high = percentiles(drawn, CONFIDENCE, is_valid=np.isfinite(drawn))
        shown = self.has_interval & np.isfinite(values[0])
        return Estimate(
            value=values[0], low=np.where(shown, low, np.nan), high=np.where(shown, high, np.nan)
        )


def _summarise(
    name: str,
    k: FactTables,
    chance: FactTables,
    is_identical: Bool[np.ndarray, "fact epoch epoch"],
    sums: _Sums,
) -> MeasureSummary:
    own = np.diagonal(k, axis1=1, axis2=2)
    ceiling = np.where(is_identical, k, fact_ceilings(own))
    rows, columns = (np.broadcast_to(one, k.shape) for one in (own[:, :, None], own[:, None, :]))
    is_low = ~((sums.ratio(rows)[0] >= MIN_CEILING) & (sums.ratio(columns)[0] >= MIN_CEILING))
    is_still = (is_identical | ~sums.is_compared).all(0) & sums.is_compared.any(0)
    tau = 1 - sums.ratio(k, ceiling)
    tau[:, is_low] = np.nan
    tau[:, is_still] = 0.0
    shown = jaccard_from_overlap if name in _AS_JACCARD else np.asarray
    turnover = sums.estimate(tau)
    return MeasureSummary(
        value=sums.estimate(shown(sums.ratio(chance + k * (1 - chance)))),
        ceiling=sums.estimate(shown(sums.ratio(chance + ceiling * (1 - chance)))),
        chance=shown(sums.ratio(chance)[0]),
        turnover=turnover,
    )


def fact_ceilings(own: Float[np.ndarray, "*fact epoch"]) -> Float[np.ndarray, "*fact epoch epoch"]:
    """Ceiling c = sqrt(k_ss k_tt) of each pair of epochs, negative k as 0."""
    kept = np.maximum(own, 0)
    return np.sqrt(kept[..., :, None] * kept[..., None, :])


def _mean(table: FactTables, is_compared: Bool[np.ndarray, "fact epoch epoch"]) -> Table:
    """Mean over the facts compared that have a value; NaN without any."""
    there = is_compared & np.isfinite(table)
    n_facts = there.sum(0)
    total = np.where(there, table, 0).sum(0)
    return np.where(n_facts > 0, total, np.nan) / np.maximum(n_facts, 1)


def _n_entities(
    is_compared: Bool[np.ndarray, "fact epoch epoch"], entities: Shaped[np.ndarray, " fact"]
) -> Int[np.ndarray, "epoch epoch"]:
    names, entity = np.unique(entities, return_inverse=True)
    is_of = np.arange(len(names))[:, None] == entity
    return (np.tensordot(is_of.astype(int), is_compared.astype(int), 1) > 0).sum(0)
