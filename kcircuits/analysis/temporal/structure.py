"""The shape of circuits: entropy, sender layers and depth, degrees and hubs.

Circuits are the top n edges by |score| before dangling nodes are removed, so that all have n edges.

- **entropy** H = -sum p ln p over the circuit's edges, p = |score| / sum |score| of these edges,
  in nats: ln n where all edges matter alike, 0 where one edge is all. Edges outside the circuit
  do not enter.
- **activation ratio** of a layer: edges in the circuit whose sender is in the layer, as a share of
  all such edges of the model.
- **depth**: mean layer of the senders of the circuit's edges. The input has no layer; its edges
  stay out of the depth (not out of the activation ratios, where it is layer -1).
- **degree** of a node: edges that enter (q, k and v apart) and that leave it.
- **hub**: a head or MLP whose degree exceeds the mean over the heads and MLPs of the circuit by
  two standard deviations.

Source: Ou et al. 2025, arXiv 2502.11196 (knowledge circuit entropy, edges activation ratio); the
hub rule is ours.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.core.topology import Topology

HUB_SDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Structure:
    """The shape of each circuit.

    Attributes:
        entropy: In nats; NaN for an empty circuit.
        layer_edges: Edges by sender layer, the input first.
        in_degree: Edges into each node of ``Topology.nodes``.
        out_degree: Edges out of each node.
    """

    entropy: Float[np.ndarray, " circuit"]
    layer_edges: Int[np.ndarray, "circuit layer"]
    in_degree: Int[np.ndarray, "circuit node"]
    out_degree: Int[np.ndarray, "circuit node"]

    @property
    def depth(self) -> Float[np.ndarray, " circuit"]:
        """Mean sender layer; NaN where only the input sends."""
        counts = self.layer_edges[:, 1:]
        total = counts.sum(1)
        weighted = counts @ np.arange(counts.shape[1])
        return np.divide(weighted, total, out=np.full(len(total), np.nan), where=total > 0)

    @property
    def is_hub(self) -> Bool[np.ndarray, "circuit inner"]:
        """Which heads and MLPs (``Topology.nodes`` without input and logits) are hubs."""
        return hubs((self.in_degree + self.out_degree)[:, 1:-1])


def circuit_structure(
    masks: Bool[np.ndarray, "circuit candidate"],
    sizes: Float[np.ndarray, "circuit candidate"],
    candidates: Int[np.ndarray, " candidate"],
    topology: Topology,
) -> Structure:
    """The shape of circuits on the same candidate edges.

    Args:
        masks: The circuits.
        sizes: |score| of each candidate; any scale.
        candidates: Flat edge indices.
        topology: The graph.
    """
    n_nodes = len(topology.nodes)
    row, column = np.nonzero(masks)
    sender, receiver = np.divmod(candidates[column], topology.n_backward)
    size = sizes[row, column].astype(np.float64)
    total = np.bincount(row, size, minlength=len(masks))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.bincount(row, size * np.log(size), minlength=len(masks)) / total
        entropy = np.log(total) - share
    return Structure(
        entropy=entropy,
        layer_edges=_counts(
            row, topology.forward_layers[sender] + 1, len(masks), topology.n_layers + 1
        ),
        in_degree=_counts(row, topology.node_of_backward[receiver], len(masks), n_nodes),
        out_degree=_counts(row, sender, len(masks), n_nodes),
    )


def circuit_hubs(
    masks: Bool[np.ndarray, "circuit candidate"],
    candidates: Int[np.ndarray, " candidate"],
    topology: Topology,
) -> Bool[np.ndarray, "circuit inner"]:
    """``Structure.is_hub`` of circuits, without the rest."""
    row, column = np.nonzero(masks)
    sender, receiver = np.divmod(candidates[column], topology.n_backward)
    ends = (sender, topology.node_of_backward[receiver])
    degree = sum(_counts(row, end, len(masks), len(topology.nodes)) for end in ends)
    return hubs(np.asarray(degree)[:, 1:-1])


def hubs(degree: Int[np.ndarray, "circuit inner"]) -> Bool[np.ndarray, "circuit inner"]:
    """Nodes whose degree exceeds the mean over the nodes touched by two standard deviations."""
    touched = degree > 0
    n = np.maximum(touched.sum(1), 1)
    mean = degree.sum(1) / n
    variance = (degree.astype(np.float64) ** 2).sum(1) / n - mean**2
    return degree > (mean + HUB_SDS * np.sqrt(np.maximum(variance, 0)))[:, None]


def layer_sizes(topology: Topology) -> Int[np.ndarray, " layer"]:
    """All edges of the model by sender layer, the input first."""
    per_sender = topology.edge_mask.sum(1)
    return np.bincount(topology.forward_layers + 1, per_sender).astype(np.int64)


def depth_of_all(topology: Topology) -> float:
    """Mean sender layer over all edges of the model: the depth of circuits drawn by chance."""
    sizes = layer_sizes(topology)[1:]
    return float(sizes @ np.arange(len(sizes)) / sizes.sum())


def _counts(
    row: Int[np.ndarray, " edge"], kind: Int[np.ndarray, " edge"], n_rows: int, n_kinds: int
) -> Int[np.ndarray, "row kind"]:
    """How many edges of each kind each row has."""
    counts = np.bincount(row * n_kinds + kind, minlength=n_rows * n_kinds)
    return counts.reshape(n_rows, n_kinds)
