"""Tests of change that swap the epoch labels of prompts.

Were the two epochs the same circuit seen through noise, each prompt's scores could as well carry
the other epoch's label. So T = c - k_st is compared with T* under swaps, prompt by prompt.

- One fact: z = T / sd(T*). A few prompts allow few swaps, so p comes from the z* of all facts of
  the step pooled; Benjamini-Hochberg within the step, Holm over the steps of a track.
- A stratum: facts that share a template share its noise, so each template swaps in all facts of
  the stratum at once.

Source: Benjamini and Hochberg 1995; Holm 1979; permutation p-values count the observed labelling
(Phipson and Smyth 2010).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Float, Int

from kcircuits.analysis.overlap.halves import ALL_RELABELLINGS_UP_TO, relabellings

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
    detectable = np.where(spread > 0, needed * np.where(spread > 0, spread, 1), np.inf)
    return StepTest(z=z, spread=spread, p=p, q=q, detectable=detectable)


def joint_swap_test(
    statistics: Sequence[Float[np.ndarray, " relabelling"]],
    templates: Sequence[Sequence[Hashable]],
    *,
    seed: int = 0,
) -> JointTest:
    """Tests the sum of T over the facts of a stratum, swapping each template in all facts at once.

    With at most 10 templates in all, every swap is enumerated; else 2,000 are drawn. Facts with
    more than 10 prompts have no table of all swaps: then prompts swap by position, in all facts.

    Args:
        statistics: T of each fact under each relabelling, as ``relabellings`` lists them.
        templates: The template of each prompt of each fact.
        seed: Of the swaps drawn.
    """
    if max(map(len, templates)) > ALL_RELABELLINGS_UP_TO:
        n_shared = min(map(len, statistics))
        totals = np.sum([values[:n_shared] for values in statistics], axis=0)
    else:
        index = {name: i for i, name in enumerate(dict.fromkeys(chain(*templates)))}
        swaps = relabellings(len(index), seed=seed, n_sampled=N_JOINT_SWAPS)
        totals = np.zeros(len(swaps))
        for values, names in zip(statistics, templates, strict=True):
            own = swaps[:, [index[name] for name in names]]
            own = own ^ own[:, -1:]  # of a swap and its complement the one that is listed
            totals += values[own @ (1 << np.arange(len(names)))]
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
    """Adjusts p for the family-wise error over the steps of a track."""
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
