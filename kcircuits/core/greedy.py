"""Circuits grown from the logits, one edge at a time.

Start with the edges into the logits. Take the largest one; its sender joins the circuit, and all
edges into that node (for a head: into its q, k and v) can be taken from now on. Repeat until there
are n edges. Unlike the n largest edges of the whole graph, every edge taken so reaches the logits;
nodes may still have no path from the input.

Source: Hanna et al. 2024, arXiv 2403.17806 (greedy search from the logits); counting ties is ours.
"""

import heapq
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.core.candidates import flat_edges, name_rank
from kcircuits.core.topology import Topology


def greedy_edge_mask(
    values: Float[np.ndarray, "fact n_forward n_backward"], topology: Topology, n_edges: int
) -> tuple[Bool[np.ndarray, "fact n_forward n_backward"], Int[np.ndarray, " fact"]]:
    """Each fact's greedy circuit, and how many edges were left out by the breaking of ties alone.

    Where several edges are largest, the first by name is taken. That decides the circuit only if
    the edges of that value or more cannot all be taken before n is reached. ``n_ties`` counts what
    is then left out: the edges that the search would go on to take before it falls below the
    smallest value at which such a choice was made; 0 means that no other order among equals
    gives another circuit.

    Args:
        values: What to rank by, largest first.
        topology: Names of the axes.
        n_edges: How many edges to take; all nodes write to the logits, so there are always enough.

    Returns:
        Masks before dangling nodes are pruned, and ties per fact.
    """
    chosen = np.zeros((len(values), topology.edge_mask.size), dtype=bool)
    n_ties = np.zeros(len(values), dtype=np.int64)
    for fact, matrix in enumerate(values):
        search = _Search(matrix.reshape(-1), topology)
        tied_at = None
        taken: list[int] = []
        for _ in range(n_edges):
            value, edge, is_tied = search.take()
            taken.append(edge)
            if tied_at is not None and value < tied_at:
                tied_at = None  # all edges of that value are in, whatever came first
            if is_tied and tied_at is None:
                tied_at = value
        chosen[fact, taken] = True
        while tied_at is not None and search.largest() >= tied_at:
            search.take()
            n_ties[fact] += 1
    return chosen.reshape(values.shape), n_ties


class _Search:
    """The edges of one fact that can be taken: a heap of the best untaken edge of each node."""

    def __init__(self, values: Float[np.ndarray, " flat"], topology: Topology) -> None:
        self._values = values
        self._topology = topology
        self._is_open = [False] * topology.n_forward
        # The input reads nothing.
        self._is_open[0] = True
        # Per open node its edges in the order that they are taken in: negative value, place in the
        # order of names, flat index; and how many of them are taken.
        self._edges: dict[int, list[tuple[float, int, int]]] = {}
        self._heap: list[tuple[float, int, int, int]] = []
        self._open(topology.n_forward)

    def largest(self) -> float:
        """The value that would be taken next; -inf where no edge is left."""
        return -self._heap[0][0] if self._heap else -np.inf

    def take(self) -> tuple[float, int, bool]:
        """Takes the largest edge: its value, its flat index, whether another one equals it."""
        negative, _, node, n_taken = self._heap[0]
        edge = self._edges[node][n_taken][2]
        if n_taken + 1 < len(self._edges[node]):
            following = self._edges[node][n_taken + 1]
            heapq.heapreplace(self._heap, (*following[:2], node, n_taken + 1))
        else:
            heapq.heappop(self._heap)
        is_tied = self.largest() == -negative
        sender = edge // self._topology.n_backward
        if not self._is_open[sender]:
            self._is_open[sender] = True
            self._open(sender)
        return -negative, edge, is_tied

    def _open(self, node: int) -> None:
        """Offers the edges into a node."""
        flat, rank = _incoming(self._topology)[node]
        values = -self._values[flat]
        order = np.argsort(values, kind="stable")
        rows = (column[order].tolist() for column in (values, rank, flat))
        self._edges[node] = list(zip(*rows, strict=True))
        heapq.heappush(self._heap, (*self._edges[node][0][:2], node, 0))


@lru_cache(maxsize=4)
def _incoming(
    topology: Topology,
) -> list[tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"]]]:
    """Per node the flat indices of the edges into it and their places in the order of names."""
    flat, rank = flat_edges(topology), name_rank(topology)
    owner = topology.node_of_backward[flat % topology.n_backward]
    # By node, then by name: a stable sort by value keeps the order of names among equals.
    order = np.lexsort((rank, owner))
    ends = np.searchsorted(owner[order], np.arange(len(topology.nodes) + 1))
    return [
        (flat[order[start:end]], rank[order[start:end]]) for start, end in pairwise(ends.tolist())
    ]
