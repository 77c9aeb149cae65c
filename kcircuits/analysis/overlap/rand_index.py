"""How far two groupings of facts agree: the adjusted Rand index, and p by permutation.

Source: Hubert and Arabie 1985.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

N_PERMUTATIONS = 499


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Adjusted Rand index of clusters with labels, and p by exchanging labels."""

    rand: float
    p: float


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
