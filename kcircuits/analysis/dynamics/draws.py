"""Intervals over entities, cheap for many facts and many runs.

The same numbers as ``core.bootstrap.bootstrap_ratio`` with entities as clusters: values are summed
by entity first, and the draws, which depend on the number of entities alone, are kept.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Shaped

from kcircuits.core.bootstrap import CONFIDENCE, N_DRAWS, draw_counts, percentiles

Numbers = Float[np.ndarray, "*size"]


def entity_sums(
    values: Float[np.ndarray, "fact *size"], entities: Shaped[np.ndarray, " fact"]
) -> Float[np.ndarray, "entity *size"]:
    """Sums over the facts of each entity, entities sorted by name."""
    names, idx = np.unique(entities, return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, idx, values)
    return sums


def drawn_ratios(
    numerator: Float[np.ndarray, "fact *size"],
    denominator: Float[np.ndarray, " fact"],
    entities: Shaped[np.ndarray, " fact"],
    *,
    seed: int,
    n_draws: int = N_DRAWS,
) -> Float[np.ndarray, "draw *size"] | None:
    """Sum numerator / sum denominator in each draw of entities; None with fewer than two.

    The denominator is not negative; draws in which it vanishes give NaN.
    """
    bottoms = entity_sums(denominator, entities)
    if len(bottoms) < 2:
        return None
    counts = _draws(len(bottoms), seed, n_draws)
    drawn = counts @ bottoms
    tops = np.tensordot(counts, entity_sums(numerator, entities), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return tops / drawn.reshape(-1, *[1] * (numerator.ndim - 1))


def ratio_interval(
    numerator: Float[np.ndarray, "fact *size"],
    denominator: Float[np.ndarray, " fact"],
    entities: Shaped[np.ndarray, " fact"],
    *,
    seed: int,
    n_draws: int = N_DRAWS,
) -> tuple[Numbers, Numbers, Numbers]:
    """Sum numerator / sum denominator over facts, and its 95% interval over entities."""
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = np.asarray(numerator.sum(0) / denominator.sum())
    drawn = drawn_ratios(numerator, denominator, entities, seed=seed, n_draws=n_draws)
    return (estimate, *interval_ends(drawn, estimate.shape))


def interval_ends(
    drawn: Float[np.ndarray, "draw *size"] | None, shape: tuple[int, ...]
) -> tuple[Numbers, Numbers]:
    """95% percentile ends; NaN without draws. A draw without a value counts against both ends."""
    if drawn is None:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    is_valid = np.asarray(np.isfinite(drawn.reshape(len(drawn), -1)).all(1))
    low, high = percentiles(drawn, CONFIDENCE, is_valid=is_valid)
    finite = np.isfinite(low) & np.isfinite(high)
    return np.where(finite, low, np.nan), np.where(finite, high, np.nan)


@lru_cache(maxsize=8)
def _draws(n_units: int, seed: int, n_draws: int) -> Float[np.ndarray, "draw unit"]:
    counts = draw_counts(n_units, seed=seed, n_draws=n_draws).astype(float)
    counts.flags.writeable = False  # kept, and given to many
    return counts


def entity_draws(n_units: int, *, seed: int, n_draws: int = N_DRAWS) -> Numbers:
    """How often each entity is drawn, [draw, entity]; read-only."""
    return _draws(n_units, seed, n_draws)
