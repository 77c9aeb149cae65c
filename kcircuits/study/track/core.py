"""The tables of a track over edges and nodes: the persistent core, hubs, and changes of role."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.temporal.history import NEVER, core
from kcircuits.analysis.temporal.roles import core_terms
from kcircuits.core.topology import Topology
from kcircuits.study.diff.tables import edge_name, number
from kcircuits.study.track.groups import FactTrack, mean_interval, stacked, subjects

Row = dict[str, Any]
# A core of a single epoch would be that epoch's circuit.
MIN_EPOCHS = 2


def core_rows(
    members: Sequence[FactTrack], level: Level, share: float, since: int, seed: int
) -> list[Row]:
    """Row of ``Track.core`` for one stratum."""
    counted = np.array([_n_known(one, since) >= MIN_EPOCHS for one in members])
    entities = subjects(members)
    sizes = np.array([core_of(one, level, share, since).sum() for one in members])
    swapped = np.array([_swapped_size(one, share, since) for one in members])
    present = np.array(
        [
            one.circuits.items(level).in_both[since:][one.circuits.is_known[since:]].sum(1).mean()
            if is_in
            else np.nan
            for one, is_in in zip(members, counted, strict=True)
        ]
    )
    size, low, high = mean_interval(sizes, counted, entities, seed)
    return [
        {
            "facts": int(counted.sum()),
            "left_out": int((~counted).sum()),
            "size": number(size),
            "size_low": number(low),
            "size_high": number(high),
            "per_epoch": number(mean_interval(present, counted, entities, seed)[0]),
            "swapped": number(mean_interval(swapped, counted, entities, seed)[0]),
        }
    ]


def core_items(
    members: Sequence[FactTrack], level: Level, share: float, since: int, topology: Topology
) -> list[Row]:
    """Rows of ``Track.core_items`` for one stratum."""
    size = topology.n_forward * topology.n_backward
    counts = np.zeros(size if level == "edge" else topology.n_forward - 1, dtype=np.int64)
    for one in members:
        if _n_known(one, since) >= MIN_EPOCHS:
            counts[core_places(one, level, share, since)] += 1
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist()
    return [
        {"item": item_name(topology, level, place), "facts": int(counts[place])} for place in order
    ]


def core_of(one: FactTrack, level: Level, share: float = 1.0, since: int = 0) -> np.ndarray:
    """Which items of a fact are in its core, over the epochs at which it is known."""
    circuits = one.circuits
    return core(circuits.items(level).in_both, circuits.is_known, share=share, since=since)


def core_places(
    one: FactTrack, level: Level, share: float = 1.0, since: int = 0
) -> Int[np.ndarray, " item"]:
    """Flat indices of the edges, or places of the nodes, in a fact's core."""
    places = np.flatnonzero(core_of(one, level, share, since))
    return one.circuits.candidates[places] if level == "edge" else places


def item_name(topology: Topology, level: Level, place: int) -> str:
    """Name of an edge by flat index, or of a head or MLP by place."""
    return edge_name(topology, place) if level == "edge" else topology.nodes[place + 1]


def hub_rows(members: Sequence[FactTrack], topology: Topology) -> list[Row]:
    """Rows of ``Track.hubs`` for one stratum."""
    known = stacked(members, lambda c: c.is_known)
    there = np.einsum("fe,fen->en", known, stacked(members, lambda c: c.hubs.in_both).astype(int))
    n_known = known.sum(0)
    degrees = {
        name: np.einsum("fe,fen->en", known, stacked(members, lambda c, n=name: _degree(c, n)))
        / np.maximum(n_known, 1)[:, None]
        for name in ("in_degree", "out_degree")
    }
    order = np.argsort(-there.sum(0), kind="stable")[: np.count_nonzero(there.sum(0))].tolist()
    return [
        {
            **_about(topology, node),
            "hub_in": there[:, node].tolist(),
            "known": n_known.tolist(),
            **{name: values[:, node].round(3).tolist() for name, values in degrees.items()},
        }
        for node in order
    ]


def role_rows(members: Sequence[FactTrack], topology: Topology) -> list[Row]:
    """Rows of ``Track.roles`` for one stratum."""
    compared = stacked(members, lambda c: c.is_compared)

    def total(name: str, change: str) -> np.ndarray:
        flags = stacked(members, lambda c: getattr(getattr(c, name), change))
        return np.einsum("fs,fsn->sn", compared, flags.astype(int))

    found = {
        "became_hub": total("hubs", "born"),
        "stopped_hub": total("hubs", "died"),
        "joined": total("nodes", "born"),
        "left": total("nodes", "died"),
    }
    terms = [core_terms(one.circuits.nodes, one.circuits.is_known) for one in members]
    n_epochs = len(members[0].circuits.is_known)
    for name in ("entered", "left"):
        places = np.stack([getattr(term, name) for term in terms])
        counts = [(places == epoch).sum(0) for epoch in range(n_epochs)]
        found[f"{name}_core"] = np.stack(counts)
    assert NEVER < 0  # no epoch has that place
    changes = sum(table.sum(0) for table in found.values())
    order = np.argsort(-changes, kind="stable")[: np.count_nonzero(changes)].tolist()
    return [
        {
            **_about(topology, node),
            **{name: table[:, node].tolist() for name, table in found.items()},
        }
        for node in order
    ]


def _n_known(one: FactTrack, since: int) -> int:
    return int(one.circuits.is_known[since:].sum())


def _swapped_size(one: FactTrack, share: float, since: int) -> int:
    circuits = one.circuits
    return int(core(circuits.swapped.in_both, circuits.is_known, share=share, since=since).sum())


def _degree(circuits: Any, name: str) -> np.ndarray:
    return getattr(circuits.structure, name)[:, 1:-1]


def _about(topology: Topology, node: int) -> Row:
    name = topology.nodes[node + 1]
    return {"node": name, "layer": topology.node_layer(name), "kind": topology.node_kind(name)}
