"""What happened to each fact: learned, forgotten, learned again, consolidated.

Epochs are counted by their place among those measured; the place of an event is that of the later
epoch of its step. A fact known at the first epoch was acquired by no step of this run.

Source: Toneva et al. 2019, An Empirical Study of Example Forgetting (learning and forgetting
events), with epochs for training steps.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

NEVER = -1


@dataclass(frozen=True, kw_only=True)
class FactEvents:
    """Events of each fact.

    Attributes:
        n_learned: Steps from not known to known.
        n_forgotten: Steps from known to not known.
        n_relearned: Learning events that come after a forgetting event.
        acquisition_idx: First place at which the fact is known; 0 where it is known before
            training, ``NEVER`` where it never is.
        longest: Epochs in the longest window in which it is known.
        final: Epochs in the window that reaches the last epoch; 0 where it is not known there.
    """

    n_learned: Int[np.ndarray, " fact"]
    n_forgotten: Int[np.ndarray, " fact"]
    n_relearned: Int[np.ndarray, " fact"]
    acquisition_idx: Int[np.ndarray, " fact"]
    longest: Int[np.ndarray, " fact"]
    final: Int[np.ndarray, " fact"]


@dataclass(frozen=True, kw_only=True)
class Consolidation:
    """Facts known from some epoch to the last, for at least k epochs.

    Attributes:
        k: Epochs that a fact must stay known.
        is_consolidated: Which facts are.
        is_evaluable: False where the fact was acquired in the last k - 1 epochs: it cannot yet
            have stayed known for k, and leaves the denominator. In a run of fewer than k epochs
            no fact can, those never known included.
        is_acquired: Which facts were known at any epoch.
    """

    k: int
    is_consolidated: Bool[np.ndarray, " fact"]
    is_evaluable: Bool[np.ndarray, " fact"]
    is_acquired: Bool[np.ndarray, " fact"]


def fact_events(is_known: Bool[np.ndarray, "fact epoch"]) -> FactEvents:
    """Counts the events of each fact."""
    steps = np.diff(is_known.astype(np.int8), axis=1)
    n_learned, n_forgotten = (steps > 0).sum(1), (steps < 0).sum(1)
    starts_known = is_known[:, 0]
    windows = _window_lengths(is_known)
    is_ever = is_known.any(1)
    return FactEvents(
        n_learned=n_learned,
        n_forgotten=n_forgotten,
        # Learning and forgetting take turns: only the first learning of a fact that starts
        # unknown follows no forgetting.
        n_relearned=np.maximum(n_learned - (~starts_known).astype(np.int64), 0),
        acquisition_idx=np.where(is_ever, is_known.argmax(1), NEVER),
        longest=windows.max(1),
        final=windows[:, -1],
    )


def consolidation(is_known: Bool[np.ndarray, "fact epoch"], k: int = 3) -> Consolidation:
    """Which facts are consolidated.

    Args:
        is_known: y_t.
        k: Epochs that a fact must stay known to the end; at least 1.
    """
    events, n_epochs = fact_events(is_known), is_known.shape[1]
    is_late = events.acquisition_idx > n_epochs - k
    return Consolidation(
        k=k,
        is_consolidated=(events.final >= k) & ~is_late,
        is_evaluable=~is_late & (n_epochs >= k),
        is_acquired=events.acquisition_idx != NEVER,
    )


def _window_lengths(is_known: Bool[np.ndarray, "fact epoch"]) -> Int[np.ndarray, "fact epoch"]:
    """For how many epochs the fact has been known without a gap, this one included."""
    place = np.arange(1, is_known.shape[1] + 1)
    last_gap = np.maximum.accumulate(np.where(is_known, 0, place), axis=1)
    return place - last_gap
