"""What training seeds agree on: means over runs that differ in their seed alone.

A training seed moves everything in a run at once, so runs are the unit, few as they are: Student's
t with n - 1 degrees of freedom. Strategies are compared seed by seed, in which the order of
documents and the draws of new weights are the same.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kcircuits.analysis.overlap.jackknife import student_quantile

# Training seeds from which an interval is given: with two, t is 12.7 and says nothing.
MIN_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class SeedMean:
    """A mean over training seeds with its 95% interval.

    Attributes:
        mean: Over the seeds that have a number; NaN without any.
        low: Lower end; NaN below ``MIN_SEEDS``.
        high: Upper end; likewise.
        n_seeds: Seeds that have a number.
    """

    mean: float
    low: float
    high: float
    n_seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is there and leaves out 0."""
        return bool(self.low > 0 or self.high < 0)


def seed_mean(values: Float[np.ndarray, " seed"]) -> SeedMean:
    """Mean and interval of one number per training seed; those without a number are left out."""
    kept = values[np.isfinite(values)]
    n_seeds, mean = len(kept), float(kept.mean()) if len(kept) else np.nan
    if n_seeds < MIN_SEEDS:
        return SeedMean(mean=mean, low=np.nan, high=np.nan, n_seeds=n_seeds)
    error = float(kept.std(ddof=1)) / np.sqrt(n_seeds)
    reach = student_quantile(0.975, n_seeds - 1) * error
    return SeedMean(mean=mean, low=mean - reach, high=mean + reach, n_seeds=n_seeds)
