"""Circuits as plain sets, edge by edge: what every overlap is checked against."""

import numpy as np

from kcircuits.core.topology import Topology

TOPOLOGY = Topology(n_layers=3, n_heads=2)
FLAT = np.flatnonzero(TOPOLOGY.edge_mask)


def slow_circuit(rows, n):
    """Positions of the n largest |mean|, ties by position; never a zero."""
    size = [abs(sum(float(np.float32(row[e])) for row in rows)) for e in range(len(rows[0]))]
    order = sorted(range(len(size)), key=lambda e: (-size[e], e))
    return {e for e in order[:n] if size[e] > 0}


def slow_nodes(circuit, candidates=FLAT):
    """Names of the heads and MLPs that the edges touch."""
    found = set()
    for e in circuit:
        u, v = divmod(int(candidates[e]), TOPOLOGY.n_backward)
        found |= {TOPOLOGY.forward_names[u], TOPOLOGY.backward_nodes[v]}
    return found - {"input", "logits"}
