"""Tests of change that swap the epoch labels of prompts.

Were the two epochs the same circuit seen through noise, each prompt's scores could as well carry
the other epoch's label. So T = c - k_st is compared with T* under swaps, prompt by prompt.

- One fact: z = T / sd(T*). A few prompts allow few swaps, so p comes from the z* of all facts of
  the step pooled; Benjamini-Hochberg within the step, Holm over the steps of a track.
- A stratum: facts that share templates share the templates' noise, so their prompts swap jointly,
  position by position; facts of other templates swap independently of them.

Source: Benjamini and Hochberg 1995; Holm 1979; permutation p-values count the observed labelling
(Phipson and Smyth 2010).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

ALPHA = 0.05
N_JOINT_SWAPS = 2_000


@dataclass(frozen=True, kw_only=True)
class StepTest:
    """Swap tests of the facts of one step.

    Attributes:
        z: T / sd(T*) of each fact.
        spread: sd(T*) of each fact, in units of k.
        p: Share of the pooled z* that reach z, itself counted once.
        q: p adjusted by Benjamini-Hochberg.
        detectable: The T that would have sufficed for q <= .05, per fact; infinite where too few
            swaps exist.
    """

    z: Float[np.ndarray, " fact"]
    spread: Float[np.ndarray, " fact"]
    p: Float[np.ndarray, " fact"]
    q: Float[np.ndarray, " fact"]
    detectable: Float[np.ndarray, " fact"]


@dataclass(frozen=True, kw_only=True)
class JointTest:
    """Joint swap test of a stratum: its p, and the sum of T that would have sufficed."""

    p: float
    detectable: float


def swap_test(statistics: Sequence[Float[np.ndarray, " relabelling"]]) -> StepTest:
    """Tests each fact of a step.

    Args:
        statistics: T of each fact under each relabelling, the observed one first.
    """
    spread = np.array([values[1:].std() for values in statistics])
    scale = np.where(spread > 0, spread, np.inf)
    pool = np.sort(np.concatenate([t[1:] / s for t, s in zip(statistics, scale, strict=True)]))
    z = np.array([values[0] for values in statistics]) / scale
    p = (1 + _n_reaching(pool, z)) / (1 + len(pool))
    q = benjamini_hochberg(p)
    n_found = int((q <= ALPHA).sum())
    # one more fact is found if its p reaches the next step of Benjamini-Hochberg
    level = ALPHA * min(n_found + 1, len(p)) / len(p)
    needed = _critical(pool, int(level * (1 + len(pool)) + 1e-9) - 1)
    return StepTest(z=z, spread=spread, p=p, q=q, detectable=needed * spread)


def joint_swap_test(
    statistics: Sequence[Float[np.ndarray, " relabelling"]],
    templates: Sequence[Hashable],
    *,
    seed: int = 0,
) -> JointTest:
    """Tests the sum of T over the facts of a stratum.

    Args:
        statistics: T of each fact under each relabelling, the observed one first.
        templates: What each fact shares with others: facts with an equal value swap together, and
            have the same number of prompts.
        seed: For the 2,000 joint swaps drawn where there is more than one group; a single group
            is enumerated.
    """
    groups: dict[Hashable, Float[np.ndarray, " relabelling"]] = {}
    for values, template in zip(statistics, templates, strict=True):
        groups[template] = groups.get(template, 0) + values
    sums = list(groups.values())
    if len(sums) == 1:
        totals = sums[0]
    else:
        rng = np.random.default_rng(seed)
        drawn = [values[rng.integers(len(values), size=N_JOINT_SWAPS)] for values in sums]
        totals = np.concatenate([[sum(values[0] for values in sums)], np.sum(drawn, axis=0)])
    pool = np.sort(totals)
    p = _n_reaching(pool, totals[:1])[0] / len(pool)
    return JointTest(p=float(p), detectable=_critical(pool, int(ALPHA * len(pool) + 1e-9) - 1))


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """q-values: p adjusted for the false discovery rate."""
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return q


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p adjusted for the family-wise error over the steps of a track."""
    order = np.argsort(p)
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


def _n_reaching(
    pool: Float[np.ndarray, " value"], at: Float[np.ndarray, " test"]
) -> Int[np.ndarray, " test"]:
    """How many values of the sorted pool reach each value, up to rounding."""
    return len(pool) - np.searchsorted(pool, at - 1e-9 * np.maximum(np.abs(at), 1), side="left")


def _critical(pool: Float[np.ndarray, " value"], n_allowed: int) -> float:
    """The value that at most ``n_allowed`` of the sorted pool exceed; infinite if below 0."""
    if n_allowed < 0:
        return np.inf
    return float(pool[-1 - n_allowed]) if n_allowed < len(pool) else -np.inf
