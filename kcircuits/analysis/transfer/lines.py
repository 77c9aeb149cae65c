"""Lines over epochs: which epoch's circuit stands for each fact, before, after or at its best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.analysis.transfer.rows import Measures

N_SPLITS = 20
NONE = -1
# For each fact the place of the epoch that its circuit is taken from, NONE where there is none;
# several columns are averaged.
Choice = Int[np.ndarray, "split fact"]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What is known of the facts at the epochs that circuits come from.

    Attributes:
        is_known: Facts that pass the gate there.
        is_answered: Facts that the model answers by the rule of the probes there.
        gained: Metric of the own circuit minus that without edges, turned so that more is better.
        gap: The same of the full model.
        subjects: Subject of each fact.
    """

    is_known: Bool[np.ndarray, "source fact"]
    is_answered: Bool[np.ndarray, "source fact"]
    gained: Float[np.ndarray, "source fact"]
    gap: Float[np.ndarray, "source fact"]
    subjects: Shaped[np.ndarray, " fact"]


def line_choices(sources: Sources, *, seed: int, n_splits: int = N_SPLITS) -> dict[str, Choice]:
    """Which circuit stands for a fact in each line over epochs.

    - ``before``: that of the first epoch; ``after``: that of the last.
    - ``first known``: that of the first epoch at which the fact passes the gate.
    - ``best by knowledge``: that of the epoch at which most facts are answered (rule of the
      probes); ``best by faithfulness``: at which own circuits have the largest ratio of means. The
      best of many looks better than it is on the facts that chose it, so subjects are split in
      halves: each half chooses the epoch whose circuits stand for the *other* half's facts, over
      seeded splits.

    Args:
        sources: The epochs.
        seed: Of the splits.
        n_splits: How many.

    Source: METHODS.md sections 1 and 7; the seed study (Mousavi, Alghisi, Riccardi 2026, arXiv
    2601.03858) takes first, last and best for all facts together.
    """
    n_sources, n_facts = sources.is_known.shape
    first = np.where(sources.is_known.any(0), sources.is_known.argmax(0), NONE)
    gap = np.where(sources.is_known, sources.gap, 0.0)
    gained = np.where(sources.is_known, sources.gained, 0.0)
    answered = sources.is_answered.astype(np.float64)
    halves = _subject_halves(sources.subjects, seed, n_splits)
    return {
        "before": np.zeros((1, n_facts), dtype=np.int64),
        "first known": first[None],
        "after": np.full((1, n_facts), n_sources - 1),
        "best by knowledge": _best(answered, np.ones_like(answered), halves),
        "best by faithfulness": _best(gained, gap, halves),
    }


def chosen_measures(
    choice: Choice,
    moved: Float[np.ndarray, "source measure fact"],
    is_known: Bool[np.ndarray, "source fact"],
) -> tuple[Measures, Bool[np.ndarray, " fact"]]:
    """What the chosen circuit of each fact does, mean over the splits at which it is known.

    Args:
        choice: Where each fact's circuit is taken from.
        moved: The circuits of all sources on some weights.
        is_known: Facts that pass the gate at each source.

    Returns:
        Measures, NaN where a fact has no circuit; and whether it passes at a source chosen.
    """
    facts = np.arange(choice.shape[1])
    place = np.maximum(choice, 0)
    enters = (choice != NONE) & is_known[place, facts]
    values = np.moveaxis(moved, 1, 0)[:, place, facts]  # [measure, split, fact]
    n_entering = enters.sum(0)
    sums = np.where(enters, values, 0.0).sum(1)
    # Where a fact is known at no source chosen, the circuits count as there but gated.
    plain = np.where((choice != NONE).all(0), values.mean(1), np.nan)
    means = np.where(n_entering > 0, sums / np.maximum(n_entering, 1), plain)
    return means, n_entering > 0


def source_shares(
    choice: Choice, enters: Bool[np.ndarray, " fact"], epochs: Sequence[str]
) -> dict[str, float]:
    """Share of the facts that enter (and splits) that each epoch was chosen for."""
    chosen = choice[:, enters]
    counts = np.bincount(chosen[chosen != NONE], minlength=len(epochs))
    return {
        epoch: float(n / counts.sum())
        for epoch, n in zip(epochs, counts.tolist(), strict=True)
        if n
    }


def _subject_halves(
    subjects: Shaped[np.ndarray, " fact"], seed: int, n_splits: int
) -> Bool[np.ndarray, "split fact"]:
    """True where a fact's subject is in the first half of each split."""
    names, subject = np.unique(subjects, return_inverse=True)
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(names)) for _ in range(n_splits)]
    return np.array([order[subject] < len(names) // 2 for order in orders])


def _best(
    top: Float[np.ndarray, "source fact"],
    bottom: Float[np.ndarray, "source fact"],
    halves: Bool[np.ndarray, "split fact"],
) -> Choice:
    """For each fact the source that the other half's sum top / sum bottom is largest at.

    The first of equals; NONE where the other half is empty or has nothing to divide by.
    """
    choice = np.full(halves.shape, NONE)
    for split, half in enumerate(halves):
        for choosing in (half, ~half):
            sums = top[:, choosing].sum(1), bottom[:, choosing].sum(1)
            has_value = sums[1] > 0
            if has_value.any():
                values = np.where(has_value, sums[0] / np.where(has_value, sums[1], 1), -np.inf)
                choice[split, ~choosing] = values.argmax()
    return choice
