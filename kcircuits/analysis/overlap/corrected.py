"""Overlap of circuits, corrected for chance, of their edges or of their nodes.

o(X, Y) = |X & Y| / sqrt(|X| |Y|) with expectation o0 under chance, k = (o - o0) / (1 - o0): 1 for
equal circuits, 0 at chance. For circuits of equal size the Jaccard is o / (2 - o).

Chance is closed form: within each *block* of items the two circuits hold their own numbers of
items, anywhere in the block, so E|X & Y| = sum over blocks of nX nY / N. Edges form one block
(o0 = q = n / N) or, matched, one per sender layer, receiver layer and receiver type. Nodes form
two blocks, heads and MLPs: the null keeps how many heads and how many MLPs each circuit touches.
(Drawing edges at random instead would touch nearly every node and put chance above what real,
concentrated circuits share.)
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64
from numpy.typing import ArrayLike

from kcircuits.core.blocks import edge_blocks
from kcircuits.core.candidates import flat_edges
from kcircuits.core.topology import Topology

Level = Literal["edge", "node"]


@dataclass(frozen=True, kw_only=True)
class Items:
    """What circuits are compared by: their candidate edges, or the nodes that these touch.

    Attributes:
        block: Block of each item.
        block_sizes: Number of items that exist in each block, candidates or not.
        nodes: For the node level: the node of each candidate's sender and of its receiver, or
            ``len(block)`` for the input and the logits, which are left out. None: the items are
            the candidates themselves.
    """

    block: Int[np.ndarray, " item"]
    block_sizes: Int[np.ndarray, " block"]
    nodes: Int[np.ndarray, "2 candidate"] | None = None

    def keep(self, candidates: Int[np.ndarray, " kept"]) -> "Items":
        """The same items for a part of the candidates."""
        if self.nodes is None:
            return replace(self, block=self.block[candidates])
        return replace(self, nodes=self.nodes[:, candidates])

    def of(self, circuits: Bool[np.ndarray, "... candidate"]) -> Bool[np.ndarray, "... item"]:
        """The items of each circuit."""
        if self.nodes is None:
            return circuits
        touched = np.zeros((*circuits.shape[:-1], len(self.block) + 1), dtype=bool)
        *rows, candidates = np.nonzero(circuits)
        for end in self.nodes:
            touched[(*rows, end[candidates])] = True
        return touched[..., :-1]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Overlaps of circuits with circuits: observed o, expected by chance o0, corrected k."""

    observed: Float[np.ndarray, "*pairs"]
    chance: Float[np.ndarray, "*pairs"]

    @property
    def corrected(self) -> Float[np.ndarray, "*pairs"]:
        """Overlap k = (o - o0) / (1 - o0), see ``correct_for_chance``."""
        return correct_for_chance(self.observed, self.chance)


def edge_items(topology: Topology, candidates: Int[np.ndarray, " candidate"]) -> Items:
    """The candidate edges (flat indices) as one block of all edges of the model."""
    return Items(
        block=np.zeros(len(candidates), dtype=np.int64), block_sizes=np.array([topology.n_edges])
    )


def matched_edge_items(topology: Topology, candidates: Int[np.ndarray, " candidate"]) -> Items:
    """The candidate edges in blocks of sender layer x receiver layer x receiver type."""
    flat, blocks = flat_edges(topology), edge_blocks(topology)
    return Items(block=blocks[np.searchsorted(flat, candidates)], block_sizes=np.bincount(blocks))


def node_items(topology: Topology, candidates: Int[np.ndarray, " candidate"]) -> Items:
    """The heads and MLPs that candidate edges touch; q, k and v of a head are one node.

    Item i is ``topology.nodes[i + 1]``; the input and the logits belong to every circuit and are
    left out.
    """
    n_nodes = topology.n_forward - 1
    is_mlp = np.array([name[0] == "m" for name in topology.forward_names[1:]], dtype=np.int64)
    sender, receiver = np.divmod(candidates, topology.n_backward)
    ends = np.stack([sender, topology.node_of_backward[receiver]]) - 1
    ends[(ends < 0) | (ends >= n_nodes)] = n_nodes
    return Items(block=is_mlp, block_sizes=np.bincount(is_mlp, minlength=2), nodes=ends)


def circuit_overlap(
    x: Bool[np.ndarray, "*batch circuit_x item"],
    y: Bool[np.ndarray, "*batch circuit_y item"],
    items: Items,
) -> Overlap:
    """Overlap of every circuit ``x`` with every circuit ``y``.

    Args:
        x: Items of circuits.
        y: Items of circuits to compare with.
        items: Blocks of the items.

    Returns:
        Arrays [*batch, circuit_x, circuit_y]. Two circuits of which one is empty overlap 0.
    """
    x_counts, y_counts = (_counts(values, items) for values in (x, y))
    expected = (x_counts / items.block_sizes) @ y_counts.swapaxes(-1, -2)
    scale = np.sqrt(x_counts.sum(-1)[..., :, None] * y_counts.sum(-1)[..., None, :])
    scale = np.where(scale > 0, scale, np.inf)
    return Overlap(observed=n_shared(x, y) / scale, chance=expected / scale)


def n_shared(
    x: Bool[np.ndarray, "*batch circuit_x item"], y: Bool[np.ndarray, "*batch circuit_y item"]
) -> Int[np.ndarray, "*batch circuit_x circuit_y"]:
    """How many items every circuit ``x`` shares with every circuit ``y``."""
    x_bits, y_bits = (packed(values) for values in (x, y))
    return np.bitwise_count(x_bits[..., :, None, :] & y_bits[..., None, :, :]).sum(-1, dtype=int)


def _counts(
    x: Bool[np.ndarray, "*batch circuit item"], items: Items
) -> Float[np.ndarray, "*batch circuit block"]:
    """How many items of each block each circuit has."""
    n_blocks = len(items.block_sizes)
    if n_blocks == 1:
        return np.count_nonzero(x, axis=-1)[..., None].astype(np.float64)
    circuits = x.reshape(-1, x.shape[-1])
    row, item = np.nonzero(circuits)
    counts = np.bincount(row * n_blocks + items.block[item], minlength=len(circuits) * n_blocks)
    return counts.reshape(*x.shape[:-1], n_blocks).astype(np.float64)


def packed(
    x: Bool[np.ndarray, "*batch circuit item"],
) -> UInt64[np.ndarray, "*batch circuit word"]:
    """Eight bytes of bits a word: counting shared bits beats a product of floats."""
    padding = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % 64)]
    bits = np.packbits(np.pad(x, padding), axis=-1)
    return np.ascontiguousarray(bits).view(np.uint64)


def correct_for_chance(
    observed: Float[np.ndarray, "*pairs"], chance: Float[np.ndarray, "*pairs"]
) -> Float[np.ndarray, "*pairs"]:
    """Overlap k = (o - o0) / (1 - o0); 0 where circuits fill their blocks and leave no room."""
    room = 1 - np.asarray(chance)
    return np.where(room > 1e-9, observed - chance, 0) / np.where(room > 1e-9, room, 1)


def jaccard_from_overlap(overlap: ArrayLike) -> Float[np.ndarray, "*pairs"]:
    """J = o / (2 - o), exact for circuits of equal size."""
    values = np.asarray(overlap)
    return values / (2 - values)


def chance_jaccard(n_x: float, n_y: float, n_total: float) -> float:
    """Jaccard expected of two random circuits: qX qY / (qX + qY - qX qY); q / (2 - q) if equal."""
    q_x, q_y = n_x / n_total, n_y / n_total
    return q_x * q_y / (q_x + q_y - q_x * q_y)


def jaccard(x: Bool[np.ndarray, "... item"], y: Bool[np.ndarray, "... item"]) -> np.ndarray:
    """|X & Y| / |X | Y| along the last axis; 1 for two empty circuits."""
    union = (x | y).sum(-1)
    return np.where(union > 0, (x & y).sum(-1) / np.maximum(union, 1), 1.0)
