"""Blocks of edges that do the same kind of work at the same depth."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int

from kcircuits.core.candidates import flat_edges
from kcircuits.core.topology import Topology

_KINDS = ("q", "k", "v", "mlp", "logits")


@lru_cache(maxsize=4)
def edge_blocks(topology: Topology) -> Int[np.ndarray, " edge"]:
    """Block of every edge, in the order of ``flat_edges``: 0 to the number of blocks less one.

    A block is a sender layer x a receiver layer x a kind of receiver (q, k, v, MLP, logits).
    """
    sender, receiver = np.divmod(flat_edges(topology), topology.n_backward)
    kind = np.array([_KINDS.index(name) for name in topology.backward_kinds])[receiver]
    depth = topology.n_layers + 2
    label = (topology.forward_layers[sender] + 1) * depth + topology.backward_layers[receiver]
    blocks = np.unique(label * len(_KINDS) + kind, return_inverse=True)[1]
    blocks.setflags(write=False)
    return blocks
