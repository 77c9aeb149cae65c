"""Turnover before forgetting: does a fact whose circuit changes go on to be forgotten?

A fact is *at risk* in the step from t-1 to t if it is known at both; it is *forgotten* if it is not
known at t+1. Its turnover T = c - k_st of the step t-1 -> t comes before the forgetting t -> t+1.
Facts at risk in the same step of the same run are compared with each other, those of one cell
(stratum and exposure) only: what drifts over epochs drifts in each stratum in its own way.

- T enters as its midrank among the facts it is compared with, divided by their number, so the mean
  difference between forgotten and retained facts is AUROC - .5: the chance that a fact about to be
  forgotten turns over more than one that is not, ties half (each set of n1 forgotten and n0
  retained facts weighs n1 n0 / (n1 + n0), as van Elteren has it).
- *Adjusted* for the margins, midranks in the step: b = <e, R> / <e, e>, e being what is left of
  "forgotten" after regression on the sets of facts compared and on the margins. A fact known by a
  hair is forgotten more easily and may have a noisier circuit; that alone is no link.
- *Test*: knowledge trajectories (known, margins, forgotten) are exchanged between entities as in
  ``exchange``. The statistic is z = sum of s_i / sqrt(sum of s_i^2), s_i the sum over the
  fact-steps of entity i of e times the residual of R: studentised by entity, so that the null,
  which also takes T from steps at which a fact was not known, need not have their spread. (Within
  a cell and step an exchange gives every fact the same expected rank, so the null is centred at 0
  however those steps differ.) Two-sided; p counts the observed pairing.
- *Interval*: delete-one-entity jackknife, e worked out anew each time.

Source: our own choice; ranks within strata: van Elteren 1960; studentised permutation: DiCiccio and
Romano 2017; p: Phipson and Smyth 2010.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kcircuits.analysis.link.exchange import exchange_of
from kcircuits.analysis.link.risk_rows import RiskRows, TurnoverRanks, dummies, rows_at_risk
from kcircuits.analysis.link.trajectories import Trajectories
from kcircuits.analysis.overlap.jackknife import (
    Interval,
    jackknife_difference,
    jackknife_interval,
)

# Simulated without a link: with 11 forgotten on average p <= .05 in 6% of 400 repeats.
MIN_EVENTS = 10
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
        auroc: Of T, forgotten against retained, within steps and cells, adjusted for the margins;
            .5 is no link. NaN bounds with fewer than 10 entities.
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
    rows = rows_at_risk(runs)
    in_steps, in_cells = (TurnoverRanks.of(runs, in_cells=which) for which in (False, True))
    ranks = in_cells.observed()
    adjusted = _Contrast.of(rows.is_forgotten, dummies(rows.cell_step), rows.margins)
    exchange = exchange_of(runs)
    rng = np.random.default_rng(seed)
    chunks = [min(_CHUNK, n_permutations - i) for i in range(0, n_permutations, _CHUNK)]
    drawn = (in_cells.paired(exchange.draw(n, rng)) for n in chunks)
    null = np.concatenate([adjusted.z(ranked, rows.entity_idx) for ranked in drawn])
    z = float(adjusted.z(ranks[None], rows.entity_idx)[0])
    n_reaching = int((np.abs(null) >= abs(z) - _ROUNDING).sum())
    return ForgettingTest(
        **_effects(rows),
        auroc=_auroc(rows, ranks, rows.cell_step, rows.margins),
        auroc_raw=_auroc(rows, in_steps.observed(), rows.step, rows.margins[:, :0]),
        z=z,
        null=null,
        p=(1 + n_reaching) / (1 + n_permutations) if adjusted.is_there else np.nan,
        n_distinct=exchange.n_distinct([np.asarray(run.is_at_risk.any(1)) for run in runs]),
    )


@dataclass(frozen=True, kw_only=True)
class _Contrast:
    """Forgotten against retained facts of the same group, with margins held constant.

    Attributes:
        members: 1 where a row is of a group: those that are compared with each other.
        base: Orthonormal columns that span the margins within groups.
        e: What is left of "forgotten".
    """

    members: Float[np.ndarray, "row group"]
    base: Float[np.ndarray, "row measure"]
    e: Float[np.ndarray, " row"]

    @classmethod
    def of(
        cls,
        is_forgotten: Float[np.ndarray, " row"],
        members: Float[np.ndarray, "row group"],
        margins: Float[np.ndarray, "row measure"],
    ) -> "_Contrast":
        """The contrast; margins that say the same count once, rows of no group not at all."""
        left, size, _ = np.linalg.svd(_centred(margins.T, members).T, full_matrices=False)
        base = left[:, size > _ROUNDING]
        e = _centred(is_forgotten[None], members)[0]
        e = e - base @ (base.T @ e)
        return cls(members=members, base=base, e=np.where(np.abs(e) > _ROUNDING, e, 0))

    @property
    def is_there(self) -> bool:
        """Something is left: forgotten and retained facts meet in some group."""
        return bool(self.e @ self.e > _ROUNDING)

    def auroc(self, ranks: Float[np.ndarray, " row"]) -> float:
        """.5 + b; NaN where nothing is left."""
        return 0.5 + float(self.e @ ranks / (self.e @ self.e)) if self.is_there else np.nan

    def z(
        self, ranks: Float[np.ndarray, "draw row"], entity_idx: Int[np.ndarray, " row"]
    ) -> Float[np.ndarray, " draw"]:
        """The studentised statistic; 0 where all turnovers are equal."""
        rest = _centred(ranks, self.members)
        rest -= (rest @ self.base) @ self.base.T
        by_entity = (rest * self.e) @ dummies(entity_idx)
        spread = np.sqrt((by_entity**2).sum(1))
        is_flat = spread <= _ROUNDING
        return np.where(is_flat, 0, by_entity.sum(1) / np.where(is_flat, 1, spread))


def _auroc(
    rows: RiskRows,
    ranks: Float[np.ndarray, " row"],
    group: Int[np.ndarray, " row"],
    margins: Float[np.ndarray, "row measure"],
) -> Interval:
    """.5 + b with its jackknife interval: all is worked out anew without each entity but ranks.

    Of few forgotten or few retained fact-steps there is no interval: a single entity decides.
    """
    members = dummies(group)
    n_forgotten = int(rows.is_forgotten.sum())
    if min(n_forgotten, len(rows.is_forgotten) - n_forgotten) < MIN_EVENTS:
        whole = _Contrast.of(rows.is_forgotten, members, margins).auroc(ranks)
        return jackknife_interval(whole, np.full(len(np.unique(rows.entity_idx)), np.nan))
    estimates = [
        _Contrast.of(rows.is_forgotten, members * kept[:, None], margins).auroc(ranks)
        for kept in (
            rows.entity_idx != entity for entity in range(-1, rows.entity_idx.max(initial=-1) + 1)
        )
    ]
    return jackknife_interval(estimates[0], np.array(estimates[1:]))


def _centred(
    values: Float[np.ndarray, "draw row"], members: Float[np.ndarray, "row group"]
) -> Float[np.ndarray, "draw row"]:
    """Values minus the mean of their group; 0 for rows of no group."""
    means = (values @ members) / np.maximum(members.sum(0), 1)
    return values * members.sum(1) - means @ members.T


def _effects(rows: RiskRows) -> dict[str, Any]:
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
