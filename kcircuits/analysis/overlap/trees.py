"""Trees of facts by average linkage, and how they are cut into clusters.

Noise makes some distances negative; they are not clipped, which would bias averages upwards.
Average linkage does not mind: a constant added to all distances is added to all heights, so it runs
on distances made positive and the constant is taken off again.

A tree cut into two often gives one fact and all the others, which says something of that fact and
nothing of groups. So a *cluster* has three facts at least; a cut into n clusters is the coarsest
that has n of them, and the facts of smaller ones stand alone.

Source: average linkage: Sokal and Michener 1958.
"""

import numpy as np
from jaxtyping import Float, Int

MIN_SIZE = 3  # facts of a cluster
ORDERED_UP_TO = 200  # facts; finding the best order of the leaves takes their number cubed


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


def _large(labels: Int[np.ndarray, " fact"]) -> Int[np.ndarray, " fact"]:
    """Clusters of three facts and more, named by size; the facts of others are -1."""
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    rank[counts < MIN_SIZE] = -1
    return rank[np.searchsorted(names, labels)]
