"""Circuits: one edge mask per fact, and the graph that it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.core.provenance import Provenance
from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError

if TYPE_CHECKING:  # only the stubs know a type of node
    Graph: TypeAlias = nx.MultiDiGraph[str]
else:
    Graph = nx.MultiDiGraph


@dataclass(frozen=True, kw_only=True)
class Circuits:
    """One circuit per fact.

    Attributes:
        mask: True at the edges of each circuit.
        topology: Names of the axes.
        fact_ids: Names of the facts.
        scores: The scores that the circuits were selected by, if any.
        n_selected: Edges of each circuit before dangling nodes were pruned.
        n_ties: Edges left out although they score exactly as the last one taken (ties are broken
            by edge name).
        n_expected: Expected number of edges before discretisation, where gates were trained.
        provenance: Method and model of the scores.
    """

    mask: Bool[np.ndarray, "fact n_forward n_backward"]
    topology: Topology
    fact_ids: tuple[str, ...]
    scores: Float[np.ndarray, "fact n_forward n_backward"] | None = None
    n_selected: Int[np.ndarray, " fact"]
    n_ties: Int[np.ndarray, " fact"]
    n_expected: Float[np.ndarray, " fact"] | None = None
    provenance: Provenance

    @classmethod
    def from_mask(
        cls, mask: Any, topology: Topology, *, fact_ids: tuple[str, ...] | None = None
    ) -> "Circuits":
        """Circuits from a boolean [fact, n_forward, n_backward]; taken as they are.

        Raises:
            UsageError: Another shape or type, or an edge that does not exist.
        """
        array = np.asarray(mask)
        wanted = (topology.n_forward, topology.n_backward)
        if array.dtype != np.bool_ or array.ndim != 3 or array.shape[1:] != wanted:
            raise UsageError(
                f"mask is {array.dtype} {array.shape}; "
                f"expected bool [fact, {wanted[0]}, {wanted[1]}]"
            )
        if fact_ids is not None and not len(fact_ids) == len(set(fact_ids)) == len(array):
            raise UsageError(
                f"{len(fact_ids)} fact_ids for {len(array)} masks; expected one each, no two equal",
                field="fact_ids",
            )
        wrong = np.argwhere(array & ~topology.edge_mask)
        if len(wrong):
            fact, u, v = (int(i) for i in wrong[0])
            raise UsageError(
                f"mask of fact {fact} has {topology.edge_name(u, v)}, which is no edge"
            )
        return cls(
            mask=array,
            topology=topology,
            fact_ids=fact_ids or tuple(f"fact-{i}" for i in range(len(array))),
            n_selected=array.sum((1, 2)),
            n_ties=np.zeros(len(array), dtype=np.int64),
            provenance=Provenance(method="mask"),
        )

    def __len__(self) -> int:
        return len(self.mask)

    def __iter__(self) -> Iterator[Graph]:
        return (self.graph(fact_id) for fact_id in self.fact_ids)

    @property
    def n_edges(self) -> Int[np.ndarray, " fact"]:
        """Edges of each circuit."""
        return self.mask.sum((1, 2))

    @property
    def node_mask(self) -> Bool[np.ndarray, "fact node"]:
        """True at the nodes (``topology.nodes``) that an edge of the circuit touches."""
        return node_mask(self.mask, self.topology)

    def edges(self, fact_id: str) -> list[str]:
        """Names of the edges of a fact's circuit."""
        mask = self.mask[self._row(fact_id)]
        return [self.topology.edge_name(int(u), int(v)) for u, v in np.argwhere(mask)]

    def graph(self, fact_id: str) -> Graph:
        """The circuit of a fact as a networkx directed graph.

        Nodes are ``input``, heads, MLPs and ``logits``, with ``layer`` and ``kind``. A head's
        query, key and value inputs are parallel edges with the keys ``q``, ``k`` and ``v`` (a
        MultiDiGraph is a DiGraph that allows this); other edges have the key ``in``. Each edge
        carries its ``name``, ``kind`` (the key), ``layer`` (of its sender) and ``score``.
        """
        row = self._row(fact_id)
        values = None if self.scores is None else self.scores[row]
        return circuit_graph(self.mask[row], self.topology, values, name=fact_id)

    def _row(self, fact_id: str) -> int:
        if fact_id not in self.fact_ids:
            raise UsageError(f"there is no circuit for fact {fact_id!r}", field="fact")
        return self.fact_ids.index(fact_id)


def node_mask(
    mask: Bool[np.ndarray, "fact n_forward n_backward"], topology: Topology
) -> Bool[np.ndarray, "fact node"]:
    """Nodes that an edge of each mask touches, in the order of ``topology.nodes``."""
    touched = np.zeros((len(mask), len(topology.nodes)), dtype=bool)
    touched[:, : topology.n_forward] = mask.any(2)
    facts, receivers = np.nonzero(mask.any(1))
    touched[facts, topology.node_of_backward[receivers]] = True
    return touched


def prune_dangling(
    mask: Bool[np.ndarray, "fact n_forward n_backward"], topology: Topology
) -> Bool[np.ndarray, "fact n_forward n_backward"]:
    """Removes edges that lie on no path from the input to the logits.

    Nodes without an incoming or without an outgoing edge go with their edges until nothing
    changes (Hanna et al. 2024). Since senders stand in computation order, one sweep forward for
    "reached from the input" and one backward for "reaches the logits" give the same result.

    Args:
        mask: Edges of each circuit.
        topology: Names of the axes.
    """
    n_facts = len(mask)
    owner = topology.node_of_backward
    reached = np.zeros((n_facts, len(topology.nodes)), dtype=bool)
    reached[:, 0] = True
    for node in range(1, len(topology.nodes)):
        columns = mask[:, :, owner == node]
        senders = reached[:, : topology.n_forward]
        reached[:, node] = (columns & senders[:, :, None]).any((1, 2))
    reaches = np.zeros_like(reached)
    reaches[:, -1] = True
    for node in range(topology.n_forward - 1, -1, -1):
        reaches[:, node] = (mask[:, node, :] & reaches[:, owner]).any(1)
    return mask & reached[:, : topology.n_forward, None] & reaches[:, owner][:, None, :]


def circuit_graph(
    mask: Bool[np.ndarray, "n_forward n_backward"],
    topology: Topology,
    scores: Float[np.ndarray, "n_forward n_backward"] | None = None,
    *,
    name: str = "",
) -> Graph:
    """A mask as a graph; see ``Circuits.graph``."""
    graph: Graph = nx.MultiDiGraph(name=name)
    present = node_mask(mask[None], topology)[0]
    for node in np.array(topology.nodes)[present].tolist():
        graph.add_node(node, layer=topology.node_layer(node), kind=topology.node_kind(node))
    for u, v in np.argwhere(mask).tolist():
        kind = topology.backward_kinds[v]
        graph.add_edge(
            topology.forward_names[u],
            topology.backward_nodes[v],
            key=kind if kind in "qkv" else "in",
            name=topology.edge_name(u, v),
            kind=kind if kind in "qkv" else "in",
            layer=int(topology.forward_layers[u]),
            score=None if scores is None else float(scores[u, v]),
        )
    return graph
