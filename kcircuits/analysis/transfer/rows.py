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
from jaxtyping import Bool, Float, Shaped

from kcircuits.analysis.dynamics.draws import drawn_ratios, interval_ends, ratio_interval
from kcircuits.analysis.dynamics.rows import number_or_none
from kcircuits.analysis.overlap.jackknife import MIN_ENTITIES

Row = dict[str, Any]
# What is known of a circuit on one checkpoint's weights, per fact: means over its prompts.
MEASURES = ("metric", "hit_at_1", "hit_at_10", "target_rank")
Measures = Float[np.ndarray, "measure fact"]
WAYS = ("ratio of means", "mean of ratios")


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
