"""The computation graph of a transformer as senders, receivers and edges.

A *sender* writes to the residual stream: ``input`` (the token embedding), each attention head
``a{layer}.h{head}`` and each MLP ``m{layer}``. A *receiver* reads from it: each head's query, key
and value input, each MLP and the final ``logits``. An *edge* joins a sender to a later receiver.

Grouped-query models have one key and one value receiver per *query* head, as the EAP-IG library
ungroups them, so that graphs of all families compare.

Source: Hanna, Pezzelle, Belinkov 2024, arXiv 2403.17806 (graph convention).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from kcircuits.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Names, indices and the edge mask of one architecture.

    Attributes:
        n_layers: Number of blocks.
        n_heads: Number of query heads per block.
        is_parallel: Attention and MLP of a block read the same residual stream (GPT-NeoX), so
            there is no head -> MLP edge within a block.
    """

    n_layers: int
    n_heads: int
    is_parallel: bool = False

    @property
    def n_forward(self) -> int:
        """Number of senders, 1 + L (H + 1)."""
        return 1 + self.n_layers * (self.n_heads + 1)

    @property
    def n_backward(self) -> int:
        """Number of receivers, L (3 H + 1) + 1."""
        return self.n_layers * (3 * self.n_heads + 1) + 1

    @cached_property
    def n_edges(self) -> int:
        """Number of real edges."""
        return int(self.edge_mask.sum())

    @cached_property
    def forward_names(self) -> tuple[str, ...]:
        """Sender names: input, then per layer its heads, then its MLP."""
        names = ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)] + [f"m{layer}"]
        return tuple(names)

    @cached_property
    def backward_names(self) -> tuple[str, ...]:
        """Receiver names: per layer all heads' q, all k, all v, then the MLP; last the logits."""
        names: list[str] = []
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}<{kind}>" for kind in "qkv" for head in range(self.n_heads)]
            names.append(f"m{layer}")
        return (*names, "logits")

    @cached_property
    def backward_nodes(self) -> tuple[str, ...]:
        """The node that each receiver belongs to: ``a5.h3<q>`` belongs to ``a5.h3``."""
        return tuple(name.split("<")[0] for name in self.backward_names)

    @cached_property
    def backward_kinds(self) -> tuple[str, ...]:
        """The kind of each receiver: ``q``, ``k``, ``v``, ``mlp`` or ``logits``."""
        per_layer = ["q"] * self.n_heads + ["k"] * self.n_heads + ["v"] * self.n_heads + ["mlp"]
        return (*(per_layer * self.n_layers), "logits")

    @cached_property
    def forward_layers(self) -> Int[np.ndarray, " n_forward"]:
        """Layer of each sender; the input is layer -1."""
        return np.concatenate([[-1], np.repeat(np.arange(self.n_layers), self.n_heads + 1)])

    @cached_property
    def backward_layers(self) -> Int[np.ndarray, " n_backward"]:
        """Layer of each receiver; the logits are layer ``n_layers``."""
        layers = np.repeat(np.arange(self.n_layers), 3 * self.n_heads + 1)
        return np.concatenate([layers, [self.n_layers]])

    @cached_property
    def n_senders(self) -> Int[np.ndarray, " n_backward"]:
        """How many senders each receiver can read; they are always the first ones."""
        counts: list[int] = []
        for layer in range(self.n_layers):
            before = self.n_before_attention(layer)
            counts += [before] * (3 * self.n_heads) + [self.n_before_mlp(layer)]
        return np.array([*counts, self.n_forward])

    @cached_property
    def edge_mask(self) -> Bool[np.ndarray, "n_forward n_backward"]:
        """True where an edge exists."""
        return np.arange(self.n_forward)[:, None] < self.n_senders[None, :]

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """All nodes: the senders in order, then ``logits``."""
        return (*self.forward_names, "logits")

    @cached_property
    def node_of_backward(self) -> Int[np.ndarray, " n_backward"]:
        """Index into ``nodes`` of the node that each receiver belongs to."""
        index = {name: i for i, name in enumerate(self.nodes)}
        return np.array([index[name] for name in self.backward_nodes])

    def n_before_attention(self, layer: int) -> int:
        """Number of senders that the attention of ``layer`` reads."""
        return 1 + layer * (self.n_heads + 1)

    def n_before_mlp(self, layer: int) -> int:
        """Number of senders that the MLP of ``layer`` reads."""
        return self.n_before_attention(layer) + (0 if self.is_parallel else self.n_heads)

    def attention_columns(self, layer: int) -> slice:
        """The receivers q, k, v of all heads of ``layer``, in that order."""
        start = layer * (3 * self.n_heads + 1)
        return slice(start, start + 3 * self.n_heads)

    def layer_columns(self, layer: int) -> slice:
        """All receivers of ``layer``: those of its attention, then its MLP."""
        return slice(self.attention_columns(layer).start, self.mlp_column(layer) + 1)

    def mlp_column(self, layer: int) -> int:
        """The receiver index of the MLP of ``layer``."""
        return (layer + 1) * (3 * self.n_heads + 1) - 1

    def node_layer(self, node: str) -> int:
        """Layer of a node; -1 for the input, ``n_layers`` for the logits."""
        if node == "logits":
            return self.n_layers
        return int(self.forward_layers[self.forward_index(node)])

    def node_kind(self, node: str) -> str:
        """``input``, ``head``, ``mlp`` or ``logits``."""
        return {"i": "input", "a": "head", "m": "mlp", "l": "logits"}[node[0]]

    def forward_index(self, name: str) -> int:
        """Index of a sender by name; UsageError if there is none."""
        return _index(self.forward_names, name, "sender")

    def backward_index(self, name: str) -> int:
        """Index of a receiver by name; UsageError if there is none."""
        return _index(self.backward_names, name, "receiver")

    def edge_name(self, forward_idx: int, backward_idx: int) -> str:
        """``m1->a4.h2<q>`` for the given indices."""
        return f"{self.forward_names[forward_idx]}->{self.backward_names[backward_idx]}"

    def edge_index(self, name: str) -> tuple[int, int]:
        """Sender and receiver index of an edge name; UsageError if the edge does not exist."""
        sender, arrow, receiver = name.partition("->")
        if not arrow:
            raise UsageError(
                f"edge {name!r} has no '->'", hint="write an edge as sender->receiver: m1->a4.h2<q>"
            )
        forward_idx, backward_idx = self.forward_index(sender), self.backward_index(receiver)
        if not self.edge_mask[forward_idx, backward_idx]:
            raise UsageError(
                f"edge {name!r} does not exist: {receiver} does not come after {sender}"
            )
        return forward_idx, backward_idx


def _index(names: tuple[str, ...], name: str, role: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise UsageError(
            f"{role} {name!r} does not exist in this model",
            hint=f"{role}s run from {names[0]} to {names[-1]}",
        ) from None
