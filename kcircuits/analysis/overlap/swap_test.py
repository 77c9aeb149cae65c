"""Tests of change that swap the epoch labels of prompts.

Were the two epochs the same circuit seen through noise, each prompt's scores could as well carry
the other epoch's label. So T = c - k_st is compared with T* under swaps, prompt by prompt.

- One fact: z = T / sd(T*). A few prompts allow few swaps, so p comes from the z* of all facts of
  the step pooled; Benjamini-Hochberg within the step, Holm over the steps of a track.
- A stratum: facts that share a template share its noise, so each template swaps in all facts of
  the stratum at once. Over the steps of a track z* is pooled and p adjusted by Holm likewise.

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
    """Joint swap test of a stratum at one step of a track.

    Attributes:
        p: Share of the pooled z* that reach z, itself counted once; Holm's over the steps.
        detectable: The sum of T that would have sufficed for p <= .05.
        n_steps: Steps that were tested together.
    """

    p: float
    detectable: float
    n_steps: int = 1


def swap_test(statistics: Sequence[Float[np.ndarray, " relabelling"]]) -> StepTest:
    """Tests each fact of a step.

    Args:
        statistics: T of each fact under each relabelling, the observed one first.
    """
    spread, pool, z, p = _pooled(statistics)
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

    Args:
        statistics: T of each fact under each relabelling, as ``relabellings`` lists them.
        templates: The template of each prompt of each fact.
        seed: Of the swaps drawn.
    """
    return joint_step_tests([joint_totals(statistics, templates, seed=seed)])[0]


def joint_step_tests(totals: Sequence[Float[np.ndarray, " swap"]]) -> list[JointTest]:
    """Tests the sums of T of one stratum at the steps of a track; p is Holm's over the steps.

    A few templates allow few swaps: with 8 of them no p is below 1/128, and over 8 steps Holm
    could never find one. So, as among the facts of a step, p comes from the z* of all steps pooled.

    Args:
        totals: Of each step, see ``joint_totals``.
    """
    spread, pool, _, p = _pooled(totals)
    needed = _critical(pool, int(ALPHA / len(totals) * (1 + len(pool)) + 1e-9) - 1)
    return [
        JointTest(
            p=adjusted,
            detectable=needed * scale if scale > 0 else np.inf,
            n_steps=len(totals),
        )
        for adjusted, scale in zip(holm(p).tolist(), spread.tolist(), strict=True)
    ]


def joint_totals(
    statistics: Sequence[Float[np.ndarray, " relabelling"]],
    templates: Sequence[Sequence[Hashable]],
    *,
    seed: int = 0,
    n_sampled: int = N_JOINT_SWAPS,
) -> Float[np.ndarray, " swap"]:
    """Sums over facts under swaps of each template in all facts at once; the observed one first.

    With at most 10 templates in all, every swap is enumerated; else ``n_sampled`` are drawn. Facts
    with more than 10 prompts have no table of all swaps: then prompts swap by position, in all
    facts.

    Args:
        statistics: A number of each fact under each relabelling, as ``relabellings`` lists them.
        templates: The template of each prompt of each fact.
        seed: Of the swaps drawn.
        n_sampled: How many are drawn.
    """
    if max(map(len, templates)) > ALL_RELABELLINGS_UP_TO:
        n_shared = min(map(len, statistics))
        return np.sum([values[:n_shared] for values in statistics], axis=0)
    index = {name: i for i, name in enumerate(dict.fromkeys(chain(*templates)))}
    swaps = relabellings(len(index), seed=seed, n_sampled=n_sampled)
    totals = np.zeros(len(swaps))
    for values, names in zip(statistics, templates, strict=True):
        own = swaps[:, [index[name] for name in names]]
        own = own ^ own[:, -1:]  # of a swap and its complement the one that is listed
        totals += values[own @ (1 << np.arange(len(names)))]
    return totals


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


def _pooled(
    statistics: Sequence[Float[np.ndarray, " relabelling"]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each test sd(T*), z and p, and between them the sorted z* of all tests."""
    spread = np.array([values[1:].std() if len(values) > 1 else 0.0 for values in statistics])
    scale = np.where(spread > 0, spread, np.inf)
    pool = np.sort(np.concatenate([t[1:] / s for t, s in zip(statistics, scale, strict=True)]))
    z = np.array([values[0] for values in statistics]) / scale
    return spread, pool, z, (1 + _n_reaching(pool, z)) / (1 + len(pool))


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
