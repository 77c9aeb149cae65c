"""Groups of facts with like circuits, and whether they are there at all.

Average linkage on the distance d_ij = 1 - k_ij / c_ij: 0 for facts that share one circuit, 1 for
facts that share what chance gives. Noise makes some distances negative; they are not clipped,
which would bias averages upwards. Average linkage does not mind: a constant added to all
distances is added to all heights, so it runs on distances made positive and the constant is taken
off again.

A tree cut into two often gives one fact and all the others, which says something of that fact and
nothing of groups. So a *cluster* has three facts at least; a cut into n clusters is the coarsest
that has n of them, and the facts of smaller ones stand alone.

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

Source: adjusted Rand index: Hubert and Arabie 1985; stability over splits of the data: Lange et al.
2004; average linkage: Sokal and Michener 1958.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from kcircuits.analysis.overlap.between_facts import FactPairs, ceilings
from kcircuits.analysis.overlap.contrast import MORE_ALIKE
from kcircuits.analysis.overlap.corrected import Items
from kcircuits.analysis.overlap.fact_halves import FactHalves, cross_overlaps
from kcircuits.analysis.overlap.swap_test import ALPHA
from kcircuits.analysis.overlap.turnover import MIN_CEILING

Word = Literal["clusters", "no-clusters", "undetermined"]

MIN_FACTS = 10
MIN_PROMPTS = 4  # two sets of two halves
MIN_STABILITY = 0.5
TIE = 0.02  # where a coarser cut is as stable, both are real: the finer one says more
MAX_CLUSTERS = 20
MIN_SIZE = 3  # facts of a cluster
N_PERMUTATIONS = 499
ORDERED_UP_TO = 200  # facts; finding the best order of the leaves takes their number cubed


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


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Adjusted Rand index of clusters with labels, and p by exchanging labels."""

    rand: float
    p: float


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
        return Clusters(word="no-clusters", reason=told, labels=alone, **common)
    if not apart > MORE_ALIKE:
        reason = f"facts of one group share {apart:+.2f} more than others: {MORE_ALIKE} is needed"
        return Clusters(word="no-clusters", reason=reason, labels=alone, **common)
    labels = cut(merges, best + 2)[-1]
    return Clusters(word="clusters", reason=told, labels=labels, **common)


def tree(distance: Float[np.ndarray, "fact fact"]) -> Float[np.ndarray, "merge 4"]:
    """Average linkage; distances may be negative."""
    from scipy.cluster.hierarchy import linkage  # costs what a small verb may take

    flat = distance[np.triu_indices(len(distance), 1)]
    lowest = min(float(flat.min()), 0.0)
    merges = linkage(flat - lowest, "average")
    merges[:, 2] += lowest
    return merges


def leaf_order(
    merges: Float[np.ndarray, "merge 4"], distance: Float[np.ndarray, "fact fact"]
) -> Int[np.ndarray, " fact"]:
    """Facts along the tree, like ones side by side where there are few enough to try."""
    from scipy.cluster.hierarchy import leaves_list, optimal_leaf_ordering

    positive = merges.copy()
    lowest = min(float(distance.min()), 0.0)
    positive[:, 2] -= lowest
    if len(distance) <= ORDERED_UP_TO:
        flat = distance[np.triu_indices(len(distance), 1)]
        positive = optimal_leaf_ordering(positive, flat - lowest)
    return leaves_list(positive)


def cut(merges: Float[np.ndarray, "merge 4"], most: int) -> Int[np.ndarray, "tried fact"]:
    """Clusters of each fact where the tree is cut into 2, 3, ... ``most``; -1 stands alone.

    All stand alone in a cut into more clusters than the tree has. Clusters are named by size, 0
    the largest; of equal ones the one whose first fact comes first.
    """
    from scipy.cluster.hierarchy import cut_tree

    positive = merges.copy()
    positive[:, 2] -= min(float(merges[:, 2].min()), 0.0)
    parts = [_large(labels) for labels in cut_tree(positive).T[::-1]]  # coarsest first
    counts = np.array([labels.max() + 1 for labels in parts])
    nothing = np.full(len(merges) + 1, -1)
    return np.stack(
        [
            parts[int((counts == n).argmax())] if (counts == n).any() else nothing
            for n in range(2, most + 1)
        ]
    )


def stability_test(
    first: Int[np.ndarray, "split tried fact"],
    second: Int[np.ndarray, "split tried fact"],
    *,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " tried"], float]:
    """Agreement at each number of clusters, and p of the largest.

    Args:
        first: Clusters from the first half of the prompts under each split.
        second: From the second half.
        n_permutations: How often the facts of the second are exchanged, in all splits alike.
        seed: Of the permutations.
    """
    n_facts = first.shape[2]
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(n_facts), (n_permutations, 1)), axis=1)
    orders = np.vstack([np.arange(n_facts), orders])
    agreement = np.zeros((len(orders), first.shape[1]))
    for one, other in zip(first, second, strict=True):
        for column, (x, y) in enumerate(zip(one, other, strict=True)):
            agreement[:, column] += adjusted_rand(x, y[orders])
    largest = agreement.max(1)
    return agreement[0] / len(first), float(np.mean(largest >= largest[0] - 1e-12))


def adjusted_rand(
    x: Int[np.ndarray, " fact"], y: Int[np.ndarray, "labelling fact"]
) -> Float[np.ndarray, " labelling"]:
    """Adjusted Rand index of one grouping with others: 1 equal, 0 as by chance.

    0 also where neither has two facts in a group, or both have all facts in one: no other
    grouping of that kind is possible, so there is nothing to agree on.

    Args:
        x: Group of each fact, from 0; -1 for a fact that is a group of its own.
        y: Groups of each fact, likewise, one grouping a row.
    """
    n_x, n_y, n_facts = int(x.max()) + 2, int(y.max()) + 2, len(x)  # the last: alone
    cells = (np.arange(len(y))[:, None] * n_x + x % n_x) * n_y + y % n_y
    table = np.bincount(cells.ravel(), minlength=len(y) * n_x * n_y).reshape(len(y), n_x, n_y)

    def n_pairs(counts: np.ndarray) -> np.ndarray:
        return counts * (counts - 1) / 2

    both = n_pairs(table[:, :-1, :-1]).sum((1, 2))
    in_x = n_pairs(table.sum(2)[:, :-1]).sum(1)
    in_y = n_pairs(table.sum(1)[:, :-1]).sum(1)
    expected = in_x * in_y / n_pairs(np.array(n_facts))
    room = (in_x + in_y) / 2 - expected
    return np.where(room > 0, both - expected, 0) / np.where(room > 0, room, 1)


def agreement(
    clusters: Int[np.ndarray, " clustered"],
    labels: Shaped[np.ndarray, " clustered"],
    donors: Int[np.ndarray, "permutation clustered"],
) -> Agreement:
    """How far clusters are the facts' labels.

    Args:
        clusters: Cluster of each fact.
        labels: Label of each fact.
        donors: Whose label each fact gets in each permutation, see ``exchanged``.
    """
    _, codes = np.unique(labels, return_inverse=True)
    orders = np.vstack([np.arange(len(codes)), donors])
    found = adjusted_rand(clusters, codes[orders])
    return Agreement(rand=float(found[0]), p=float(np.mean(found >= found[0] - 1e-12)))


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


def _large(labels: Int[np.ndarray, " fact"]) -> Int[np.ndarray, " fact"]:
    """Clusters of three facts and more, named by size; the facts of others are -1."""
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    rank[counts < MIN_SIZE] = -1
    return rank[np.searchsorted(names, labels)]
