"""Overlap of circuits whose edges count by their scores: weighted, Spearman, rank-biased.

Each takes two circuits of halves of the prompts, A_s and B_t, with the size |score| of each edge
in its own half, and stands beside the value at no change (A_s with B_s) as the plain overlap does.

**Outside a circuit the size is 0.** The results of an epoch hold scores of its candidate edges
only; of the others one knows that they are smaller, not how small. Every half's top n is among
them, so sizes cut off below the circuit are known exactly at every epoch, and what they give does
not depend on which edges happen to be candidates, or at how many epochs one looks. (With all
candidates' scores, two halves of *one* epoch share which edges stand at 0, two epochs do not: at no
change that reads as turnover.)

A node's size is the sum of |score| over its edges in the circuit, incoming and outgoing.

- ``weighted``: with x and y the sizes divided by their sums, M = sum min(x, y). As M / (2 - M) it
  is Ruzicka's similarity sum min / sum max.
- ``spearman``: rank correlation over the edges that either circuit has. Those that a circuit lacks
  tie in its last place: all that is known of them is that they come after its n. Equal sizes share
  the mean of their ranks. 1 for one order; two circuits without a common edge are near -.86.
- ``rbo``: rank-biased overlap: with X_d the number of items that both have among their first d, the
  mean of X_d / d with weights p^(d-1), p = .98: the first 50 ranks carry .85 of the weight.
  Extrapolated (RBO_EXT, for lists of unequal length): agreement at the end of the lists is taken
  to go on for ever. Equal sizes are ordered by name.

The chance of each is its value for two circuits that share as many items as chance gives, in random
order, with these very sizes; Spearman's at the expected number of shared items, the others exactly.

Source: Ruzicka 1958; Spearman 1904 with the tie in the last place of Fagin, Kumar, Sivakumar 2003;
Webber, Moffat, Zobel 2010, equation 32.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.corrected import Items, Overlap

Sizes = Float[np.ndarray, "split epoch item"]
Tables = Float[np.ndarray, "split epoch epoch"]
RBO_P = 0.98


def item_sizes(
    sizes: Float[np.ndarray, "split epoch candidate"],
    masks: Bool[np.ndarray, "split epoch candidate"],
    items: Items,
) -> Sizes:
    """Size of each item in each circuit, 0 outside it.

    Args:
        sizes: |score| of each edge.
        masks: The circuits.
        items: Edges, or the nodes that they touch.
    """
    inside = np.where(masks, sizes, 0).astype(np.float64)
    if items.nodes is None:
        return inside
    n_items = len(items.block)
    *_, candidates = np.nonzero(masks)
    row = np.repeat(np.arange(masks[..., 0].size), masks.reshape(-1, masks.shape[-1]).sum(1))
    flat = np.concatenate([row * (n_items + 1) + end[candidates] for end in items.nodes])
    total = np.bincount(
        flat, np.tile(inside[masks], 2), minlength=masks[..., 0].size * (n_items + 1)
    )
    return total.reshape(*masks.shape[:-1], n_items + 1)[..., :-1]


def graded_overlaps(x: Sizes, y: Sizes, overlap: Overlap) -> dict[str, Overlap]:
    """Each measure of all circuits ``x`` with all circuits ``y`` of the same split.

    Args:
        x: Sizes of the items of first halves, see ``item_sizes``.
        y: Sizes of the items of second halves.
        overlap: Plain overlap of these circuits.

    Returns:
        Arrays [split, epoch, epoch] by the names in ``GRADED``.
    """
    n_x, n_y = ((size > 0).sum(-1) for size in (x, y))
    expected = overlap.chance * np.sqrt(n_x[..., :, None] * n_y[..., None, :])
    return {name: measure(x, y, expected) for name, measure in GRADED.items()}


def weighted_overlap(x: Sizes, y: Sizes, expected: Tables) -> Overlap:
    """Shared mass sum min(x, y) of sizes that sum to 1."""
    x, y = (_divide(size, size.sum(-1, keepdims=True)) for size in (x, y))
    shared = [
        [np.minimum(own, others).sum(-1) for own in circuits]
        for circuits, others in zip(x, y, strict=True)
    ]
    smaller = np.stack([_mean_minimum(*pair) for pair in zip(x, y, strict=True)])
    return Overlap(observed=np.array(shared), chance=expected * smaller)


def spearman(x: Sizes, y: Sizes, expected: Tables) -> Overlap:
    """Rank correlation over the items of either circuit, absent ones tied in the last place.

    With r the rank among a circuit's own items, counted from its last, an item's deviation from
    the mean rank over all u items of either circuit is r + (u - 1 - n) / 2 - n / 2 inside the
    circuit of n items, and -n / 2 outside: so a few sums per circuit and pair give everything.
    """
    rank_x, rank_y = (_own_ranks(size) for size in (x, y))
    in_x, in_y = ((size > 0).astype(np.float64) for size in (x, y))
    n_x, n_y = in_x.sum(-1)[..., :, None], in_y.sum(-1)[..., None, :]
    total_x, total_y = rank_x.sum(-1)[..., :, None], rank_y.sum(-1)[..., None, :]
    square_x, square_y = (rank_x**2).sum(-1)[..., :, None], (rank_y**2).sum(-1)[..., None, :]
    mean_x, mean_y = _divide(total_x, n_x), _divide(total_y, n_y)

    def correlation(n_both: Tables, rr: Tables, rm: Tables, mr: Tables) -> Tables:
        either = n_x + n_y - n_both
        c_x, c_y = (either - 1 - n_x) / 2, (either - 1 - n_y) / 2
        product = rr + c_y * rm + c_x * mr + c_x * c_y * n_both - either * n_x * n_y / 4
        spread = [
            square + 2 * c * total + c**2 * n - either * n**2 / 4
            for n, c, total, square in (
                (n_x, c_x, total_x, square_x),
                (n_y, c_y, total_y, square_y),
            )
        ]
        return _divide(product, np.sqrt(np.maximum(spread[0] * spread[1], 0)))

    def paired(a: Sizes, b: Sizes) -> Tables:
        return a @ b.swapaxes(-1, -2)

    return Overlap(
        observed=correlation(
            paired(in_x, in_y), paired(rank_x, rank_y), paired(rank_x, in_y), paired(in_x, rank_y)
        ),
        chance=correlation(
            expected, expected * mean_x * mean_y, expected * mean_x, expected * mean_y
        ),
    )


def rank_biased_overlap(x: Sizes, y: Sizes, expected: Tables, *, p: float = RBO_P) -> Overlap:
    """Extrapolated rank-biased overlap.

    Args:
        x: Sizes of the items of first halves.
        y: Sizes of the items of second halves.
        expected: Number of items that each pair of circuits shares by chance.
        p: Persistence: the weight of a rank is p times that of the rank before.
    """
    n_x, n_y = ((size > 0).sum(-1) for size in (x, y))
    long = np.maximum(n_x[..., :, None], n_y[..., None, :])
    short = np.minimum(n_x[..., :, None], n_y[..., None, :])
    deepest = int(long.max(initial=1))
    depth = np.arange(1, deepest + 1)
    # Sums over depths: behind[d] of p^k / k from d + 1 on; powers[d] of p^k and steps[d] of k p^k
    # up to d.
    behind = np.append(np.cumsum((p**depth / depth)[::-1])[::-1], 0.0)
    powers, steps = (np.append(0.0, np.cumsum(term)) for term in (p**depth, depth * p**depth))

    def extrapolated(sums: Tables, n_short: Tables, n_long: Tables) -> Tables:
        """RBO_EXT from sum X_d p^d / d, X at the end of the shorter and of the longer list."""
        share = _divide(n_short, short)
        between = powers[long] - powers[short] - short * (behind[short] - behind[long])
        agreement = _divide(n_long - n_short, long) + share
        return (1 - p) / p * (sums + share * between) + agreement * p**long

    later = [
        [np.maximum(own, others) for own in places]
        for places, others in zip(_places(x, deepest), _places(y, deepest), strict=True)
    ]  # the place from which on both have the item
    n_long = np.array([[(pair < deepest).sum(-1) for pair in split] for split in later])
    n_short = np.array(
        [
            [(pair < s[:, None]).sum(-1) for pair, s in zip(split, row, strict=True)]
            for split, row in zip(later, short, strict=True)
        ]
    )
    weights = np.array([[behind[pair].sum(-1) for pair in split] for split in later])
    observed = extrapolated(weights - n_long * behind[long], n_short, n_long)
    # in random order X_d = expected min(d, n_x) min(d, n_y) / (n_x n_y)
    share = _divide(expected, short * long)
    mean = share * (steps[short] + short * (powers[long] - powers[short]))
    chance = extrapolated(mean, share * short**2, expected)
    return Overlap(observed=observed, chance=chance)


GRADED: Mapping[str, Callable[[Sizes, Sizes, Tables], Overlap]] = MappingProxyType(
    {"weighted": weighted_overlap, "spearman": spearman, "rbo": rank_biased_overlap}
)


def _own_ranks(sizes: Sizes) -> Sizes:
    """Rank of each item among those of its circuit, 1 for the smallest; 0 outside."""
    from scipy.stats import rankdata  # 0.3 s, and not every overlap asks for ranks

    n_absent = (sizes == 0).sum(-1, keepdims=True)
    return np.where(sizes > 0, rankdata(sizes, axis=-1) - n_absent, 0)


def _places(sizes: Sizes, absent: int) -> Int[np.ndarray, "split epoch item"]:
    """Place of each item in its circuit, 0 for the largest; ``absent`` outside."""
    order = np.argsort(-sizes, axis=-1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(sizes.shape[-1])[None, None], -1)
    return np.where(sizes > 0, places, absent)


def _mean_minimum(
    x: Float[np.ndarray, "epoch item"], y: Float[np.ndarray, "epoch item"]
) -> Float[np.ndarray, "epoch epoch"]:
    """Mean of min(a, b) over all pairs of an item of x and an item of y, absent ones left out.

    It is the integral over t of the share of x above t times the share of y above t.
    """
    levels = np.unique(np.concatenate([[0.0], x[x > 0], y[y > 0]]))
    above_x, above_y = (
        np.stack([_share_above(row[row > 0], levels[:-1]) for row in sizes]) for sizes in (x, y)
    )
    return (above_x * np.diff(levels)) @ above_y.T


def _share_above(
    values: Float[np.ndarray, " item"], levels: Float[np.ndarray, " level"]
) -> Float[np.ndarray, " level"]:
    if not len(values):
        return np.zeros(len(levels))
    return 1 - np.searchsorted(np.sort(values), levels, side="right") / len(values)


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """The ratio; 0 where there is nothing to divide by."""
    return np.where(bottom > 0, top, 0) / np.where(bottom > 0, bottom, 1)
