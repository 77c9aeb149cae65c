"""What the circuits of different facts share.

With k_ij the overlap of two facts across halves of their prompts (``fact_halves``) and the ceiling
c_ij = sqrt(k_ii k_jj), what a group of pairs shares is

    shared = sum k_ij / sum c_ij        1: as alike as the halves of one fact; 0: chance

a ratio of sums, never a mean of ratios, and never clipped. Facts of one entity are one cluster: the
interval leaves out all pairs of an entity at a time. Whether pairs within a stratum share more than
pairs between strata is asked in ``contrast``.

Source: jackknife of U-statistics: Arvesen 1969; the estimator is our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.analysis.overlap.corrected import jaccard_from_overlap
from kcircuits.analysis.overlap.fact_halves import PairOverlaps
from kcircuits.analysis.overlap.jackknife import CONFIDENCE, MIN_ENTITIES, student_quantile
from kcircuits.analysis.overlap.turnover import MIN_CEILING


@dataclass(frozen=True, kw_only=True)
class SharedInterval:
    """A share, or the difference of two, with its 95% interval over entities; NaN for none."""

    estimate: float
    low: float = np.nan
    high: float = np.nan
    n_entities: int = 0


@dataclass(frozen=True, kw_only=True)
class PairGroup:
    """What a group of pairs of facts shares.

    Attributes:
        n_pairs: Pairs, each counted once.
        n_facts: Facts in them.
        jaccard: Of a half of one fact with the other half of the other, from the mean overlap.
        ceiling: Jaccard that one shared circuit would give.
        chance: Jaccard that chance gives.
        matched_chance: Jaccard that chance gives circuits which keep how many edges they have in
            each block of layers and receiver type; NaN for nodes.
        shared: sum k_ij / sum c_ij with its interval.
        matched_shared: The same with k corrected for the matched chance; NaN for nodes.
        has_ceiling: The facts' k_ii reach .2 on average.
    """

    n_pairs: int
    n_facts: int
    jaccard: float
    ceiling: float
    chance: float
    matched_chance: float
    shared: SharedInterval
    matched_shared: float
    has_ceiling: bool


@dataclass(frozen=True, kw_only=True)
class FactPairs:
    """All pairs of facts of one epoch.

    Attributes:
        overlaps: k and its parts; k_ii on the diagonal.
        matched: The same beside the matched chance; None for nodes.
        entities: The entity of each fact.
        is_pair: Pairs that compare: two facts that meet no template of their own.
    """

    overlaps: PairOverlaps
    matched: PairOverlaps | None
    entities: Shaped[np.ndarray, " fact"]
    is_pair: Bool[np.ndarray, "fact fact"]

    @property
    def is_one_entity(self) -> Bool[np.ndarray, "fact fact"]:
        """Pairs of facts of the same entity."""
        return self.entities[:, None] == self.entities


def ceilings(own: Float[np.ndarray, " fact"]) -> Float[np.ndarray, "fact fact"]:
    """c_ij = sqrt(k_ii k_jj), negative k as 0."""
    root = np.sqrt(np.maximum(own, 0))
    return np.outer(root, root)


def pool_pairs(pairs: FactPairs, chosen: Bool[np.ndarray, "fact fact"]) -> PairGroup:
    """What the chosen pairs share.

    Args:
        pairs: All pairs.
        chosen: Symmetric; pairs that do not compare are left out.
    """
    mask = chosen & pairs.is_pair
    members = mask.any(1)
    overlaps, ceiling = pairs.overlaps, ceilings(pairs.overlaps.own)
    n_pairs = int(mask.sum()) // 2
    has_ceiling = bool(n_pairs and overlaps.own[members].mean() >= MIN_CEILING)
    nan = np.nan
    if not n_pairs:
        return PairGroup(
            n_pairs=0, n_facts=0, jaccard=nan, ceiling=nan, chance=nan, matched_chance=nan,
            shared=SharedInterval(estimate=nan), matched_shared=nan, has_ceiling=False,
        )  # fmt: skip
    top = overlaps.chance + ceiling * (1 - overlaps.chance)
    shared, matched_chance, matched_shared = SharedInterval(estimate=nan), nan, nan
    if has_ceiling:
        shared = jackknife_pairs(overlaps.corrected, ceiling, [mask], pairs.entities)
    if pairs.matched is not None:
        matched_chance = _jaccard(pairs.matched.chance[mask])
        total = ceilings(pairs.matched.own)[mask].sum()
        if has_ceiling and total > 0:
            matched_shared = float(pairs.matched.corrected[mask].sum() / total)
    return PairGroup(
        n_pairs=n_pairs,
        n_facts=int(members.sum()),
        jaccard=_jaccard(overlaps.observed[mask]),
        ceiling=_jaccard(top[mask]),
        chance=_jaccard(overlaps.chance[mask]),
        matched_chance=matched_chance,
        shared=shared,
        matched_shared=matched_shared,
        has_ceiling=has_ceiling,
    )


def jackknife_pairs(
    tops: Float[np.ndarray, "fact fact"],
    bottoms: Float[np.ndarray, "fact fact"],
    groups: Sequence[Bool[np.ndarray, "fact fact"]],
    entities: Shaped[np.ndarray, " fact"],
) -> SharedInterval:
    """Ratio of sums over a group of pairs, or the first group's minus the second's.

    Delete-one-entity jackknife, Student's t with G - 1 degrees of freedom; an entity takes all
    pairs that it is in. No bounds with fewer than 10 entities in these pairs.

    Args:
        tops: k of each pair, symmetric.
        bottoms: c of each pair, symmetric.
        groups: One or two groups of pairs, symmetric.
        entities: The entity of each fact.
    """
    _, group = np.unique(entities, return_inverse=True)
    estimate = rest = np.zeros(1)
    for sign, mask in zip((1, -1), groups, strict=False):
        total, left = _sums([np.where(mask, table, 0) for table in (tops, bottoms)], group)
        with np.errstate(divide="ignore", invalid="ignore"):
            estimate = estimate + sign * total[0] / total[1]
            rest = rest + sign * left[0] / left[1]
    takes_part = np.unique(group[np.any([mask.any(1) for mask in groups], axis=0)])
    n_entities, values = len(takes_part), rest[takes_part]
    if n_entities < MIN_ENTITIES or not np.isfinite(values).all():
        return SharedInterval(estimate=float(estimate[0]), n_entities=n_entities)
    variance = (n_entities - 1) / n_entities * ((values - values.mean()) ** 2).sum()
    reach = student_quantile((1 + CONFIDENCE) / 2, n_entities - 1) * float(np.sqrt(variance))
    value = float(estimate[0])
    return SharedInterval(
        estimate=value, low=value - reach, high=value + reach, n_entities=n_entities
    )


def _sums(
    tables: Sequence[Float[np.ndarray, "fact fact"]], group: Int[np.ndarray, " fact"]
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2 entity"]]:
    """Sums over pairs, and sums without the pairs of each entity; symmetric tables."""
    inside = group[:, None] == group
    totals, rests = [], []
    for table in tables:
        once = np.bincount(group, table.sum(1)) - np.bincount(group, (table * inside).sum(1)) / 2
        totals.append(table.sum() / 2)
        rests.append(totals[-1] - once)
    return np.array(totals), np.array(rests)


def _jaccard(overlaps: Float[np.ndarray, " pair"]) -> float:
    return float(jaccard_from_overlap(overlaps.mean()))
