"""Transfer: what circuits of some epoch (or stratum) do on the weights of another.

Everything here stands on one comparison. On the weights of epoch t every fact has its *own*
circuit, found at t, and a *moved* one, found at another epoch (or for other facts); both were found
on equally many prompts, and both are judged on prompts that neither was found on. The transfer
loss is F(own) - F(moved), fact by fact on the same facts, weights and prompts. Where the weights
did not change between the two epochs it is 0 on average, for then nothing tells the two circuits
apart. A circuit of *half* the prompts would be a worse yardstick than it looks: it is noisier, so
that a moved circuit of all prompts may beat it. What that costs at t stands beside as the half
loss.

The loss has two parts: the circuit of s may not fit the weights of t, and it may be a better or a
worse circuit altogether, found where the fact was better or worse known (then it can be below 0).
The second part has the other sign in the loss of t's circuit on the weights of s. So the mean of
both losses, ``loss_both_ways``, tells only how much circuits are made for their own weights: it is
0 on average where one epoch is merely noisier than the other.

A fact enters where the model knows it, by the gate of faithfulness, at both epochs. Two ways to
put facts together stand beside each other: ratio of means (facts weigh by how much there is to
explain) and mean of ratios (all weigh alike). Intervals draw whole subjects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.analysis.dynamics.draws import drawn_ratios, interval_ends, ratio_interval
from kcircuits.analysis.dynamics.rows import number_or_none
from kcircuits.analysis.overlap.jackknife import MIN_ENTITIES

Row = dict[str, Any]
# What is known of a circuit on one checkpoint's weights, per fact: means over its prompts.
MEASURES = ("metric", "hit_at_1", "hit_at_10", "target_rank")
Measures = Float[np.ndarray, "measure fact"]
WAYS = ("ratio of means", "mean of ratios")
N_SPLITS = 20
NONE = -1


@dataclass(frozen=True, kw_only=True)
class OnWeights:
    """The facts on one checkpoint's weights.

    Attributes:
        clean: Metric of the full model.
        empty: Metric with every edge ablated.
        is_known: The fact passes the gate here; False where it was not judged.
        own: Each fact's own circuit, found at this checkpoint.
        half: Circuits of either half of its discovery prompts, mean of the two; NaN where none.
        subjects: Subject of each fact.
    """

    clean: Float[np.ndarray, " fact"]
    empty: Float[np.ndarray, " fact"]
    is_known: Bool[np.ndarray, " fact"]
    own: Measures
    half: Measures
    subjects: Shaped[np.ndarray, " fact"]

    def only(self, facts: Bool[np.ndarray, " fact"]) -> "OnWeights":
        """The same for some of the facts."""
        return replace(
            self,
            **{name: getattr(self, name)[facts] for name in ("clean", "empty", "is_known")},
            own=self.own[:, facts],
            half=self.half[:, facts],
            subjects=self.subjects[facts],
        )


def transfer_rows(
    at: OnWeights,
    moved: Measures,
    random: Measures,
    is_known: Bool[np.ndarray, " fact"],
    *,
    seed: int,
) -> list[Row]:
    """Moved circuits on a checkpoint's weights, beside own, half-sample and random ones.

    Args:
        at: The facts on those weights.
        moved: The moved circuits there; NaN where a fact has none.
        random: Random circuits like them, mean over draws; NaN where there are none.
        is_known: Facts that pass the gate where the moved circuits come from.
        seed: Of the intervals.

    Returns:
        Two rows, one for each of ``WAYS``: ``set``, ``facts`` and ``subjects`` that enter,
        ``gated`` (left out by the gate at either epoch), ``failed`` (left out for want of a
        circuit); ``faithfulness``, ``own``, ``half``, ``random``, ``loss`` and ``half_loss``,
        each with ``_low`` and ``_high`` over subjects; the means of ``hit_at_1`` and ``hit_at_10``
        of the moved circuits, ``own_hit_at_10``, ``random_hit_at_10``, and the medians
        ``target_rank`` and ``own_target_rank``. None where there is no number.
    """
    has_both = np.isfinite(moved[0]) & np.isfinite(at.own[0])
    enters = has_both & is_known & at.is_known
    found, moved, random = at.only(enters), moved[:, enters], random[:, enters]
    head = {
        "facts": int(enters.sum()),
        "subjects": len(set(found.subjects.tolist())),
        "gated": int((has_both & ~enters).sum()),
        "failed": int((~has_both).sum()),
    }
    tail = _hits(found, moved, random)
    metrics = {
        "faithfulness": moved[0] - found.empty,
        "own": found.own[0] - found.empty,
        "half": found.half[0] - found.empty,
        "random": random[0] - found.empty,
        "loss": found.own[0] - moved[0],
        "half_loss": found.own[0] - found.half[0],
    }
    return [{"set": way, **head, **_pooled(metrics, found, way, seed), **tail} for way in WAYS]


def is_apart(row: Row, name: str) -> bool:
    """Whether the interval of a number excludes 0; said of at least 10 subjects only."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None or high is None or row["subjects"] < MIN_ENTITIES:
        return False
    return low > 0 or high < 0


def loss_both_ways(
    at: OnWeights,
    moved: Measures,
    back_at: OnWeights,
    moved_back: Measures,
    *,
    seed: int,
) -> list[Row]:
    """Mean of the loss of s's circuits on the weights of t and of t's on those of s.

    Args:
        at: The facts on the weights of t.
        moved: The circuits of s there.
        back_at: The facts on the weights of s.
        moved_back: The circuits of t there.
        seed: Of the interval.

    Returns:
        For each of ``WAYS`` a row ``loss_both_ways`` with ``_low`` and ``_high``, over the facts
        that pass the gate on both weights; subjects are drawn for both losses together.
    """
    there, back = at.own[0] - moved[0], back_at.own[0] - moved_back[0]
    kept = np.isfinite(there + back) & at.is_known & back_at.is_known
    pairs = [
        (loss[kept], (one.clean - one.empty)[kept]) for loss, one in ((there, at), (back, back_at))
    ]
    subjects, rows = at.subjects[kept], list[Row]()
    for way in WAYS:
        parts = [_ratio_parts(*pair, way) for pair in pairs]
        estimates = [ratio_interval(*part, subjects, seed=seed)[0] for part in parts]
        drawn = [drawn_ratios(*part, subjects, seed=seed) for part in parts]
        both = None if drawn[0] is None or drawn[1] is None else (drawn[0] + drawn[1]) / 2
        rows.append(_ends("loss_both_ways", (np.mean(estimates), *interval_ends(both, ()))))
    return rows


def _pooled(
    metrics: Mapping[str, Float[np.ndarray, " fact"]], at: OnWeights, way: str, seed: int
) -> Row:
    """Each metric difference as a share of clean - empty, over the facts that have it."""
    gap, row = at.clean - at.empty, {}
    for name, values in metrics.items():
        kept = np.isfinite(values)
        parts = _ratio_parts(values[kept], gap[kept], way)
        row |= _ends(name, ratio_interval(*parts, at.subjects[kept], seed=seed))
    return row


def _ratio_parts(
    values: Float[np.ndarray, " fact"], gap: Float[np.ndarray, " fact"], way: str
) -> tuple[Float[np.ndarray, " fact"], Float[np.ndarray, " fact"]]:
    """Numerators and denominators whose sums give the ratio of means or the mean of ratios.

    Both are turned where the metric is better when lower: a denominator is not negative.
    """
    top, bottom = values * np.sign(gap), np.abs(gap)
    return (top, bottom) if way == WAYS[0] else (top / bottom, np.ones(len(top)))


def _ends(name: str, ends: Sequence[Any]) -> Row:
    named = zip((name, f"{name}_low", f"{name}_high"), ends, strict=True)
    return {key: number_or_none(float(value)) for key, value in named}


def _hits(at: OnWeights, moved: Measures, random: Measures) -> Row:
    def mean(values: Measures, measure: str) -> float | None:
        return number_or_none(values[MEASURES.index(measure)].mean()) if values.size else None

    def median(values: Measures) -> float | None:
        return number_or_none(np.median(values[-1])) if values.size else None

    return {
        "hit_at_1": mean(moved, "hit_at_1"),
        "hit_at_10": mean(moved, "hit_at_10"),
        "own_hit_at_10": mean(at.own, "hit_at_10"),
        "random_hit_at_10": mean(random, "hit_at_10"),
        "target_rank": median(moved),
        "own_target_rank": median(at.own),
    }


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


# For each fact the place of the epoch that its circuit is taken from, NONE where there is none;
# several columns are averaged.
Choice = Int[np.ndarray, "split fact"]


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
