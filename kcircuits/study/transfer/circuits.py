"""The circuits that a transfer judges: of epochs, of halves of the prompts, of strata, random ones.

Each is known by a key, a hash of all that it depends on, before any score is read. So a transfer
that was computed before is found again in milliseconds, and circuits are made only where due.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from kcircuits.analysis.overlap.halves import half_members, split_halves
from kcircuits.core.candidates import flat_edges
from kcircuits.core.cell import Cell
from kcircuits.core.circuit import Circuits
from kcircuits.core.facts import Fact
from kcircuits.core.keys import digest
from kcircuits.core.leave_one_out import leave_one_out
from kcircuits.core.provenance import Provenance
from kcircuits.core.random_circuits import Match, random_circuits
from kcircuits.core.scores import EdgeScores
from kcircuits.core.selection import select
from kcircuits.core.topology import Topology
from kcircuits.io.store import CellRow
from kcircuits.study.run import Run
from kcircuits.study.stored_scores import stored_scores
from kcircuits.study.strata import strata_of

Edges = Int[np.ndarray, " edge"]
ItemT = TypeVar("ItemT")
MATCH: Match = "layer"
# Matrices of a large model in memory at a time.
_TOGETHER = 64
# Raised whenever the same cells would give other circuits.
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class CircuitSet:
    """One circuit of each of some facts.

    Attributes:
        keys: For each fact that has one, the hash of all that its circuit depends on.
        make: Flat indices of the edges of each of these circuits; made once.
    """

    keys: Mapping[str, str]
    make: Callable[[], Mapping[str, Edges]]


@dataclass(frozen=True, kw_only=True)
class StratumSet:
    """The circuit of one stratum for each fact, without the scores of the fact's own entity.

    Attributes:
        circuits: The circuits.
        n_facts: Facts whose scores went into each.
        n_entities: Their entities.
    """

    circuits: CircuitSet
    n_facts: Mapping[str, int]
    n_entities: Mapping[str, int]


def epoch_circuits(run: Run, rows: Mapping[str, CellRow], epoch: str) -> CircuitSet:
    """Each fact's circuit at an epoch, at the run's budget: those of ``kcircuits evaluate``.

    Args:
        run: The run.
        rows: Cells of the facts at that epoch.
        epoch: Id of the checkpoint.
    """
    return _selected(run, rows, epoch, "mean", lambda scores: scores.mean(0))


def half_circuits(run: Run, rows: Mapping[str, CellRow], epoch: str) -> tuple[CircuitSet, ...]:
    """Circuits of the first and of the second half of each fact's discovery prompts.

    The halves are those of the first split in ``split_halves``. Facts with a single prompt (or
    fold of prompts) have none.
    """
    n_folds = run.request.settings["params"].get("n_folds")
    n_prompts = {fact.id: len(fact.prompt_indices("discovery")) for fact in run.facts}
    halved = {
        fact_id: row
        for fact_id, row in rows.items()
        if min(n_prompts[fact_id], n_folds or n_prompts[fact_id]) > 1
    }

    def half(side: int) -> CircuitSet:
        def mean(scores: Float[np.ndarray, "prompt candidate"]) -> np.ndarray:
            return scores[half_members(split_halves(len(scores)))[side][0]].mean(0)

        return _selected(run, halved, epoch, f"half {side}", mean)

    return half(0), half(1)


def random_like(
    circuits: CircuitSet, topology: Topology, *, seed: int, n_draws: int
) -> tuple[CircuitSet, ...]:
    """Random circuits for each circuit: as many edges between every two layers.

    Args:
        circuits: What to match.
        topology: The graph.
        seed: Of the generators.
        n_draws: How many of each.
    """

    @cache
    def drawn() -> tuple[Mapping[str, Edges], ...]:
        found: tuple[dict[str, Edges], ...] = tuple({} for _ in range(n_draws))
        for part in _parts(list(circuits.make().items())):
            mask = np.zeros((len(part), *topology.edge_mask.shape), dtype=bool)
            for i, (_, edges) in enumerate(part):
                mask[i].flat[edges] = True
            given = Circuits.from_mask(mask, topology, fact_ids=tuple(name for name, _ in part))
            draws = random_circuits(given, seed=seed, n_draws=n_draws, match=MATCH)
            for of_draw, draw in zip(found, draws, strict=True):
                of_draw |= _edges_of(draw)
        return found

    def draw(i: int) -> CircuitSet:
        how = ["random", MATCH, seed, i, _VERSION]
        keys = {fact: digest({"of": key, "by": how}) for fact, key in circuits.keys.items()}
        return CircuitSet(keys=keys, make=lambda: drawn()[i])

    return tuple(draw(i) for i in range(n_draws))


def stratum_circuits(
    run: Run, rows: Mapping[str, CellRow], epoch: str, facts: Sequence[Fact], by: str
) -> dict[str, StratumSet]:
    """The circuit of each stratum at an epoch, for each fact.

    A stratum's scores are the mean over its facts of their mean scores, each divided by its L1
    norm so that all facts weigh alike; the circuit is the top n of that. For each fact the scores
    of its own entity are left out, whatever their stratum: no fact is judged by a circuit that it,
    or another fact about its subject, has shaped.

    Args:
        run: The run.
        rows: Cells at that epoch of the facts that may shape a circuit: those that pass the gate.
        epoch: Id of the checkpoint.
        facts: All facts that circuits are asked for.
        by: Stratum key, or ``relation``.

    Raises:
        UsageError: No fact has a stratum under the key.
    """
    return {
        name: _stratum(run, rows, epoch, facts, [facts[i] for i in places])
        for name, places in strata_of(facts, by).items()
    }


def _stratum(
    run: Run, rows: Mapping[str, CellRow], epoch: str, facts: Sequence[Fact], own: Sequence[Fact]
) -> StratumSet:
    members: dict[str, list[str]] = {}
    for fact in own:
        if fact.id in rows:
            members.setdefault(fact.subject, []).append(fact.id)
    # Facts about an entity outside the stratum share one circuit, that of all its entities.
    left_out = {fact.id: fact.subject if fact.subject in members else None for fact in facts}
    inside = {
        entity: [name for other, ids in members.items() if other != entity for name in ids]
        for entity in (None, *members)
    }
    keys = {
        fact_id: digest(
            {
                "cells": sorted(rows[name].key for name in inside[entity]),
                "budget": run.n_edges,
                "by": ["L1 mean", _VERSION],
            }
        )
        for fact_id, entity in left_out.items()
        if inside[entity]
    }

    @cache
    def make() -> Mapping[str, Edges]:
        found = _stratum_edges(run, epoch, members)
        return {fact_id: found[left_out[fact_id]] for fact_id in keys}

    return StratumSet(
        circuits=CircuitSet(keys=keys, make=make),
        n_facts={fact_id: len(inside[left_out[fact_id]]) for fact_id in keys},
        n_entities={fact_id: len(members) - (left_out[fact_id] is not None) for fact_id in keys},
    )


def _stratum_edges(
    run: Run, epoch: str, members: Mapping[str, Sequence[str]]
) -> dict[str | None, Edges]:
    """The circuit of all entities, under None, and the one without each of them."""
    topology = run.topology
    flat = flat_edges(topology)
    sums = np.zeros((len(members), len(flat)))
    for i, fact_ids in enumerate(members.values()):
        for part in _parts(fact_ids):
            values = stored_scores(run, epoch, part).values.reshape(len(part), -1)[:, flat]
            size = np.abs(values).sum(1, dtype=np.float64, keepdims=True)
            sums[i] += (values / np.where(size > 0, size, 1)).sum(0)
    found: dict[str | None, Edges] = {}
    totals = {None: sums.sum(0), **dict(zip(members, leave_one_out(sums), strict=True))}
    for part in _parts(list(totals.items())):
        scores = [(str(i), flat, total) for i, (_, total) in enumerate(part)]
        chosen = _top(topology, scores, run.n_edges)
        found |= dict(zip((name for name, _ in part), chosen.values(), strict=True))
    return found


def _selected(
    run: Run,
    rows: Mapping[str, CellRow],
    epoch: str,
    kind: str,
    reduce: Callable[[Float[np.ndarray, "prompt candidate"]], Float[np.ndarray, " candidate"]],
) -> CircuitSet:
    """Circuits of what is made of each cell's scores; the candidates hold the top n of it."""

    @cache
    def make() -> Mapping[str, Edges]:
        found: dict[str, Edges] = {}
        for part in _parts(list(rows)):
            cells: list[Cell] = run.cells(epoch, part)
            scores = [(c.fact_id, c.candidates, reduce(c.prompt_scores)) for c in cells]
            found |= _top(run.topology, scores, run.n_edges)
        return found

    how = {"by": [kind, _VERSION], "budget": run.n_edges}
    keys = {fact_id: digest({"cell": row.key, **how}) for fact_id, row in rows.items()}
    return CircuitSet(keys=keys, make=make)


def _top(
    topology: Topology, scores: Sequence[tuple[str, Edges, np.ndarray]], n_edges: int
) -> dict[str, Edges]:
    """The circuit of each (name, flat indices, scores there), 0 elsewhere."""
    matrix = np.zeros((len(scores), topology.edge_mask.size), dtype=scores[0][2].dtype)
    for i, (_, places, values) in enumerate(scores):
        matrix[i, places] = values
    chosen = select(
        EdgeScores(
            values=matrix.reshape(len(scores), *topology.edge_mask.shape),
            topology=topology,
            fact_ids=tuple(name for name, _, _ in scores),
            fact_idx=np.arange(len(scores)),
            provenance=Provenance(method="stored"),
        ),
        n_edges=n_edges,
    )
    return _edges_of(replace(chosen, scores=None))


def _edges_of(circuits: Circuits) -> dict[str, Edges]:
    return {
        fact_id: np.flatnonzero(mask)
        for fact_id, mask in zip(circuits.fact_ids, circuits.mask, strict=True)
    }


def _parts(items: Sequence[ItemT]) -> Iterator[Sequence[ItemT]]:
    """As many at a time as are held in memory together."""
    return (items[i : i + _TOGETHER] for i in range(0, len(items), _TOGETHER))
