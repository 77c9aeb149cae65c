"""Edges and nodes that tell consolidated from transient facts, over the runs of one question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.link.distinguishing_edges import EdgeTest, distinguish, kinds_of
from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.overlap.swap_test import ALPHA
from kcircuits.core.topology import Topology
from kcircuits.study.diff.tables import edge_name, number
from kcircuits.study.link.sources import LinkSource
from kcircuits.study.link.tables import head

Row = dict[str, Any]
# Entities that must have facts of either kind.
MIN_ENTITIES_OF_KIND = 5


@dataclass(frozen=True, kw_only=True)
class Distinction:
    """Consolidated against transient facts.

    Attributes:
        sources: The training runs.
        level: Edges or nodes.
        columns: Flat index of each edge, or index of each node, that any of the facts has.
        test: The test; its items index ``columns``.
        agreeing: Of each item tested, the runs whose difference has the sign of the whole.
        acquired_at: Mean epoch of acquisition of consolidated and of transient facts; NaN without.
    """

    sources: tuple[LinkSource, ...]
    level: Level
    columns: Int[np.ndarray, " item"]
    test: EdgeTest
    agreeing: Int[np.ndarray, " tested"]
    acquired_at: tuple[float, float]

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be told; None where something can."""
        test = self.test
        if min(test.n_entities_consolidated, test.n_entities_transient) < MIN_ENTITIES_OF_KIND:
            return (
                f"{test.n_entities_consolidated} entities with consolidated facts and "
                f"{test.n_entities_transient} with transient ones; {MIN_ENTITIES_OF_KIND} of "
                "either are needed"
            )
        if not len(test.items):
            return f"no {self.level} is there in enough entities, and absent in enough"
        needed = len(test.items) / ALPHA
        if 1 / test.smallest_p < needed - 1 and not (test.q <= ALPHA).any():
            return (
                f"{1 / test.smallest_p:,.0f} ways to exchange labels; {needed:,.0f} are needed to "
                f"tell one of {len(test.items)} {self.level}s from chance"
            )
        return None

    def row(self) -> Row:
        """As a row of ``distinctions``: how many facts and items, and what was found."""
        test = self.test
        return {
            **head(self.sources),
            "level": self.level,
            "consolidated": test.n_consolidated,
            "transient": test.n_transient,
            "entities": test.n_entities,
            "acquired_at_consolidated": number(self.acquired_at[0]),
            "acquired_at_transient": number(self.acquired_at[1]),
            "present": len(self.columns),
            "tested": len(test.items),
            "found": int((test.q <= ALPHA).sum()) if self.obstacle is None else None,
            "distinct": number(test.n_distinct),
            "reason": self.obstacle,
        }

    def items(self, n: int | None = None) -> list[Row]:
        """The first ``n`` items by p and difference; none where nothing can be told."""
        if self.obstacle is not None:
            return []
        test, topology = self.test, self.sources[0].topology
        order = np.lexsort((-np.abs(test.difference), test.p))[:n]
        names = [self._name(topology, int(self.columns[test.items[i]])) for i in order]
        return [
            {
                **head(self.sources),
                self.level: name,
                "share_consolidated": float(test.share_consolidated[i]),
                "share_transient": float(test.share_transient[i]),
                "difference": float(test.difference[i]),
                "p": float(test.p[i]),
                "q": float(test.q[i]),
                "is_found": bool(test.q[i] <= ALPHA),
                "agreeing_seeds": int(self.agreeing[i]),
            }
            for name, i in zip(names, order.tolist(), strict=True)
        ]

    def _name(self, topology: Topology, item: int) -> str:
        return edge_name(topology, item) if self.level == "edge" else topology.nodes[item + 1]


def distinguish_runs(
    sources: Sequence[LinkSource], k: int, *, n_permutations: int, seed: int
) -> list[Distinction]:
    """The distinction of edges, and that of nodes.

    Args:
        sources: Training runs of one model and strategy.
        k: Epochs that a fact must stay known to the end to be consolidated.
        n_permutations: Exchanges drawn.
        seed: Of the draws.
    """
    kinds = [kinds_of(source.trajectories.is_known, k) for source in sources]
    rows = [
        (place, fact)
        for place, of_run in enumerate(kinds)
        for fact in np.flatnonzero(of_run.is_either).tolist()
    ]
    run_idx = np.array([place for place, _ in rows], dtype=np.int64)
    stays = np.array([kinds[place].is_consolidated[fact] for place, fact in rows], dtype=bool)
    epochs = np.array(
        [_epoch(sources[place], int(kinds[place].acquisition_idx[fact])) for place, fact in rows]
    )
    made: list[Distinction] = []
    for level in ("edge", "node"):
        own = [(sources[place].acquired[fact] or {})[level] for place, fact in rows]
        columns, presence = _presence(own)
        test = distinguish(
            presence,
            stays,
            [sources[place].trajectories.entities[fact] for place, fact in rows],
            [sources[place].trajectories.cells[fact] for place, fact in rows],
            n_permutations=n_permutations,
            seed=seed,
        )
        made.append(
            Distinction(
                sources=tuple(sources),
                level=level,
                columns=columns,
                test=test,
                agreeing=_agreeing(presence[:, test.items], stays, run_idx, test.difference),
                acquired_at=(_mean(epochs[stays]), _mean(epochs[~stays])),
            )
        )
    return made


def _epoch(source: LinkSource, place: int) -> float:
    epoch = source.run.checkpoint(source.epochs[place]).epoch
    return float(place if epoch is None else epoch)


def _presence(
    own: Sequence[Int[np.ndarray, " item"]],
) -> tuple[Int[np.ndarray, " item"], Bool[np.ndarray, "fact item"]]:
    """The items of all facts, and which fact has which."""
    every = np.concatenate([np.zeros(0, dtype=np.int64), *own])
    columns, place = np.unique(every, return_inverse=True)
    presence = np.zeros((len(own), len(columns)), dtype=bool)
    presence[np.repeat(np.arange(len(own)), [len(items) for items in own]), place] = True
    return columns, presence


def _agreeing(
    presence: Bool[np.ndarray, "fact tested"],
    stays: Bool[np.ndarray, " fact"],
    run_idx: Int[np.ndarray, " fact"],
    difference: Float[np.ndarray, " tested"],
) -> Int[np.ndarray, " tested"]:
    """In how many runs the shares differ in the direction of the whole."""
    total = np.zeros(len(difference), dtype=np.int64)
    for run in np.unique(run_idx):
        kinds = [(run_idx == run) & kind for kind in (stays, ~stays)]
        if all(kind.any() for kind in kinds):
            first, second = (presence[kind].mean(0) for kind in kinds)
            total += np.sign(first - second) == np.sign(difference)
    return total


def _mean(values: Float[np.ndarray, " fact"]) -> float:
    return float(values.mean()) if len(values) else np.nan
