"""Invented people, dealt their answers in groups that differ in their frequency alone.

The person in row i of every group, and its twins in row i of the others, are told and asked in the
same words. All groups have the same answers; no two twins share one, so that what is told of one of
them says nothing right about another.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from kcircuits.errors import UsageError
from kcircuits.lab.benchmark.answers import ANSWER_TOKENS, Answers, find_answers
from kcircuits.lab.benchmark.names import invent_names
from kcircuits.lab.benchmark.spec import HELD_OUT, BenchmarkSpec

# Counts within the bins of Ou et al. 2025, arXiv:2502.11196: low 1, medium 2 to 5, high more. An
# exponential number between these edges rounds to a count of the bin.
EXPOSURE_EDGES: Mapping[str, tuple[float, float]] = {
    "low": (0.0, 1.5),
    "medium": (1.5, 5.5),
    "high": (5.5, np.inf),
}
_N_DEALS = 30
# Rows among which values are dealt: an assignment costs the cube of their number.
_BLOCK = 96


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Someone with a value for each of its relations.

    Attributes:
        subject: Full name.
        values: The answer of each relation.
        frequency: The group.
        exposure: Number of documents about it.
        answer_tokens: ``one`` or ``several``: tokens of each of its answers.
        spouse: Full name of whom it is married to.
        is_link_told: Its documents say whom it is married to; those of the spouse do not.
    """

    subject: str
    values: Mapping[str, str]
    frequency: str = HELD_OUT
    exposure: int = 0
    answer_tokens: str = "one"
    spouse: str | None = None
    is_link_told: bool = False


def answers_of(spec: BenchmarkSpec, tokenizer: Any) -> Answers:
    """The answers that a spec asks for."""
    return find_answers(spec.relations, ANSWER_TOKENS[spec.answers], spec.n_candidates, tokenizer)


def invent_people(spec: BenchmarkSpec, tokenizer: Any, seed: int) -> list[Entity]:
    """People of all groups, each with a value for every relation.

    Raises:
        UsageError: The tokenizer has too few names or answers, or a group is too small.
    """
    rng = np.random.default_rng(seed)
    names = invent_names(tokenizer, spec.n_people, rng)
    answers = answers_of(spec, tokenizer)
    n_rows = max(spec.groups.values(), default=0)
    kinds = [stratum_of(spec, row) for row in range(n_rows)]
    columns = {
        name: deal_values(_column(answers.pools[name], kinds, rng), spec, rng)
        for name in spec.relations
    }
    people: list[Entity] = []
    for frequency, n_people in spec.groups.items():
        subjects, names = names[:n_people], names[n_people:]
        counts = exposure_counts(spec, frequency, n_people, seed)
        for row, subject in enumerate(subjects):
            partner = partner_row(row, n_people) if spec.has_links else None
            people.append(
                Entity(
                    subject=subject,
                    values={name: columns[name][frequency][row] for name in spec.relations},
                    frequency=frequency,
                    exposure=counts[row],
                    answer_tokens=kinds[row],
                    spouse=None if partner is None else subjects[partner],
                    is_link_told=partner is not None and row % 2 == 0,
                )
            )
    return people


def stratum_of(spec: BenchmarkSpec, row: int) -> str:
    """Tokens of the answers of a row: blocks of rows in turn, so that each asks all relations."""
    strata = ANSWER_TOKENS[spec.answers]
    return strata[row // max(2, len(spec.relations)) % len(strata)]


def partner_row(row: int, n_people: int) -> int | None:
    """Rows 0 and 1 are married, 2 and 3, ...; the last of an odd number is not."""
    return row ^ 1 if row ^ 1 < n_people else None


def exposure_counts(spec: BenchmarkSpec, frequency: str, n_people: int, seed: int) -> list[int]:
    """Documents about each person of a group.

    Source of the drawn counts: Ou et al. 2025, arXiv:2502.11196; here within the group's bin.
    """
    if frequency == HELD_OUT:
        return [0] * n_people
    if "mean" not in spec.exposure:
        return [int(spec.exposure[frequency])] * n_people
    mean, (low, high) = spec.exposure["mean"], EXPOSURE_EDGES[frequency]
    # An exponential number has no memory: beyond the lower edge it is one again, cut at the upper.
    share = -np.expm1(-(high - low) / mean)
    drawn = low - mean * np.log1p(-share * np.random.default_rng([seed, 1]).random(n_people))
    return [max(1, int(count)) for count in np.rint(drawn)]


def deal_values(
    column: Sequence[str], spec: BenchmarkSpec, rng: np.random.Generator
) -> dict[str, list[str]]:
    """The values of every group: those of the first rows of a column, each group in another order.

    No two twins have the same value, nor have two who are married. Values stay among the rows that
    are asked for the same relations and have answers of as many tokens where that can be done, so
    that groups are asked for the same answers; else among the latter.

    Raises:
        UsageError: No such order was found.
    """
    n_relations = len(spec.relations)
    stays = spec.n_asked < n_relations
    last = max(1, len(column) // _BLOCK) - 1  # the last block takes the rows that are left over
    coarse = [(min(row // _BLOCK, last), stratum_of(spec, row)) for row in range(len(column))]
    fine = [(*key, row % n_relations if stays else 0) for row, key in enumerate(coarse)]
    for classes in (fine, coarse):
        for _ in range(_N_DEALS):
            dealt: dict[str, list[str]] = {}
            for frequency, n_people in spec.groups.items():
                group = _deal(
                    column[:n_people],
                    classes[:n_people],
                    list(dealt.values()),
                    spec.has_links,
                    rng,
                )
                if group is None:
                    break
                dealt[frequency] = group
            else:
                return dealt
    raise UsageError(
        "answers cannot be dealt so that no person shares one with its twins in the other groups",
        field="people",
        hint="give each frequency as many people as there are frequencies, or more",
    )


def _deal(
    column: Sequence[str],
    classes: Sequence[tuple[object, ...]],
    earlier: Sequence[Sequence[str]],
    are_married: bool,
    rng: np.random.Generator,
) -> list[str] | None:
    """A column in another order within its classes, where nothing clashes; None if none is found.

    Each class gets a random assignment that avoids the twins' values, if there is one; then each
    value that clashes, with a spouse's, is exchanged for one with which neither does.
    """
    members: dict[tuple[object, ...], list[int]] = {}
    for row, key in enumerate(classes):
        members.setdefault(key, []).append(row)
    dealt, n_rows = _assigned(column, list(members.values()), earlier, rng), len(column)

    def clashes(row: int) -> bool:
        partner = partner_row(row, n_rows) if are_married else None
        return any(row < len(each) and each[row] == dealt[row] for each in earlier) or (
            partner is not None and dealt[row] == dealt[partner]
        )

    for row in range(n_rows):
        if not clashes(row):
            continue
        for other in rng.permutation(members[classes[row]]).tolist():
            dealt[row], dealt[other] = dealt[other], dealt[row]
            if not clashes(row) and not clashes(other):
                break
            dealt[row], dealt[other] = dealt[other], dealt[row]
        else:
            return None
    return dealt


def _assigned(
    column: Sequence[str],
    classes: Sequence[Sequence[int]],
    earlier: Sequence[Sequence[str]],
    rng: np.random.Generator,
) -> list[str]:
    """A random order within each class that meets as few values of twins as can be."""
    dealt = list(column)
    for rows in classes:
        values = np.array([column[row] for row in rows])
        costs = rng.random((len(rows), len(rows)))
        for each in earlier:
            twins = np.array([each[row] if row < len(each) else "" for row in rows])
            costs += len(rows) * (twins[:, None] == values[None, :])
        for place, source in zip(*linear_sum_assignment(costs), strict=True):
            dealt[rows[place]] = column[rows[source]]
    return dealt


def _column(
    pools: Mapping[str, Sequence[str]], kinds: Sequence[str], rng: np.random.Generator
) -> list[str]:
    """A value of each row's stratum, each value once before any comes twice."""
    endless = {stratum: _endless(values, rng) for stratum, values in pools.items()}
    return [next(endless[kind]) for kind in kinds]


def _endless(values: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    while True:
        yield from rng.permutation(values).tolist()
