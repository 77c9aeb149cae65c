"""Whether a series rises steadily, and whether loss and knowledge say the same.

Source: METHODS.md section 7; divergence of loss and knowledge is the question of Mousavi, Alghisi,
Riccardi 2026, arXiv 2601.03858.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Loss against knowledge, over the epochs that have both.

    Attributes:
        n_epochs: How many epochs have both.
        spearman: Rank correlation of -loss and knowledge; NaN where either is constant.
        n_steps: Steps between consecutive epochs that have both.
        n_diverging: Steps on which the loss falls and knowledge does not rise.
        share: n_diverging / n_steps; NaN without a step.
        regret: Best knowledge over all epochs minus knowledge at the lowest loss; biased upward,
            for the best is chosen on the numbers that it is scored on (see ``stopping``).
        best_epoch: Place of the best knowledge, the first of equals.
        lowest_loss_epoch: Place of the lowest loss; -1 without a loss.
    """

    n_epochs: int
    spearman: float
    n_steps: int
    n_diverging: int
    share: float
    regret: float
    best_epoch: int
    lowest_loss_epoch: int


def nonmonotonicity(values: Float[np.ndarray, "*series epoch"]) -> Float[np.ndarray, "*series"]:
    """Sum of drops / sum of |changes|: 0 rising, 1 falling, near .5 flat noise; NaN if constant.

    A flat noisy series cannot be told from an unstable one by this number alone: compute it from
    two halves of the probes, whose noise is independent, beside it.
    """
    changes = np.diff(values, axis=-1)
    drops, total = np.maximum(-changes, 0).sum(-1), np.abs(changes).sum(-1)
    return np.divide(drops, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def divergence(
    loss: Float[np.ndarray, " epoch"], knowledge: Float[np.ndarray, " epoch"]
) -> Divergence:
    """Compares loss and knowledge; epochs without a loss (the first) count for the best only."""
    both = np.flatnonzero(np.isfinite(loss) & np.isfinite(knowledge))
    steps = both[1:][np.diff(both) == 1]
    falls = loss[steps] < loss[steps - 1]
    n_diverging = int((falls & ~(knowledge[steps] > knowledge[steps - 1])).sum())
    lowest = int(both[loss[both].argmin()]) if len(both) else -1
    best = int(np.nanargmax(knowledge))
    return Divergence(
        n_epochs=len(both),
        spearman=spearman(-loss[both], knowledge[both]),
        n_steps=len(steps),
        n_diverging=n_diverging,
        share=n_diverging / len(steps) if len(steps) else np.nan,
        regret=float(knowledge[best] - knowledge[lowest]) if len(both) else np.nan,
        best_epoch=best,
        lowest_loss_epoch=lowest,
    )


def spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Rank correlation, ties by their mean rank; NaN where either is constant or n < 2."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(_mean_ranks(a), _mean_ranks(b))[0, 1])


def _mean_ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[group]
