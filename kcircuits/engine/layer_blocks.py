"""Blocks of layers whose products with all earlier senders are made at once.

What senders write is large and read anew for each product, so that a layer alone waits for memory;
what the layers of a block read of each other is little.
"""

from dataclasses import dataclass

from kcircuits.core.topology import Topology

# Receivers whose products with the senders are made at once.
_TOGETHER = 96


def n_together(topology: Topology) -> int:
    """Layers of a block."""
    return min(topology.n_layers, max(1, _TOGETHER // (3 * topology.n_heads + 1)))


@dataclass(frozen=True, kw_only=True)
class Block:
    """Neighbouring layers.

    Attributes:
        topology: The graph.
        first: The first layer, and
        last: the last one.
    """

    topology: Topology
    first: int
    last: int

    @classmethod
    def of(cls, topology: Topology, layer: int) -> "Block":
        """The block of a layer."""
        first = layer - layer % n_together(topology)
        last = min(first + n_together(topology), topology.n_layers) - 1
        return cls(topology=topology, first=first, last=last)

    @classmethod
    def all_of(cls, topology: Topology) -> list["Block"]:
        """All blocks, from the first layer to the last."""
        firsts = range(0, topology.n_layers, n_together(topology))
        return [cls.of(topology, first) for first in firsts]

    @property
    def layers(self) -> range:
        """Its layers."""
        return range(self.first, self.last + 1)

    @property
    def columns(self) -> slice:
        """The receivers of all its layers."""
        start = self.topology.layer_columns(self.first).start
        return slice(start, self.topology.layer_columns(self.last).stop)

    @property
    def senders(self) -> slice:
        """All that any of its layers reads."""
        return slice(self.topology.n_before_mlp(self.last))

    @property
    def senders_before(self) -> slice:
        """The senders before its first layer."""
        return slice(self.topology.n_before_attention(self.first))

    def senders_within(self, layer: int) -> slice:
        """Its senders before one of its layers."""
        before = self.topology.n_before_attention
        return slice(before(self.first), before(layer))
