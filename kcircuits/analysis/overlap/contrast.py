"""Are the circuits of facts within a stratum more alike than those of facts of two strata?

What pairs share within strata, minus what pairs share between them. Pairs of one entity do not
enter. The interval is a jackknife over entities; the test exchanges labels between entities. Where
the strata are not the relations themselves, only pairs of one relation should enter and labels are
exchanged between entities of the same relations: a stratum whose facts happen to have other
relations is not mistaken for one with other circuits.

| | verdict |
|---|---|
| lower bound > .05 and p <= .05 | more alike |
| upper bound < .10 | no more alike beyond noise |
| else | cannot tell |

Source: permutation p-values that count the observed labelling: Phipson and Smyth 2010; the margins
are those of a stratum's turnover.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.analysis.overlap.between_facts import (
    FactPairs,
    SharedInterval,
    ceilings,
    jackknife_pairs,
)
from kcircuits.analysis.overlap.jackknife import MIN_ENTITIES
from kcircuits.analysis.overlap.swap_test import ALPHA
from kcircuits.analysis.overlap.turnover import MIN_CEILING
from kcircuits.analysis.overlap.verdict import LOW_CEILING, MIN_PROMPTS

Word = Literal["more-alike", "not-more-alike", "undetermined"]

N_PERMUTATIONS = 999
MORE_ALIKE, NOT_MORE_ALIKE = 0.05, 0.10
_PAIRS_AT_ONCE = 4_000_000


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
