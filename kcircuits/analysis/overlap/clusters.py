"""Groups of facts with like circuits, and whether they are there at all.

The tree (``trees``) is grown on the distance d_ij = 1 - k_ij / c_ij: 0 for facts that share one
circuit, 1 for facts that share what chance gives.

A tree can be cut anywhere, also one that grew from noise. So the discovery prompts are split into
two sets, each of which gives a tree of its own from its two halves: two clusterings that share no
prompt. Their agreement (adjusted Rand index, mean over the splits) is the *stability* of a number
of clusters; the number is that of the largest one (the finest, where coarser cuts are as stable),
and a permutation of the facts between the two sets of clusterings says what the largest would be
by chance. Beyond chance is not enough: circuits
that have nothing to do with each other share some edges by accident, and the two sets see the same
accidents. So what facts share within clusters must also exceed what they share between them, where
the clusters are from one set of prompts and the overlaps from the other (*separation*). There are
clusters where p <= .05, stability >= .5 and separation > .05, the margin of ``contrast``; else none
beyond noise, whatever the tree looks like.

Source: stability over splits of the data: Lange et al. 2004.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from kcircuits.analysis.overlap.between_facts import FactPairs, ceilings
from kcircuits.analysis.overlap.contrast import MORE_ALIKE
from kcircuits.analysis.overlap.corrected import Items
from kcircuits.analysis.overlap.fact_halves import FactHalves, cross_overlaps
from kcircuits.analysis.overlap.rand_index import N_PERMUTATIONS, stability_test
from kcircuits.analysis.overlap.swap_test import ALPHA
from kcircuits.analysis.overlap.trees import MIN_SIZE, cut, leaf_order, tree
from kcircuits.analysis.overlap.turnover import MIN_CEILING

Word = Literal["clusters", "no-clusters", "undetermined"]

MIN_FACTS = 10
MIN_PROMPTS = 4  # two sets of two halves
MIN_STABILITY = 0.5
TIE = 0.02  # where a coarser cut is as stable, both are real: the finer one says more
MAX_CLUSTERS = 20


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Facts grouped by their circuits.

    Attributes:
        word: ``clusters``, ``no-clusters`` (none beyond noise) or ``undetermined``.
        reason: Why.
        facts: Places of the facts that take part: those with a ceiling and prompts enough whose
            pairs all compare.
        labels: Cluster of each of them, 0 the largest; -1 for facts that stand alone, and for all
            where there are no clusters.
        stability: Agreement of the two sets of prompts at each number of clusters tried, from 2.
        p: Of the largest of them.
        separation: Shared within minus shared between the clusters of one set of prompts, in the
            other; NaN where it was not worked out.
        order: The facts (places in ``facts``) from one end of the tree to the other.
        merges: The tree, as scipy has it; heights are distances.
    """

    word: Word
    reason: str
    facts: Int[np.ndarray, " clustered"]
    labels: Int[np.ndarray, " clustered"]
    stability: Float[np.ndarray, " tried"]
    p: float
    separation: float = np.nan
    order: Int[np.ndarray, " clustered"]
    merges: Float[np.ndarray, "merge 4"]

    @property
    def n_clusters(self) -> int:
        """Number of clusters; 0 where there are none."""
        return int(self.labels.max(initial=-1)) + 1


def clusterable(pairs: FactPairs) -> Int[np.ndarray, " clustered"]:
    """Places of facts with a ceiling whose pairs all compare; who is in most that do not, goes."""
    facts = np.flatnonzero(pairs.overlaps.own >= MIN_CEILING)
    while len(facts):
        missing = ~pairs.is_pair[np.ix_(facts, facts)]
        np.fill_diagonal(missing, val=False)
        counts = missing.sum(1)
        if not counts.any():
            break
        facts = np.delete(facts, counts.argmax())
    return facts


def find_clusters(
    pairs: FactPairs,
    quarters: Sequence[tuple[FactHalves, FactHalves] | None],
    items: Items,
    *,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> Clusters:
    """Groups facts whose circuits are alike, if there are such groups.

    Args:
        pairs: All pairs of facts.
        quarters: Circuits of the quarters of the first and of the second halves of each fact's
            prompts; None where there are too few prompts.
        items: All items in their blocks.
        n_permutations: Of the facts, beside the observed order.
        seed: Of the permutations.
    """
    facts = clusterable(pairs)
    halved = np.array([i for i in facts if quarters[i] is not None], dtype=np.int64)
    if len(halved) >= MIN_FACTS:
        facts = halved
    own = pairs.overlaps.own[facts]
    nothing = np.zeros(0)
    if len(facts) < 2:
        return Clusters(
            word="undetermined", reason="fewer than 2 facts reproduce their circuits",
            facts=facts, labels=np.full(len(facts), -1), stability=nothing, p=np.nan,
            order=np.arange(len(facts)), merges=np.zeros((0, 4)),
        )  # fmt: skip
    similarity = pairs.overlaps.corrected[np.ix_(facts, facts)] / ceilings(own)
    merges = tree(1 - similarity)
    common = {"facts": facts, "order": leaf_order(merges, 1 - similarity), "merges": merges}
    alone = np.full(len(facts), -1)
    chosen = [quarters[i] for i in facts]
    if obstacle := _too_little(chosen):
        return Clusters(
            word="undetermined",
            reason=obstacle,
            labels=alone,
            stability=nothing,
            p=np.nan,
            **common,
        )
    sets = [[halves[side] for halves in chosen if halves is not None] for side in (0, 1)]
    # Halves of half the prompts reproduce less: Spearman and Brown's formula for half the length.
    scale = ceilings(own / (2 - own))
    shared = [_shared(halves, items, scale) for halves in sets]
    cuts = [_cuts(tables) for tables in shared]
    stability, p = stability_test(cuts[0], cuts[1], n_permutations=n_permutations, seed=seed)
    best = int(np.flatnonzero(stability >= stability.max() - TIE)[-1])
    apart = np.mean([separation(cuts[i][:, best], shared[1 - i], scale) for i in (0, 1)])
    told = f"adjusted Rand {stability[best]:.2f} of two sets of the prompts, p = {p:.2g}"
    common |= {"stability": stability, "p": p, "separation": float(apart)}
    if p > ALPHA or stability[best] < MIN_STABILITY:
        needed = f"p of at most {ALPHA}" if p > ALPHA else f"an index of {MIN_STABILITY}"
        reason = f"{told}; {needed} is needed"
        return Clusters(word="no-clusters", reason=reason, labels=alone, **common)
    if not apart > MORE_ALIKE:
        reason = f"facts of one group share {apart:+.2f} more than others: {MORE_ALIKE} is needed"
        return Clusters(word="no-clusters", reason=reason, labels=alone, **common)
    labels = cut(merges, best + 2)[-1]
    return Clusters(word="clusters", reason=told, labels=labels, **common)


def separation(
    labels: Int[np.ndarray, "split fact"],
    shared: Float[np.ndarray, "split fact fact"],
    scale: Float[np.ndarray, "fact fact"],
) -> float:
    """Shared within clusters minus shared between them, ratios of sums, mean over the splits.

    Facts that stand alone do not enter.

    Args:
        labels: Clusters under each split.
        shared: k_ij / c_ij under each split, of other prompts.
        scale: c_ij.
    """
    found = []
    for names, table in zip(labels, shared, strict=True):
        enter = (names >= 0) & (names[:, None] >= 0) & ~np.eye(len(names), dtype=bool)
        same = names[:, None] == names
        within, between = (
            (table * scale)[mask].sum() / max(scale[mask].sum(), 1e-12)
            for mask in (enter & same, enter & ~same)
        )
        found.append(within - between)
    return float(np.mean(found))


def _shared(
    facts: Sequence[FactHalves], items: Items, scale: Float[np.ndarray, "fact fact"]
) -> Float[np.ndarray, "split fact fact"]:
    """k_ij / c_ij of one set of prompts under each split."""
    found = []
    for split in range(max(len(fact.first) for fact in facts)):
        place = [split % len(fact.first) for fact in facts]
        alone = [
            FactHalves(first=fact.first[at : at + 1], second=fact.second[at : at + 1])
            for fact, at in zip(facts, place, strict=True)
        ]
        (overlaps,) = cross_overlaps(alone, alone, [items])
        found.append(overlaps.corrected / scale)
    return np.stack(found)


def _cuts(shared: Float[np.ndarray, "split fact fact"]) -> Int[np.ndarray, "split tried fact"]:
    """Clusters of one set of prompts, under each split and for each number of clusters."""
    most = max(2, min(MAX_CLUSTERS, shared.shape[1] // MIN_SIZE))
    return np.stack([cut(tree(1 - table), most) for table in shared])


def _too_little(quarters: Sequence[tuple[FactHalves, FactHalves] | None]) -> str | None:
    """Why stability cannot be measured; None where it can."""
    if len(quarters) < MIN_FACTS:
        return f"{len(quarters)} facts to group; {MIN_FACTS} are needed"
    n_halved = sum(halves is not None for halves in quarters)
    if n_halved < len(quarters):
        return (
            f"{n_halved} facts with {MIN_PROMPTS} discovery prompts or more; {MIN_FACTS} are needed"
        )
    return None
