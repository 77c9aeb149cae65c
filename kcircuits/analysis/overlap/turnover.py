"""How much of a fact's circuit changed between two epochs, beyond what is noise of the method.

The discovery prompts are split into disjoint halves A and B, alike at both epochs s and t. With
A_s the circuit of half A at epoch s and k the chance-corrected overlap, averaged over the splits,

    k_ss = k(A_s, B_s)    k_tt = k(A_t, B_t)    k_st = [k(A_s, B_t) + k(B_s, A_t)] / 2
    ceiling c = sqrt(k_ss k_tt)                 turnover tau = 1 - k_st / c

so that a circuit is only ever compared with circuits of *other* prompts: at no change tau is 0 on
average, however noisy the method. (Comparing full circuits of the same prompts with a ceiling of
halves is biased: same prompts share their noise, and full circuits have less of it.) Over facts
tau = 1 - sum k_st / sum c, never a mean of ratios. It may be negative and is never clipped.

Source: our own estimator; noise of circuits: Méloux et al. 2025, arXiv 2510.00845.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from kcircuits.analysis.overlap.corrected import (
    Items,
    Level,
    circuit_overlap,
    jaccard,
    jaccard_from_overlap,
)
from kcircuits.analysis.overlap.half_circuits import (
    HalfCircuits,
    relabelled_half_circuits,
    top_mask,
)

# An item has a status if it replicates in both halves of at least this share of the splits.
REPLICATED = 0.5
MIN_CEILING = 0.2  # below this k_ss or k_tt the method does not reproduce the circuit


@dataclass(frozen=True, kw_only=True)
class FactOverlap:
    """Overlap of one fact's circuits between epochs s and t.

    The arrays over relabellings hold the observed value first; the rest are the values under
    swaps of the epoch labels, prompt by prompt.

    Attributes:
        k_ss: Corrected overlap of halves within s; NaN without halves (one prompt).
        k_tt: Within t.
        k_st: Of one half at s with the other half at t.
        chance: Overlap o0 that chance gives one half at s with the other at t.
        edges: Share of the splits in which each candidate edge is gained (in both halves at t and
            no half at s), lost (in both at s and none at t) and kept (in all four).
        nodes: The same of each node.
        gained: Number of edges (or nodes, if these are compared) gained, mean over the splits.
        lost: Number lost.
        kept: Number kept.
        same_prompts: Jaccard of the two circuits of all prompts: descriptive, has no ceiling.
        n_prompts: Number of discovery prompts, P.
        is_identical: The two epochs have equal scores.
    """

    k_ss: Float[np.ndarray, " relabelling"]
    k_tt: Float[np.ndarray, " relabelling"]
    k_st: Float[np.ndarray, " relabelling"]
    chance: float
    edges: Float[np.ndarray, "status candidate"]
    nodes: Float[np.ndarray, "status node"]
    gained: float
    lost: float
    kept: float
    same_prompts: float
    n_prompts: int
    is_identical: bool

    @property
    def ceilings(self) -> Float[np.ndarray, " relabelling"]:
        """Ceiling c = sqrt(k_ss k_tt), negative k as 0; k_st itself for identical scores."""
        if self.is_identical:
            return self.k_st
        return np.sqrt(np.maximum(self.k_ss, 0) * np.maximum(self.k_tt, 0))

    @property
    def statistics(self) -> Float[np.ndarray, " relabelling"]:
        """T = c - k_st."""
        return self.ceilings - self.k_st

    @property
    def ceiling(self) -> float:
        """The observed ceiling c, in units of k."""
        return float(self.ceilings[0])

    @property
    def has_ceiling(self) -> bool:
        """Both epochs reproduce the circuit well enough to speak of its change."""
        return bool(min(self.k_ss[0], self.k_tt[0]) >= MIN_CEILING)

    @property
    def turnover(self) -> float:
        """Tau; NaN where the ceiling is too low."""
        return pooled_turnover([self])


@dataclass(frozen=True, kw_only=True)
class OverlapSummary:
    """Means over facts, as they are printed.

    Attributes:
        jaccard: Of one half at s with the other half at t.
        ceiling: Jaccard that no change would give.
        chance: Jaccard that chance would give.
        gained: Items gained per fact, replicated in both halves.
        lost: Items lost per fact.
        kept: Items kept per fact.
        same_prompts: Jaccard of the circuits of all prompts: descriptive.
    """

    jaccard: float
    ceiling: float
    chance: float
    gained: float
    lost: float
    kept: float
    same_prompts: float


def compare_fact(
    scores: Float[np.ndarray, "2 prompt candidate"],
    n_edges: int,
    items: Mapping[Level, Items],
    level: Level = "edge",
    *,
    can_swap: bool = True,
) -> FactOverlap:
    """Compares a fact's circuits at two epochs.

    Args:
        scores: Each discovery prompt's scores at epoch s and at epoch t, on the union of the
            candidate edges of both (0 where an edge is no candidate), in the order of edge names.
        n_edges: The budget n, the same at both epochs, before dangling nodes are pruned.
        items: Edges and nodes of these candidates.
        level: Which of them the overlaps count.
        can_swap: Prompts may change their epochs; else the arrays hold the observed values alone.
    """
    n_prompts, n_candidates = scores.shape[1:]
    full = items[level].of(top_mask(np.abs(scores.mean(1)), n_edges))
    common = {
        "same_prompts": float(jaccard(full[0], full[1])),
        "n_prompts": n_prompts,
        "is_identical": bool(np.array_equal(scores[0], scores[1])),
    }
    edges = np.zeros((3, n_candidates))
    if n_prompts < 2:
        nan = np.array([np.nan])
        return FactOverlap(
            k_ss=nan, k_tt=nan, k_st=nan, chance=np.nan, edges=edges,
            nodes=np.zeros((3, len(items["node"].block))),
            gained=np.nan, lost=np.nan, kept=np.nan, **common,
        )  # fmt: skip
    first, second, candidates = relabelled_half_circuits(scores, n_edges, can_swap=can_swap)
    inner = {name: kind.keep(candidates) for name, kind in items.items()}
    members = [inner[level].of(side.masks) for side in (first, second)]
    overlap = circuit_overlap(members[0], members[1], inner[level])
    pairs = _Pairs(first=first, second=second)
    own = pairs.observed()
    edges[:, candidates] = _replicated(own)
    nodes = _replicated([inner["node"].of(masks) for masks in own])
    gained, lost, kept = (edges if level == "edge" else nodes).sum(1).tolist()
    return FactOverlap(
        k_ss=pairs.mean(overlap.corrected, 0, 0),
        k_tt=pairs.mean(overlap.corrected, 1, 1),
        k_st=pairs.cross(overlap.corrected),
        chance=float(pairs.cross(overlap.chance)[0]),
        edges=edges, nodes=nodes, gained=gained, lost=lost, kept=kept, **common,
    )  # fmt: skip


def pooled_turnover(facts: Sequence[FactOverlap]) -> float:
    """Tau over facts: 1 - sum k_st / sum c, exactly 0 if all scores are identical.

    NaN where the mean of k_ss or of k_tt is below .2. Single facts below it stay in: leaving them
    out would choose facts by the noise of the ceiling itself, and bias tau upwards.
    """
    if not facts or not has_ceiling(facts):
        return 0.0 if facts and all(fact.is_identical for fact in facts) else np.nan
    if all(fact.is_identical for fact in facts):
        return 0.0
    return float(1 - sum(fact.k_st[0] for fact in facts) / sum(fact.ceiling for fact in facts))


def has_ceiling(facts: Sequence[FactOverlap]) -> bool:
    """The mean of k_ss and the mean of k_tt over the facts both reach .2."""
    return all(
        float(np.mean([getattr(fact, name)[0] for fact in facts])) >= MIN_CEILING
        for name in ("k_ss", "k_tt")
    )


def summarise(facts: Sequence[FactOverlap]) -> OverlapSummary:
    """Means over facts; NaN without facts or without halves.

    Overlaps are averaged before they become Jaccards, so that tau can be worked out again from
    the printed Jaccard, ceiling and chance.
    """
    if not facts:
        return OverlapSummary(**dict.fromkeys(OverlapSummary.__dataclass_fields__, np.nan))
    chance = np.array([fact.chance for fact in facts])
    crossed = np.array([fact.k_st[0] for fact in facts])
    ceiling = np.array([fact.ceiling for fact in facts])
    return OverlapSummary(
        jaccard=float(jaccard_from_overlap(np.mean(chance + crossed * (1 - chance)))),
        ceiling=float(jaccard_from_overlap(np.mean(chance + ceiling * (1 - chance)))),
        chance=float(jaccard_from_overlap(np.mean(chance))),
        gained=float(np.mean([fact.gained for fact in facts])),
        lost=float(np.mean([fact.lost for fact in facts])),
        kept=float(np.mean([fact.kept for fact in facts])),
        same_prompts=float(np.mean([fact.same_prompts for fact in facts])),
    )


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Reads tables [split, choice of A, choice of B] at the circuits of each relabelling."""

    first: HalfCircuits
    second: HalfCircuits

    def mean(self, table: np.ndarray, epoch_a: int, epoch_b: int) -> np.ndarray:
        """Mean over the splits, per relabelling, of A at one epoch with B at another."""
        split = np.arange(len(table))[:, None]
        return table[split, self.first.own[epoch_a], self.second.own[epoch_b]].mean(0)

    def cross(self, table: np.ndarray) -> np.ndarray:
        """Mean of A_s with B_t and of A_t with B_s."""
        return (self.mean(table, 0, 1) + self.mean(table, 1, 0)) / 2

    def observed(self) -> list[Bool[np.ndarray, "split candidate"]]:
        """A_s, A_t, B_s and B_t as they are, without a swap."""
        split = np.arange(len(self.first.masks))
        return [
            side.masks[split, own[:, 0]] for side in (self.first, self.second) for own in side.own
        ]


def _replicated(
    halves: Sequence[Bool[np.ndarray, "split item"]],
) -> Float[np.ndarray, "status item"]:
    """Share of the splits in which each item is gained, lost and kept, in both halves."""
    a_s, a_t, b_s, b_t = halves
    both_s, both_t = a_s & b_s, a_t & b_t
    status = [both_t & ~(a_s | b_s), both_s & ~(a_t | b_t), both_s & both_t]
    return np.stack([share.mean(0) for share in status])
