"""Turnover before forgetting: does a fact whose circuit changes go on to be forgotten?

A fact is *at risk* in the step from t-1 to t if it is known at both; it is *forgotten* if it is not
known at t+1. Its turnover T = c - k_st of the step t-1 -> t comes before the forgetting t -> t+1.
Facts at risk in one step of one run are compared with each other.

- T enters as its midrank among those at risk in the step, divided by their number, so the mean
  difference between forgotten and retained facts is AUROC - .5: the chance that a fact about to be
  forgotten turns over more than one that is not, ties half (steps weigh n1 n0 / n, the van Elteren
  weights).
- *Adjusted*: the same difference with stratum and exposure, and the margins (midranks in the
  step), held constant by least squares: b = <e, R> / <e, e>, e being what is left of "forgotten"
  after regression on steps, cells and margins. A fact known by a hair is forgotten more easily and
  may have a noisier circuit; that alone is no link.
- *Test*: knowledge trajectories (known, margins, forgotten) are exchanged between entities as in
  ``exchange``. The statistic is z = sum of s_i / sqrt(sum of s_i^2), s_i the sum over the
  fact-steps of entity i of e times the residual of R: studentised by entity, so that the null,
  which also takes T from steps at which a fact was not known, need not have their spread.
  Two-sided; p counts the observed pairing.
- *Interval*: delete-one-entity jackknife, e fixed.

Source: our own choice; ranks within strata: van Elteren 1960; studentised permutation: DiCiccio and
Romano 2017; p: Phipson and Smyth 2010.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kcircuits.analysis.link.exchange import exchange_of
from kcircuits.analysis.link.trajectories import Trajectories
from kcircuits.analysis.overlap.jackknife import Interval, jackknife_difference, jackknife_ratio

N_PERMUTATIONS = 10_000
_CHUNK = 500  # permutations at once
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class ForgettingTest:
    """Turnover before forgetting, of one training run or of several together.

    Attributes:
        n_at_risk: Fact-steps at risk.
        n_forgotten: Of these, followed by forgetting.
        n_entities: Entities with a fact at risk.
        n_forgotten_entities: Entities with a fact that was forgotten.
        k_own: Mean of k_own over the fact-steps at risk, the smaller of both ends' means.
        auroc: Of T, forgotten against retained, adjusted; .5 is no link. NaN bounds with fewer
            than 10 entities.
        auroc_raw: Within steps alone, not adjusted.
        tau_forgotten: Tau = 1 - sum k_st / sum c of the fact-steps before forgetting.
        tau_retained: Of the others.
        tau_difference: Forgotten minus retained, not adjusted.
        ceiling_forgotten: Mean c before forgetting.
        ceiling_retained: Of the others.
        z: The statistic.
        null: The statistic under each exchange of trajectories.
        p: Two-sided.
        n_distinct: How many different exchanges there are.
    """

    n_at_risk: int
    n_forgotten: int
    n_entities: int
    n_forgotten_entities: int
    k_own: float
    auroc: Interval
    auroc_raw: Interval
    tau_forgotten: float
    tau_retained: float
    tau_difference: Interval
    ceiling_forgotten: float
    ceiling_retained: float
    z: float
    null: Float[np.ndarray, " permutation"]
    p: float
    n_distinct: float


def forgetting_test(
    runs: Sequence[Trajectories], *, n_permutations: int = N_PERMUTATIONS, seed: int = 0
) -> ForgettingTest:
    """Tests whether turnover precedes forgetting.

    Args:
        runs: Training runs that differ in their seed alone; entities of one name are the same.
        n_permutations: Exchanges drawn.
        seed: Of the draws.
    """
    rows = _rows_of(runs)
    ranks = _turnover_ranks(runs, [np.arange(len(run.cells))[None] for run in runs])[0]
    adjusted = _Contrast.of(rows.is_forgotten, np.hstack([rows.steps, rows.cells, rows.margins]))
    raw = _Contrast.of(rows.is_forgotten, rows.steps)
    exchange = exchange_of(runs)
    rng = np.random.default_rng(seed)
    chunks = [min(_CHUNK, n_permutations - i) for i in range(0, n_permutations, _CHUNK)]
    drawn = (_turnover_ranks(runs, exchange.draw(n, rng)) for n in chunks)
    null = np.concatenate([adjusted.z(ranked, rows.entity_idx) for ranked in drawn])
    z = float(adjusted.z(ranks[None], rows.entity_idx)[0])
    n_reaching = int((np.abs(null) >= abs(z) - _ROUNDING).sum())
    return ForgettingTest(
        **_effects(rows),
        auroc=adjusted.auroc(ranks, rows.entity_idx),
        auroc_raw=raw.auroc(ranks, rows.entity_idx),
        z=z,
        null=null,
        p=(1 + n_reaching) / (1 + n_permutations) if adjusted.is_there else np.nan,
        n_distinct=exchange.n_distinct([np.asarray(run.is_at_risk.any(1)) for run in runs]),
    )


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The fact-steps at risk of all runs: by run, by step, by fact."""

    is_forgotten: Float[np.ndarray, " row"]
    entity_idx: Int[np.ndarray, " row"]
    steps: Float[np.ndarray, "row step"]
    cells: Float[np.ndarray, "row cell"]
    margins: Float[np.ndarray, "row measure"]
    k_st: Float[np.ndarray, " row"]
    ceiling: Float[np.ndarray, " row"]
    k_own: Float[np.ndarray, "row 2"]


def _rows_of(runs: Sequence[Trajectories]) -> _Rows:
    parts: dict[str, list[np.ndarray]] = {}
    steps: list[np.ndarray] = []
    for place, run in enumerate(runs):
        step, fact = np.nonzero(run.is_at_risk.T)
        found = {
            "is_forgotten": run.is_forgotten[fact, step].astype(float),
            "entities": np.array(run.entities, dtype=object)[fact],
            "cells": np.array(run.cells, dtype=object)[fact],
            "k_st": run.k_st[fact, step],
            "ceiling": run.ceiling[fact, step],
            "k_own": np.stack([run.k_own[fact, step], run.k_own[fact, step + 1]], axis=1),
            "margins": _within_steps(run.margin[fact, step + 1], step),
        }
        for name, values in found.items():
            parts.setdefault(name, []).append(values)
        steps.append(place * 10**6 + step)
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    _, entity_idx = np.unique(joined.pop("entities"), return_inverse=True)
    return _Rows(
        **joined | {"cells": _dummies(joined["cells"]), "entity_idx": entity_idx},
        steps=_dummies(np.concatenate(steps)),
    )


def _within_steps(
    values: Float[np.ndarray, "row measure"], step: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "row measure"]:
    """Midranks of each measure among the rows of a step, divided by their number."""
    ranks = np.zeros(values.shape)
    for one in np.unique(step):
        rows = step == one
        ranks[rows] = _share_below(values[rows].T).mean(-1).T
    return ranks


def _share_below(values: Float[np.ndarray, "... item"]) -> Float[np.ndarray, "... item item"]:
    """1 where the second is below the first, half where they are equal."""
    first, second = values[..., :, None], values[..., None, :]
    return (first > second) + 0.5 * (first == second)


def _turnover_ranks(
    runs: Sequence[Trajectories], taken: Sequence[Int[np.ndarray, "draw fact"]]
) -> Float[np.ndarray, "draw row"]:
    """Midrank of the turnover that each fact-step at risk is paired with, in each draw.

    Counting who is below whom among *all* facts once, and then who of them is there, ranks all
    draws by one product.
    """
    columns: list[np.ndarray] = []
    for run, whose in zip(runs, taken, strict=True):
        for step, at_risk in enumerate(run.is_at_risk.T):
            facts = whose[:, at_risk]
            if not facts.shape[1]:
                continue
            is_there = np.zeros(whose.shape, dtype=np.float32)
            np.put_along_axis(is_there, facts, 1, axis=1)
            below = is_there @ _share_below(run.turnover[:, step]).T.astype(np.float32)
            columns.append(np.take_along_axis(below, facts, 1) / facts.shape[1])
    n_draws = len(taken[0])
    return np.hstack(columns).astype(float) if columns else np.zeros((n_draws, 0))


@dataclass(frozen=True, kw_only=True)
class _Contrast:
    """Forgotten against retained, with something held constant.

    Attributes:
        base: Orthonormal columns that span what is held constant.
        e: What is left of "forgotten".
    """

    base: Float[np.ndarray, "row column"]
    e: Float[np.ndarray, " row"]

    @classmethod
    def of(
        cls, is_forgotten: Float[np.ndarray, " row"], held: Float[np.ndarray, "row column"]
    ) -> "_Contrast":
        """The contrast; dependent columns count once."""
        left, size, _ = np.linalg.svd(held, full_matrices=False)
        base = left[:, size > _ROUNDING * max(size.max(initial=0), 1)]
        e = is_forgotten - base @ (base.T @ is_forgotten)
        return cls(base=base, e=np.where(np.abs(e) > _ROUNDING, e, 0))

    @property
    def is_there(self) -> bool:
        """Something is left: forgotten and retained facts meet in some step."""
        return bool(self.e @ self.e > _ROUNDING)

    def z(
        self, ranks: Float[np.ndarray, "draw row"], entity_idx: Int[np.ndarray, " row"]
    ) -> Float[np.ndarray, " draw"]:
        """The studentised statistic; 0 where all turnovers are equal."""
        scores = self.scores(ranks)
        by_entity = scores @ _dummies(entity_idx)
        spread = np.sqrt((by_entity**2).sum(1))
        is_flat = spread <= _ROUNDING
        return np.where(is_flat, 0, by_entity.sum(1) / np.where(is_flat, 1, spread))

    def scores(self, ranks: Float[np.ndarray, "draw row"]) -> Float[np.ndarray, "draw row"]:
        """What each fact-step adds to <e, R>."""
        return (ranks - (ranks @ self.base) @ self.base.T) * self.e

    def auroc(
        self, ranks: Float[np.ndarray, " row"], entity_idx: Int[np.ndarray, " row"]
    ) -> Interval:
        """.5 + b with its interval."""
        scores, weights = self.scores(ranks[None])[0], self.e**2
        return jackknife_ratio(0.5 * weights - scores, weights, entity_idx)


def _effects(rows: _Rows) -> dict[str, Any]:
    """Counts, and the effect sizes that are not adjusted."""
    lost = rows.is_forgotten > 0
    groups = (lost, ~lost)
    taus = [_tau(rows.k_st[group], rows.ceiling[group]) for group in groups]
    ceilings = [float(rows.ceiling[g].mean()) if g.any() else np.nan for g in groups]
    return {
        "n_at_risk": len(lost),
        "n_forgotten": int(lost.sum()),
        "n_entities": len(np.unique(rows.entity_idx)),
        "n_forgotten_entities": len(np.unique(rows.entity_idx[lost])),
        "k_own": float(rows.k_own.mean(0).min()) if len(lost) else np.nan,
        "tau_forgotten": taus[0],
        "tau_retained": taus[1],
        "tau_difference": jackknife_difference(
            rows.k_st, rows.ceiling, rows.entity_idx, is_first=lost
        ),
        "ceiling_forgotten": ceilings[0],
        "ceiling_retained": ceilings[1],
    }


def _tau(k_st: Float[np.ndarray, " row"], ceiling: Float[np.ndarray, " row"]) -> float:
    total = float(ceiling.sum())
    return 1 - float(k_st.sum()) / total if total > 0 else np.nan


def _dummies(labels: np.ndarray) -> Float[np.ndarray, "row label"]:
    """One column for each different label."""
    _, place = np.unique(labels, return_inverse=True)
    return (place[:, None] == np.arange(place.max(initial=-1) + 1)).astype(float)
