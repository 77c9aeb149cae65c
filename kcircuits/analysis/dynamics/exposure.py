"""What an exposure does to a fact, and how much of it is left later.

For a fact exposed in the training before some epochs, with pre the epoch before its first exposure,
t_LAM the epoch of the largest log-probability from its last exposure on (the local acquisition
maximum), and k epochs more:

    effectivity      = l(t_LAM) - l(the epoch before the last exposure)
    retainability(k) = [l(t_LAM + k) - l(pre)] / [l(t_LAM) - l(pre)]

Retainability is undefined below a gain of .5 nat, and given as a ratio of sums over facts. Where
every epoch exposes the fact again, nothing is forgotten undisturbed: t_LAM is then the maximum over
all epochs after the first exposure, and the number is called retention under re-exposure.

Source: Chang et al. 2024, arXiv 2406.11813, section 4 (definitions); epochs for their steps, the
threshold, the ratio of sums and the case of re-exposure are METHODS.md section 7.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.analysis.dynamics.draws import ratio_interval

MIN_GAIN = 0.5  # nat
RETAINABILITY = "retainability"
RE_EXPOSED = "retention under re-exposure"


@dataclass(frozen=True, kw_only=True)
class FactExposure:
    """Effect of exposures on each fact; NaN for facts never exposed or without log-probability.

    Attributes:
        peak_idx: Place of t_LAM; -1 where there is none.
        effectivity: In nats.
        gain: l(t_LAM) - l(pre), in nats.
        kept: l(t_LAM + k) - l(pre) for k = 1, 2, ...; NaN beyond the last epoch.
        is_re_exposed: The last epoch exposed the fact again, so that nothing came after.
    """

    peak_idx: Int[np.ndarray, " fact"]
    effectivity: Float[np.ndarray, " fact"]
    gain: Float[np.ndarray, " fact"]
    kept: Float[np.ndarray, "fact k"]
    is_re_exposed: Bool[np.ndarray, " fact"]


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Retainability of a group of facts after k epochs.

    Attributes:
        name: ``retainability``, or ``retention under re-exposure``.
        k: Epochs after t_LAM.
        n_facts: Facts with a gain of .5 nat that were probed then.
        value: Ratio of sums; NaN without a fact.
        low: Lower end of its 95% interval over entities; NaN with fewer than two.
        high: Upper end.
    """

    name: str
    k: int
    n_facts: int
    value: float
    low: float
    high: float


def fact_exposure(
    logprob: Float[np.ndarray, "fact epoch"], is_exposed: Bool[np.ndarray, "fact epoch"]
) -> FactExposure:
    """Effect of the exposures of each fact.

    Args:
        logprob: l_t, in nats.
        is_exposed: Whether the training that led to the epoch contained the fact; never at the
            first epoch, which no training led to.
    """
    n_facts, n_epochs = logprob.shape
    is_exposed = is_exposed.copy()
    is_exposed[:, 0] = False
    there = np.asarray(is_exposed.any(1) & np.isfinite(logprob).all(1))
    first = is_exposed.argmax(1)
    last = n_epochs - 1 - is_exposed[:, ::-1].argmax(1)
    is_re_exposed = there & (last == n_epochs - 1)
    start = np.where(is_re_exposed, first, last)
    after = np.arange(n_epochs) >= start[:, None]
    peak = np.where(after & there[:, None], logprob, -np.inf).argmax(1)
    rows = np.arange(n_facts)
    pre = logprob[rows, np.maximum(first - 1, 0)]
    at_peak, before = logprob[rows, peak], logprob[rows, np.maximum(start - 1, 0)]
    later = peak[:, None] + np.arange(1, n_epochs)
    kept = logprob[rows[:, None], np.minimum(later, n_epochs - 1)] - pre[:, None]
    kept = np.where((later < n_epochs) & there[:, None], kept, np.nan)
    return FactExposure(
        peak_idx=np.where(there, peak, -1),
        effectivity=np.where(there, at_peak - before, np.nan),
        gain=np.where(there, at_peak - pre, np.nan),
        kept=kept,
        is_re_exposed=is_re_exposed,
    )


def retention(
    exposure: FactExposure, k: int, entities: Shaped[np.ndarray, " fact"], *, seed: int = 0
) -> list[Retention]:
    """Retainability(k) as a ratio of sums, facts that are exposed to the end apart.

    Returns:
        One result for each of the two kinds of facts that there are.
    """
    results: list[Retention] = []
    for name, kind in (
        (RETAINABILITY, ~exposure.is_re_exposed),
        (RE_EXPOSED, exposure.is_re_exposed),
    ):
        rows = kind & (exposure.peak_idx >= 0)
        if not rows.any():
            continue
        kept = exposure.kept[:, k - 1]
        rows = rows & (exposure.gain >= MIN_GAIN) & np.isfinite(kept)
        ratio = ratio_interval(kept[rows], exposure.gain[rows], entities[rows], seed=seed)
        value, low, high = map(float, ratio)
        results.append(
            Retention(name=name, k=k, n_facts=int(rows.sum()), value=value, low=low, high=high)
        )
    return results


def mean_effectivity(
    exposure: FactExposure, entities: Shaped[np.ndarray, " fact"], *, seed: int = 0
) -> tuple[float, float, float, int]:
    """Mean effectivity in nats, the ends of its 95% interval over entities, and its facts."""
    rows = np.isfinite(exposure.effectivity)
    values = exposure.effectivity[rows]
    mean, low, high = ratio_interval(values, np.ones(len(values)), entities[rows], seed=seed)
    return float(mean), float(low), float(high), int(rows.sum())
