"""Circuits over epochs as networkx graphs whose nodes and edges carry their history.

Attributes are texts, numbers and booleans only, so that every format of networkx takes them:
an epoch's value stands under ``score_ep3``, a list of epochs is a text with commas, and what never
happened is an empty text or 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.analysis.temporal.history import NEVER, history
from kcircuits.analysis.temporal.presence import Presence
from kcircuits.core.circuit import Graph
from kcircuits.core.topology import Topology

Columns = Mapping[str, Sequence[Any]]


def history_graph(
    name: str,
    topology: Topology,
    *,
    edges: Int[np.ndarray, " edge"],
    edge_columns: Columns,
    nodes: Int[np.ndarray, " node"],
    node_columns: Columns,
) -> Graph:
    """A graph of edges with columns of attributes; parallel edges of q, k, v as in circuits.

    Args:
        name: Of the graph.
        topology: Names of the axes.
        edges: Flat edge indices.
        edge_columns: One value per edge.
        nodes: Indices into ``topology.nodes`` that have attributes of their own; the other ends of
            edges (input and logits) get ``layer`` and ``kind`` alone.
        node_columns: One value per node.
    """
    graph: Graph = nx.MultiDiGraph(name=name)
    sender, receiver = np.divmod(edges, topology.n_backward)
    ends = np.union1d(sender, topology.node_of_backward[receiver])
    names = np.array(topology.nodes)
    graph.add_nodes_from(
        (node, {"layer": topology.node_layer(node), "kind": topology.node_kind(node)})
        for node in names[np.union1d(ends, nodes)].tolist()
    )
    graph.add_nodes_from(zip(names[nodes].tolist(), _dicts(node_columns, len(nodes)), strict=True))
    kinds = np.array(topology.backward_kinds)[receiver]
    keys = np.where(np.isin(kinds, ["q", "k", "v"]), kinds, "in").tolist()
    senders = np.array(topology.forward_names)[sender]
    receivers = np.array(topology.backward_names)[receiver]
    columns = {
        "name": np.char.add(np.char.add(senders, "->"), receivers).tolist(),
        "kind": keys,
        "layer": topology.forward_layers[sender].tolist(),
        **edge_columns,
    }
    stops = names[topology.node_of_backward[receiver]].tolist()
    rows: Any = zip(senders.tolist(), stops, keys, _dicts(columns, len(edges)), strict=True)
    graph.add_edges_from(rows)
    return graph


def history_columns(
    items: Presence, has_cell: Bool[np.ndarray, " epoch"], epochs: Sequence[str]
) -> dict[str, list[Any]]:
    """The history of each item of one fact.

    ``first_seen, last_seen`` (epochs), ``lifetime, n_epochs, n_spells``, and with commas the
    ``epochs`` at which it replicates and those at which it was ``born`` and ``died``.

    Args:
        items: When they are there.
        has_cell: Epochs at which the fact has a circuit.
        epochs: Names of all epochs.
    """
    found = history(items, has_cell)
    names = np.array([*epochs, ""])  # NEVER is the last place
    assert NEVER == -1
    return {
        "first_seen": names[found.first_seen].tolist(),
        "last_seen": names[found.last_seen].tolist(),
        "lifetime": found.lifetime.tolist(),
        "n_epochs": found.n_present.tolist(),
        "n_spells": found.n_spells.tolist(),
        "epochs": _named(items.in_both, epochs),
        "born": _named(items.born, epochs[1:]),
        "died": _named(items.died, epochs[1:]),
    }


def epoch_columns(
    name: str, values: Shaped[np.ndarray, "epoch item"], epochs: Sequence[str]
) -> dict[str, list[Any]]:
    """One column ``name_epoch`` per epoch."""
    return {f"{name}_{epoch}": row.tolist() for epoch, row in zip(epochs, values, strict=True)}


def count_columns(
    counts: Sequence[Int[np.ndarray, "time item"]], epochs: Sequence[str]
) -> dict[str, list[Any]]:
    """The history of items over many facts.

    ``first_seen, last_seen, lifetime, n_epochs`` of being in any fact's circuit, and per epoch
    ``n_facts``, ``n_born`` and ``n_died``: in how many facts it is there, born and died.

    Args:
        counts: In how many facts each item is there at each epoch, is born and dies in each step.
        epochs: Names of the epochs.
    """
    n_facts, born, died = counts
    there = n_facts > 0
    first, last = there.argmax(0), len(there) - 1 - there[::-1].argmax(0)
    is_ever = there.any(0)
    names = np.array([*epochs, ""])
    return {
        "first_seen": names[np.where(is_ever, first, NEVER)].tolist(),
        "last_seen": names[np.where(is_ever, last, NEVER)].tolist(),
        "lifetime": np.where(is_ever, last - first + 1, 0).tolist(),
        "n_epochs": there.sum(0).tolist(),
        **epoch_columns("n_facts", n_facts, epochs),
        **epoch_columns("n_born", born, epochs[1:]),
        **epoch_columns("n_died", died, epochs[1:]),
    }


def sum_by_place(
    places: Int[np.ndarray, " item"], values: Float[np.ndarray, "row item"], n_places: int
) -> Float[np.ndarray, "row place"]:
    """Each row summed by the place of its items, e.g. edges of many facts by flat index."""
    n_rows = len(values)
    index = (np.arange(n_rows)[:, None] * n_places + places).ravel()
    return np.bincount(index, values.ravel(), minlength=n_rows * n_places).reshape(n_rows, -1)


def _named(flags: Bool[np.ndarray, "epoch item"], epochs: Sequence[str]) -> list[str]:
    """Names of the epochs at which each item is flagged, with commas between."""
    text = np.full(flags.shape[1], "", dtype=object)
    for row, epoch in zip(flags, epochs, strict=True):
        text[row] += np.where(text[row] == "", epoch, f",{epoch}").astype(object)
    return text.tolist()


def _dicts(columns: Columns, n: int) -> list[dict[str, Any]]:
    names = list(columns)
    rows = zip(*columns.values(), strict=True) if names else [()] * n
    return [dict(zip(names, row, strict=True)) for row in rows]
