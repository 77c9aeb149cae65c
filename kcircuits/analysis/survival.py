"""How long things last: spells, and their discrete life table.

A spell is a run of epochs at which something is there: a fact known, an edge in a circuit. It ends
where it is seen to be gone, or is cut off where nobody looks any more (right-censored). A spell
that is there when one begins to look began earlier (left-truncated) and is left out.

With d_k spells that ended after exactly k epochs, and n_k that lasted k epochs and were looked at
once more, the hazard is h_k = d_k / n_k and the survival S_k the product of 1 - h_j for j <= k.

Source: METHODS.md sections 6 and 7; Singer and Willett 1993 (discrete-time survival).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.analysis.dynamics.draws import entity_draws, entity_sums, interval_ends
from kcircuits.core.bootstrap import N_DRAWS


@dataclass(frozen=True, kw_only=True)
class SpellCounts:
    """Spells of each owner (a fact, say) that began while someone looked; they add up.

    Attributes:
        n_spells: How many.
        ended: d_k, for k = 1, 2, ...
        at_risk: n_k.
    """

    n_spells: Int[np.ndarray, " owner"]
    ended: Int[np.ndarray, "owner k"]
    at_risk: Int[np.ndarray, "owner k"]


@dataclass(frozen=True, kw_only=True)
class LifeTable:
    """Hazard and survival by epochs since the beginning, with 95% intervals over entities.

    Attributes:
        n_spells: Spells that began while someone looked.
        at_risk: n_k, for k = 1, 2, ...
        ended: d_k.
        hazard: h_k; NaN where no spell was at risk.
        hazard_low: Lower ends of the intervals of h_k; NaN with fewer than two entities.
        hazard_high: Upper ends.
        survival: S_k, to the last k at which a spell was at risk, then NaN.
        low: Lower ends of the intervals of S_k.
        high: Upper ends.
    """

    n_spells: int
    at_risk: Int[np.ndarray, " k"]
    ended: Int[np.ndarray, " k"]
    hazard: Float[np.ndarray, " k"]
    hazard_low: Float[np.ndarray, " k"]
    hazard_high: Float[np.ndarray, " k"]
    survival: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]


def count_spells(
    is_there: Bool[np.ndarray, "series epoch"],
    owner: Int[np.ndarray, " series"],
    n_owners: int,
    is_observed: Bool[np.ndarray, "series epoch"] | None = None,
) -> SpellCounts:
    """Counts the spells of many series.

    Args:
        is_there: Whether it is there.
        owner: Owner of each series, from 0.
        n_owners: How many there are.
        is_observed: Whether anyone looks; default always. A spell counts if it was looked for,
            and not there, right before it.
    """
    observed = np.ones_like(is_there) if is_observed is None else is_observed
    n_k = max(is_there.shape[1] - 1, 0)
    steps = np.diff(np.pad((is_there & observed).astype(np.int8), ((0, 0), (1, 1))), axis=1)
    series, start = np.nonzero(steps > 0)
    _, end = np.nonzero(steps < 0)  # row by row, so the n-th end is that of the n-th start
    looked = np.pad(observed, ((0, 0), (1, 1)))  # nobody looks before the first, after the last
    began = looked[series, start]
    series, start, end = series[began], start[began], end[began]
    is_ended, length = looked[series, end + 1], end - start
    who = owner[series]
    ended = np.zeros((n_owners, n_k), dtype=np.int64)
    np.add.at(ended, (who[is_ended], length[is_ended] - 1), 1)
    # A spell is at risk at each length that it lasted and after which it was looked at again.
    looks = np.zeros((n_owners, n_k + 1), dtype=np.int64)
    np.add.at(looks, (who, length - ~is_ended), 1)
    return SpellCounts(
        n_spells=np.bincount(who, minlength=n_owners),
        ended=ended,
        at_risk=looks[:, ::-1].cumsum(1)[:, ::-1][:, 1:],
    )


def life_table(
    counts: SpellCounts,
    entities: Shaped[np.ndarray, " owner"],
    *,
    seed: int = 0,
    n_draws: int = N_DRAWS,
) -> LifeTable:
    """The life table of the spells of all owners.

    Args:
        counts: The spells of each owner.
        entities: Entity of each owner, drawn whole in the bootstrap.
        seed: Of the bootstrap.
        n_draws: Of the bootstrap.
    """
    ended, at_risk = (entity_sums(part, entities) for part in (counts.ended, counts.at_risk))
    d, n = ended.sum(0).astype(np.int64), at_risk.sum(0).astype(np.int64)
    hazard = _hazard(d[None], n[None])[0]
    curves: list[np.ndarray] = []
    if len(ended) > 1:
        drawn = entity_draws(len(ended), seed=seed, n_draws=n_draws)
        hazards = _hazard(drawn @ ended, drawn @ at_risk)
        curves = [hazards, np.cumprod(1 - hazards, axis=1)]
    ends = [_ends(curves[i] if curves else None, len(n)) for i in range(2)]
    return LifeTable(
        n_spells=int(counts.n_spells.sum()), at_risk=n, ended=d,
        hazard=hazard, hazard_low=ends[0][0], hazard_high=ends[0][1],
        survival=np.cumprod(1 - hazard), low=ends[1][0], high=ends[1][1],
    )  # fmt: skip


def _hazard(
    ended: Shaped[np.ndarray, "draw k"], at_risk: Shaped[np.ndarray, "draw k"]
) -> Float[np.ndarray, "draw k"]:
    return np.divide(ended, at_risk, out=np.full(at_risk.shape, np.nan), where=at_risk > 0)


def _ends(
    drawn: Float[np.ndarray, "draw k"] | None, n_k: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Interval ends of each k by itself: a draw may have spells at one k and none at another."""
    low, high = np.full(n_k, np.nan), np.full(n_k, np.nan)
    if drawn is not None:
        for k in range(n_k):
            low[k], high[k] = interval_ends(drawn[:, k], ())
    return low, high
