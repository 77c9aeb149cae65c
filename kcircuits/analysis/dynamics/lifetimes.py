"""How long knowledge lasts: the discrete life table of windows.

A window is a run of epochs in which a fact is known. It ends by forgetting, or is cut off by the
end of training (right-censored). Windows that begin at the first epoch began before anyone looked
(left-truncated) and are left out.

With d_k windows forgotten after exactly k epochs, and n_k that lasted k epochs and were looked at
once more, the hazard is h_k = d_k / n_k and the survival S_k the product of 1 - h_j for j <= k.

Source: METHODS.md section 7; Singer and Willett 1993 (discrete-time survival).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.analysis.dynamics.draws import entity_draws, interval_ends
from kcircuits.core.bootstrap import N_DRAWS


@dataclass(frozen=True, kw_only=True)
class LifeTable:
    """Survival of knowledge, by epochs since it was acquired.

    Attributes:
        n_windows: Windows that began within the run.
        at_risk: n_k, for k = 1, 2, ...
        forgotten: d_k.
        hazard: h_k; NaN where no window was at risk.
        survival: S_k, to the last k at which a window was at risk, then NaN.
        low: Lower ends of 95% intervals of S_k over entities; NaN with fewer than two.
        high: Upper ends.
    """

    n_windows: int
    at_risk: Int[np.ndarray, " k"]
    forgotten: Int[np.ndarray, " k"]
    hazard: Float[np.ndarray, " k"]
    survival: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]


def life_table(
    is_known: Bool[np.ndarray, "fact epoch"],
    entities: Shaped[np.ndarray, " fact"],
    *,
    seed: int = 0,
    n_draws: int = N_DRAWS,
) -> LifeTable:
    """The life table of all windows of all facts.

    Args:
        is_known: y_t.
        entities: Entity of each fact, drawn whole in the bootstrap.
        seed: Of the bootstrap.
        n_draws: Of the bootstrap.
    """
    names, entity_idx = np.unique(entities, return_inverse=True)
    fact, length, is_ended = _windows(is_known)
    n_k = is_known.shape[1] - 1
    shape = (len(names), n_k)
    forgotten = np.zeros(shape, dtype=np.int64)
    np.add.at(forgotten, (entity_idx[fact[is_ended]], length[is_ended] - 1), 1)
    # A window is at risk at each length that it lasted and after which the fact was probed again.
    looks = length - ~is_ended
    counts = np.zeros((len(names), n_k + 1), dtype=np.int64)
    np.add.at(counts, (entity_idx[fact], looks), 1)
    at_risk = counts[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
    low, high = np.full(n_k, np.nan), np.full(n_k, np.nan)
    if len(names) > 1:
        drawn = entity_draws(len(names), seed=seed, n_draws=n_draws)
        curves = _survival(drawn @ forgotten.astype(float), drawn @ at_risk.astype(float))
        for k in range(n_k):
            low[k], high[k] = interval_ends(curves[:, k], ())
    d, n = forgotten.sum(0), at_risk.sum(0)
    hazard = np.divide(d, n, out=np.full(n_k, np.nan), where=n > 0)
    survival = _survival(d[None], n[None])[0]
    return LifeTable(
        n_windows=len(length), at_risk=n, forgotten=d, hazard=hazard, survival=survival,
        low=low, high=high,
    )  # fmt: skip


def _windows(
    is_known: Bool[np.ndarray, "fact epoch"],
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Fact, length and whether forgotten, of each window that began within the run."""
    steps = np.diff(np.pad(is_known.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    fact, start = np.nonzero(steps > 0)
    _, end = np.nonzero(steps < 0)  # row by row, so the n-th end is that of the n-th start
    inside = start > 0
    fact, start, end = fact[inside], start[inside], end[inside]
    return fact, end - start, end < is_known.shape[1]


def _survival(
    forgotten: Shaped[np.ndarray, "draw k"], at_risk: Shaped[np.ndarray, "draw k"]
) -> Float[np.ndarray, "draw k"]:
    alive = np.divide(
        at_risk - forgotten, at_risk, out=np.full(at_risk.shape, np.nan), where=at_risk > 0
    )
    return np.cumprod(alive, axis=1)
