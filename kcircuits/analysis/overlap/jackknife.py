"""Delete-one-entity jackknife of a ratio of sums.

Facts of one entity share their noise, so the entity is the unit that is left out.

Source: Efron and Stein 1981; the ratio and the clusters are our choice.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

MIN_ENTITIES = 10
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A two-sided interval around 1 - sum numerator / sum denominator."""

    estimate: float
    low: float
    high: float
    standard_error: float
    quantile: float
    n_entities: int


def jackknife_ratio(
    numerator: Float[np.ndarray, " fact"],
    denominator: Float[np.ndarray, " fact"],
    entities: Shaped[np.ndarray, " fact"],
) -> Interval:
    """95% interval of 1 - sum numerator / sum denominator, Student's t with G - 1 degrees.

    Args:
        numerator: k_st of each fact.
        denominator: c of each fact.
        entities: The entity of each fact; G different ones.

    Returns:
        The interval; NaN bounds with fewer than 10 entities.
    """
    _, group = np.unique(entities, return_inverse=True)
    tops, bottoms = numerator.sum(), denominator.sum()
    estimate = float(1 - tops / bottoms) if bottoms > 0 else np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        left_out = 1 - (tops - np.bincount(group, numerator)) / (
            bottoms - np.bincount(group, denominator)
        )
    return jackknife_interval(estimate, left_out)


def jackknife_difference(
    numerator: Float[np.ndarray, " fact"],
    denominator: Float[np.ndarray, " fact"],
    entities: Shaped[np.ndarray, " fact"],
    *,
    is_first: Bool[np.ndarray, " fact"],
) -> Interval:
    """As ``jackknife_ratio``, for the ratio of one group of facts minus that of the others.

    An entity with facts in both groups is left out of both at once.
    """
    _, group = np.unique(entities, return_inverse=True)
    n_entities = int(group.max(initial=-1)) + 1
    estimate, left_out = 0.0, np.zeros(n_entities)
    for sign, chosen in ((1, is_first), (-1, ~is_first)):
        top, bottom = (
            np.bincount(group, values * chosen, minlength=n_entities)
            for values in (numerator, denominator)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            estimate += sign * float(1 - np.divide(top.sum(), bottom.sum()))
            left_out += sign * (1 - (top.sum() - top) / (bottom.sum() - bottom))
    return jackknife_interval(estimate, left_out)


def jackknife_interval(estimate: float, left_out: Float[np.ndarray, " entity"]) -> Interval:
    """95% interval from the estimates without each entity, Student's t with G - 1 degrees.

    Returns:
        The interval; NaN bounds with fewer than 10 entities, or where one of them carries it all.
    """
    n_entities = len(left_out)
    if n_entities < MIN_ENTITIES or not np.isfinite([estimate, *left_out]).all():
        nan = np.nan
        return Interval(
            estimate=estimate if np.isfinite(estimate) else nan, low=nan, high=nan,
            standard_error=nan, quantile=nan, n_entities=n_entities,
        )  # fmt: skip
    variance = (n_entities - 1) / n_entities * ((left_out - left_out.mean()) ** 2).sum()
    error = float(np.sqrt(variance))
    quantile = student_quantile((1 + CONFIDENCE) / 2, n_entities - 1)
    return Interval(
        estimate=estimate,
        low=estimate - quantile * error,
        high=estimate + quantile * error,
        standard_error=error,
        quantile=quantile,
        n_entities=n_entities,
    )


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t above its median, to six digits.

    With T = sqrt(nu) tan(angle) the angle has density cos(angle)^(nu - 1); summing that takes
    less time than importing scipy.
    """
    angle = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angle) ** (degrees - 1)
    share = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return float(
        np.sqrt(degrees) * np.tan(np.interp(2 * probability - 1, share / share[-1], angle))
    )
