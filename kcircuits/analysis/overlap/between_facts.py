"""Are the circuits of some pairs of facts more alike than those of others?

With k_ij the overlap of two facts across halves of their prompts (``fact_halves``) and the ceiling
c_ij = sqrt(k_ii k_jj), what a group of pairs shares is

    shared = sum k_ij / sum c_ij        1: as alike as the halves of one fact; 0: chance

a ratio of sums, never a mean of ratios, and never clipped. Pairs are compared by strata of their
facts, within against between. Facts of one entity are one cluster: their pairs stand apart, the
interval leaves out all pairs of an entity at a time, and the test exchanges labels between
entities. Where the strata are not the relations themselves, only pairs of one relation enter and
labels are exchanged between entities of the same relations: a stratum whose facts happen to have
other relations is not mistaken for one with other circuits.

Source: jackknife of U-statistics: Arvesen 1969; permutation p-values that count the observed
labelling: Phipson and Smyth 2010; the estimator is our own.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.analysis.overlap.corrected import jaccard_from_overlap
from kcircuits.analysis.overlap.fact_halves import PairOverlaps
from kcircuits.analysis.overlap.jackknife import CONFIDENCE, MIN_ENTITIES, student_quantile
from kcircuits.analysis.overlap.swap_test import ALPHA
from kcircuits.analysis.overlap.turnover import MIN_CEILING
from kcircuits.analysis.overlap.verdict import LOW_CEILING, MIN_PROMPTS

Word = Literal["more-alike", "not-more-alike", "undetermined"]

N_PERMUTATIONS = 999
# The margins of a stratum's turnover (``verdict``), which is in the same units.
MORE_ALIKE, NOT_MORE_ALIKE = 0.05, 0.10
_PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True, kw_only=True)
class SharedInterval:
    """A share, or the difference of two, with its 95% interval over entities; NaN: there is none."""

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
class Contrast:
    """Shared within strata minus shared between them.

    Attributes:
        word: ``more-alike``, ``not-more-alike`` or ``undetermined``.
        reason: Why; for ``undetermined`` what stands in the way.
        difference: With its interval.
        p: One-sided, from labels exchanged between entities.
    """

    word: Word
    reason: str
    difference: SharedInterval
    p: float = np.nan


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


def contrast(
    pairs: FactPairs,
    compared: Bool[np.ndarray, "fact fact"],
    labels: Shaped[np.ndarray, " fact"],
    makeup: Sequence[Hashable] | None = None,
    *,
    n_prompts: int,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> Contrast:
    """Compares pairs within a label with pairs between labels.

    Args:
        pairs: All pairs.
        compared: Those that enter, symmetric; pairs of one entity never do.
        labels: Stratum of each fact.
        makeup: What a fact has to have in common with one that it exchanges labels with; None:
            nothing, labels are free.
        n_prompts: The smallest number of discovery prompts of a fact.
        n_permutations: Of the labels, beside the observed ones.
        seed: Of the permutations.
    """
    mask = compared & pairs.is_pair & ~pairs.is_one_entity
    same = labels[:, None] == labels
    sides = [mask & same, mask & ~same]
    nothing = SharedInterval(estimate=np.nan)
    for side, name in zip(sides, ("within", "between"), strict=True):
        if not side.any():
            reason = f"there is no pair of facts {name} strata to compare"
            return Contrast(word="undetermined", reason=reason, difference=nothing)
        if pairs.overlaps.own[side.any(1)].mean() < MIN_CEILING:
            return Contrast(word="undetermined", reason=LOW_CEILING, difference=nothing)
    k, ceiling = pairs.overlaps.corrected, ceilings(pairs.overlaps.own)
    difference = jackknife_pairs(k, ceiling, sides, pairs.entities)
    orders = exchanged(pairs.entities, makeup, n_permutations, seed)
    p = _permutation_p(k, ceiling, mask, labels, orders)
    word, reason = _rule(difference, p)
    if n_prompts < MIN_PROMPTS:
        word = "undetermined"
        reason = f"{n_prompts} discovery prompts; at least {MIN_PROMPTS} are needed"
    return Contrast(word=word, reason=reason, difference=difference, p=p)


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


def exchanged(
    entities: Shaped[np.ndarray, " fact"],
    makeup: Sequence[Hashable] | None,
    n_permutations: int,
    seed: int,
) -> Int[np.ndarray, "permutation fact"]:
    """Whose label each fact gets when entities exchange theirs.

    Entities exchange all their labels with entities of as many facts, and their facts exchange
    labels among each other; with a make-up, only entities whose facts have the same make-up
    exchange them, each fact with the one of its kind. So every entity keeps a set of labels that
    some entity has.

    Args:
        entities: The entity of each fact.
        makeup: See ``contrast``.
        n_permutations: How many.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    kinds = [0] * len(entities) if makeup is None else list(makeup)
    order = sorted(range(len(entities)), key=lambda i: (str(entities[i]), str(kinds[i])))
    by_entity: dict[str, list[int]] = {}
    for i in order:
        by_entity.setdefault(str(entities[i]), []).append(i)
    classes: dict[tuple[Hashable, ...], list[list[int]]] = {}
    for facts in by_entity.values():
        classes.setdefault(tuple(kinds[i] for i in facts), []).append(facts)
    donors = np.tile(np.arange(len(entities)), (n_permutations, 1))
    for members in classes.values():
        places = np.array(members)  # [entity, fact of it]
        turns = rng.permuted(np.tile(np.arange(len(places)), (n_permutations, 1)), axis=1)
        given = places[turns]
        if makeup is None:
            given = rng.permuted(given, axis=2)
        donors[:, places.ravel()] = given.reshape(n_permutations, -1)
    return donors


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


def _permutation_p(
    tops: Float[np.ndarray, "fact fact"],
    bottoms: Float[np.ndarray, "fact fact"],
    mask: Bool[np.ndarray, "fact fact"],
    labels: Shaped[np.ndarray, " fact"],
    donors: Int[np.ndarray, "permutation fact"],
) -> float:
    """Share of labellings, the observed one among them, whose difference reaches the observed."""
    first, second = np.nonzero(np.triu(mask))
    values = np.stack([tops[first, second], bottoms[first, second]], axis=1)
    _, codes = np.unique(labels, return_inverse=True)
    labellings = codes.astype(np.int32)[np.vstack([np.arange(len(codes)), donors])]
    at_once = max(1, _PAIRS_AT_ONCE // len(first))
    found = []
    for start in range(0, len(labellings), at_once):
        part = labellings[start : start + at_once]
        found.append((part[:, first] == part[:, second]).astype(np.float64) @ values)
    within = np.concatenate(found)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = values.sum(0) - within
        differences = within[:, 0] / within[:, 1] - rest[:, 0] / rest[:, 1]
    differences = np.where(np.isfinite(differences), differences, np.inf)  # cannot say: counts
    return float(np.mean(differences >= differences[0] - 1e-12))


def _rule(difference: SharedInterval, p: float) -> tuple[Word, str]:
    if difference.n_entities < MIN_ENTITIES:
        return "undetermined", f"entities: {difference.n_entities}; {MIN_ENTITIES} are needed"
    if not np.isfinite(difference.low):
        return "undetermined", "one entity is in all pairs of a group: there is no interval"
    if difference.low > MORE_ALIKE:
        if p <= ALPHA:
            return "more-alike", f"labels exchanged between entities give p = {p:.2g}"
        return "undetermined", f"labels exchanged between entities give p = {p:.2g}"
    if difference.high < NOT_MORE_ALIKE:
        return "not-more-alike", f"a difference above {NOT_MORE_ALIKE:.2f} is ruled out"
    return "undetermined", (
        f"interval too wide: a difference of {difference.low:.2f} to {difference.high:.2f} is "
        "possible"
    )


def _jaccard(overlaps: Float[np.ndarray, " pair"]) -> float:
    return float(jaccard_from_overlap(overlaps.mean()))
