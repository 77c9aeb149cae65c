"""Turnover by what happened to the knowledge of a fact in the same step: descriptive.

The circuit of a fact that is not known is not the circuit *of that fact*: it is what the model does
with the prompt. So the turnover of a fact that was just acquired compares such a thing with a
circuit of the fact, and is neither evidence of a link nor comparable with that of a retained fact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from kcircuits.analysis.link.trajectories import Trajectories
from kcircuits.analysis.overlap.jackknife import Interval, jackknife_ratio
from kcircuits.analysis.overlap.turnover import MIN_CEILING

# What a step did to a fact. ``lapsed``: known at neither end, but at an epoch before.
CHANGES = ("acquired", "retained", "forgotten", "lapsed", "never known")


@dataclass(frozen=True, kw_only=True)
class StepTurnover:
    """Turnover of some fact-steps together.

    Attributes:
        n_steps: Fact-steps.
        n_entities: Entities that they are about.
        ceiling: Mean c; NaN without any.
        turnover: Tau = 1 - sum k_st / sum c with its jackknife interval over entities; NaN where
            the mean of k_own at an end is below .2.
    """

    n_steps: int
    n_entities: int
    ceiling: float
    turnover: Interval


def step_changes(is_known: Bool[np.ndarray, "fact epoch"]) -> Int[np.ndarray, "fact step"]:
    """What each step did to each fact: an index into ``CHANGES``."""
    before, after = is_known[:, :-1], is_known[:, 1:]
    was_known = np.logical_or.accumulate(is_known, axis=1)[:, :-1]
    return np.select([after & ~before, after & before, before & ~after, was_known], [0, 1, 2, 3], 4)


def mean_turnover(
    runs: Sequence[Trajectories], chosen: Sequence[Bool[np.ndarray, "fact step"]]
) -> StepTurnover:
    """Turnover of the fact-steps chosen in each run, all together.

    Args:
        runs: Training runs; entities of one name are the same.
        chosen: Of each run.
    """
    parts: list[np.ndarray] = []
    entities: list[np.ndarray] = []
    for run, which in zip(runs, chosen, strict=True):
        fact, step = np.nonzero(which)
        k_own = run.k_own[fact, step], run.k_own[fact, step + 1]
        parts.append(np.stack([run.k_st[fact, step], run.ceiling[fact, step], *k_own]))
        entities.append(np.array(run.entities, dtype=object)[fact])
    k_st, ceiling, *k_own = np.concatenate(parts, axis=1)
    names = np.concatenate(entities)
    n_entities = len(np.unique(names))
    has_ceiling = len(k_st) > 0 and min(float(k.mean()) for k in k_own) >= MIN_CEILING
    nan = np.nan
    none = Interval(
        estimate=nan, low=nan, high=nan, standard_error=nan, quantile=nan, n_entities=n_entities
    )
    return StepTurnover(
        n_steps=len(k_st),
        n_entities=n_entities,
        ceiling=float(ceiling.mean()) if len(ceiling) else nan,
        turnover=jackknife_ratio(k_st, ceiling, names) if has_ceiling else none,
    )
