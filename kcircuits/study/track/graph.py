"""A track's facts and strata as networkx graphs that carry their history."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kcircuits.analysis.temporal.graph import (
    count_columns,
    epoch_columns,
    history_columns,
    history_graph,
    sum_by_place,
)
from kcircuits.analysis.temporal.presence import Presence
from kcircuits.core.circuit import Graph
from kcircuits.core.topology import Topology
from kcircuits.study.track.groups import FactTrack

Columns = dict[str, list[Any]]


def fact_graph(
    one: FactTrack, topology: Topology, epochs: Sequence[str], place: int | None = None
) -> Graph:
    """A fact's circuits over epochs: all edges and nodes that ever replicate.

    Args:
        one: The fact.
        topology: The graph of the model.
        epochs: Names of the epochs.
        place: Only what replicates at this epoch.
    """
    circuits = one.circuits
    chosen, inner = (_there(items, place) for items in (circuits.edges, circuits.nodes))
    edges, nodes = circuits.edges.only(chosen), circuits.nodes.only(inner)
    degree = circuits.structure.in_degree + circuits.structure.out_degree
    return history_graph(
        one.fact.id,
        topology,
        edges=circuits.candidates[chosen],
        edge_columns={
            **history_columns(edges, circuits.has_cell, epochs),
            **epoch_columns("score", circuits.scores[:, chosen].astype(float), epochs),
        },
        nodes=inner + 1,
        node_columns={
            **history_columns(nodes, circuits.has_cell, epochs),
            **epoch_columns("degree", degree[:, inner + 1], epochs),
        },
    )


def stratum_graph(
    name: str,
    members: Sequence[FactTrack],
    topology: Topology,
    epochs: Sequence[str],
    place: int | None = None,
) -> Graph:
    """The circuits of a stratum: in how many facts each edge and node is there, born and died.

    Args:
        name: Of the stratum.
        members: Its facts; each counts at the epochs at which it is known. Scores are means over
            these facts, 0 where an edge was too small to be kept.
        topology: The graph of the model.
        epochs: Names of the epochs.
        place: Only what is there in some fact at this epoch.
    """
    size = topology.n_forward * topology.n_backward
    totals = [np.zeros((len(epochs) - k, size), dtype=np.int64) for k in (0, 1, 1)]
    n_nodes = topology.n_forward - 1
    inner = [np.zeros((len(epochs) - k, n_nodes), dtype=np.int64) for k in (0, 1, 1)]
    scores = np.zeros((len(epochs), size))
    n_known = np.zeros(len(epochs))
    for one in members:
        circuits = one.circuits
        for total, flags in zip(totals, _counted(one, circuits.edges), strict=True):
            total[:, circuits.candidates] += flags
        for total, flags in zip(inner, _counted(one, circuits.nodes), strict=True):
            total += flags
        known = circuits.is_known[:, None]
        scores += sum_by_place(circuits.candidates, circuits.scores * known, size)
        n_known += circuits.is_known
    scores /= np.maximum(n_known, 1)[:, None]
    rows = slice(None) if place is None else slice(place, place + 1)
    edges, nodes = (np.flatnonzero(table[0][rows].any(0)) for table in (totals, inner))
    return history_graph(
        name,
        topology,
        edges=edges,
        edge_columns={
            **count_columns([table[:, edges] for table in totals], epochs),
            **epoch_columns("score", scores[:, edges], epochs),
        },
        nodes=nodes + 1,
        node_columns=count_columns([table[:, nodes] for table in inner], epochs),
    )


def _there(items: Presence, place: int | None) -> np.ndarray:
    rows = items.in_both if place is None else items.in_both[[place]]
    return np.flatnonzero(rows.any(0))


def _counted(one: FactTrack, items: Presence) -> list[np.ndarray]:
    """Where items are there, born and died, at epochs and steps at which the fact counts."""
    circuits = one.circuits
    step = circuits.is_compared[:, None]
    return [items.in_both & circuits.is_known[:, None], items.born & step, items.died & step]
