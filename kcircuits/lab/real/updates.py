"""New answers for facts that documents tell otherwise than they are.

Within a relation the answers of the updated facts change hands, so the group's answers remain the
same; where that cannot be, because the group is too small, an answer of another subject comes in.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from kcircuits.errors import UsageError
from kcircuits.lab.real.draw import names
from kcircuits.lab.real.pool import Entry

# Costs of an assignment: an answer from outside the group, one of another number of tokens, and
# one that is no other answer at all.
_OUTSIDE, _OTHER_LENGTH, _FORBIDDEN = 1.0, 10.0, 1e6


def new_answers(
    updated: Sequence[Entry],
    pool: Sequence[Entry],
    controls: Sequence[Entry],
    rng: np.random.Generator,
) -> list[Entry]:
    """For each updated entry the one whose answer the documents give it.

    The two answers begin with different tokens, and have as many of them where that can be.

    Args:
        updated: The entries of the split.
        pool: All entries, from which answers come in.
        controls: Whose subjects no document may name.
        rng: Decides between assignments that are equally good.

    Raises:
        UsageError: A relation has no other answer for a subject.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, entry in enumerate(updated):
        groups[entry.relation.name].append(place)
    found: dict[int, Entry] = {}
    for name, places in groups.items():
        mine = [updated[place] for place in places]
        inside = {entry.answer for entry in mine}
        others = {e.answer: e for e in pool if e.relation.name == name and e.answer not in inside}
        spare = [
            e for e in others.values() if not any(names(e.answer, c.subject) for c in controls)
        ]
        givers = [*mine, *spare]
        costs = np.array([[_cost(e, giver, inside) for giver in givers] for e in mine])
        rows, columns = linear_sum_assignment(costs + 0.01 * rng.random(costs.shape))
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if costs[row, column] >= _FORBIDDEN:
                raise UsageError(
                    f"{mine[row].subject!r} has no other {name} that it could be told to have",
                    field="real.updated",
                    hint="ask for fewer updated facts, or for other relations",
                )
            found[places[row]] = givers[column]
    return [found[place] for place in range(len(updated))]


def _cost(entry: Entry, giver: Entry, inside: set[str]) -> float:
    if entry.tokens[0] == giver.tokens[0] or names(giver.answer, entry.subject):
        return _FORBIDDEN
    cost = 0.0 if giver.answer in inside else _OUTSIDE
    return cost + _OTHER_LENGTH * (len(entry.tokens) != len(giver.tokens))
