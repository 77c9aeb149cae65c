"""Which entities may exchange their forgetting trajectories, and how.

Were the circuits of a fact's entity unrelated to what becomes of the knowledge, the whole knowledge
trajectory of one entity (all its facts, all epochs, all training runs) might as well be that of
another one of the same stratum and exposure. Everything that would link fact-steps without a link
of the two sides stays in place:

- epochs stay aligned, so what drifts over training drifts on both sides as it did;
- whole series move, so an entity that is often forgotten, or whose circuits are restless, stays so.
  (Shuffling fact-steps one by one would break such series up and count them as evidence.)
- an entity moves in all runs at once: training seeds share facts and prompts, so an entity that is
  restless in one run is likely to be so in the next.

Entities exchange only if their facts have the same cells, fact by fact, in the same runs; the facts
of two entities are matched by cell and relation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma

import numpy as np
from jaxtyping import Bool, Int

from kcircuits.analysis.link.trajectories import Trajectories

_LARGEST = 700.0  # exp of more is no float


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Groups of entities that may exchange their trajectories.

    Attributes:
        groups: For each group, for each run, the facts of each of its entities (no column where
            they have none in that run).
        n_facts: Number of facts of each run.
    """

    groups: tuple[tuple[Int[np.ndarray, "entity slot"], ...], ...]
    n_facts: tuple[int, ...]

    def draw(self, n_draws: int, rng: np.random.Generator) -> list[Int[np.ndarray, "draw fact"]]:
        """Whose turnover each fact's knowledge is paired with, for each run, in each draw."""
        taken = [np.tile(np.arange(n), (n_draws, 1)) for n in self.n_facts]
        for group in self.groups:
            order = rng.permuted(np.tile(np.arange(len(group[0])), (n_draws, 1)), axis=1)
            for own, facts in zip(taken, group, strict=True):
                own[:, facts.ravel()] = facts[order].reshape(n_draws, -1)
        return taken

    def n_distinct(self, matters: Sequence[Bool[np.ndarray, " fact"]]) -> float:
        """How many different pairings there are; infinite where no float holds the number.

        Args:
            matters: Of each run, the facts whose knowledge trajectory enters the statistic;
                entities without any are all alike.
        """
        total = 0.0
        for group in self.groups:
            has_any = [m[facts].any(1) for m, facts in zip(matters, group, strict=True)]
            n_alike = int((~np.any(has_any, axis=0)).sum())
            total += lgamma(len(group[0]) + 1) - lgamma(n_alike + 1)
        return float(round(exp(total))) if total < _LARGEST else float("inf")


def exchange_of(runs: Sequence[Trajectories]) -> Exchange:
    """The groups of entities of training runs."""
    facts: dict[str, list[list[int]]] = {}
    for place, run in enumerate(runs):
        order = sorted(range(len(run.cells)), key=lambda i: (run.cells[i], run.relations[i]))
        for fact in order:
            facts.setdefault(run.entities[fact], [[] for _ in runs])[place].append(fact)
    alike: dict[tuple[tuple[str, ...], ...], list[list[list[int]]]] = {}
    for own in facts.values():
        cells = tuple(
            tuple(run.cells[fact] for fact in of_run) for run, of_run in zip(runs, own, strict=True)
        )
        alike.setdefault(cells, []).append(own)
    groups = tuple(
        tuple(
            np.array([own[place] for own in members], dtype=np.int64) for place in range(len(runs))
        )
        for members in alike.values()
    )
    return Exchange(groups=groups, n_facts=tuple(len(run.cells) for run in runs))
