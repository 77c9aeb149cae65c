"""Weights written by hand: all zero at first, then head by head and neuron by neuron.

The residual stream is cut into named blocks. A head or neuron reads the blocks that it is given
and writes into those that it is given; an edge can matter only where its sender writes a block
that its receiver reads.

Norms would spoil that: the scale of a norm depends on everything in the residual stream, so every
edge into a receiver would have some effect. Here each norm is an RMSNorm with epsilon 2^100 and
gain 2^50. Beside that epsilon the mean square of any activation is lost to rounding, and both are
powers of two, so the norm is *exactly* the identity. What a method does about norms is therefore
not tested by these models.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.core.topology import Topology
from kcircuits.models.weights import (
    ACTIVATIONS,
    Activation,
    AttentionWeights,
    MlpWeights,
    NormWeights,
    TransformerWeights,
)

NORM_EPS = 2.0**100
NORM_GAIN = 2.0**50


class Draft:
    """A model in the making; ``weights`` is the model, changed in place by the methods.

    Args:
        topology: Layers and heads.
        blocks: Width of each block of the residual stream.
        d_head: Width of a head.
        d_mlp: Neurons per layer.
        n_ctx: Positions of the learned positional embedding; 0 for none.
        d_vocab: Number of tokens.
        activation: Of the neurons.
        dtype: Of all tensors.
    """

    def __init__(
        self,
        topology: Topology,
        blocks: Mapping[str, int],
        *,
        d_head: int,
        d_mlp: int,
        n_ctx: int,
        d_vocab: int,
        activation: Activation = ACTIVATIONS["relu"],
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self._blocks: dict[str, slice] = {}
        d_model = 0
        for name, width in blocks.items():
            self._blocks[name] = slice(d_model, d_model + width)
            d_model += width
        self._next_neuron = [0] * topology.n_layers
        heads_d_head = topology.n_heads * d_head

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype)

        norm = NormWeights(
            gain=zeros(d_model) + NORM_GAIN, bias=None, eps=NORM_EPS, is_centred=False
        )
        layers = range(topology.n_layers)
        self.weights = TransformerWeights(
            topology=topology,
            n_kv_heads=topology.n_heads,
            d_head=d_head,
            embed=zeros(d_vocab, d_model),
            pos_embed=zeros(n_ctx, d_model) if n_ctx else None,
            attention=tuple(
                AttentionWeights(
                    norm=norm,
                    q=zeros(heads_d_head, d_model),
                    k=zeros(heads_d_head, d_model),
                    v=zeros(heads_d_head, d_model),
                    o=zeros(topology.n_heads, d_head, d_model),
                    b_q=zeros(heads_d_head),
                    b_k=None,
                    b_v=None,
                    b_o=None,
                    q_norm=None,
                    k_norm=None,
                    post_norm=None,
                    rotary=None,
                    scale=1.0,
                    window=None,
                )
                for _ in layers
            ),
            mlp=tuple(
                MlpWeights(
                    norm=norm,
                    up=zeros(d_mlp, d_model),
                    gate=None,
                    down=zeros(d_model, d_mlp),
                    b_up=zeros(d_mlp),
                    b_down=None,
                    activation=activation,
                    post_norm=None,
                )
                for _ in layers
            ),
            final_norm=norm,
            unembed=zeros(d_vocab, d_model),
            b_unembed=None,
        )

    def embed(self, block: str, rows: Float[Tensor, "d_vocab width"]) -> None:
        """What each token writes into a block."""
        self.weights.embed[:, self._blocks[block]] = rows

    def embed_positions(self, block: str, rows: Float[Tensor, "n_ctx width"]) -> None:
        """What each position writes into a block; it belongs to no sender."""
        assert self.weights.pos_embed is not None
        self.weights.pos_embed[:, self._blocks[block]] = rows

    def unembed(self, block: str, rows: Float[Tensor, "d_vocab width"]) -> None:
        """How each token's logit reads a block."""
        self.weights.unembed[:, self._blocks[block]] = rows

    def read(
        self, layer: int, head: int, kind: str, block: str, matrix: Float[Tensor, "d_read width"]
    ) -> None:
        """How the ``q``, ``k`` or ``v`` of a head reads a block; ``d_read`` is at most d_head."""
        projection: Tensor = getattr(self.weights.attention[layer], kind)
        start = head * self.weights.d_head
        projection[start : start + len(matrix), self._blocks[block]] = matrix

    def constant_query(self, layer: int, head: int, query: Float[Tensor, " d_read"]) -> None:
        """A query that asks the same at every position; it belongs to no sender."""
        bias = self.weights.attention[layer].b_q
        assert bias is not None
        start = head * self.weights.d_head
        bias[start : start + len(query)] = query

    def write(
        self, layer: int, head: int, block: str, matrix: Float[Tensor, "d_read width"]
    ) -> None:
        """What a head writes into a block of the values it mixes."""
        self.weights.attention[layer].o[head, : len(matrix), self._blocks[block]] = matrix

    def neuron(
        self,
        layer: int,
        reads: Mapping[str, Float[Tensor, " width"]],
        bias: float,
        writes: Mapping[str, Float[Tensor, " width"]],
    ) -> None:
        """The next free neuron of an MLP."""
        mlp, idx = self.weights.mlp[layer], self._next_neuron[layer]
        assert mlp.b_up is not None
        for block, weight in reads.items():
            mlp.up[idx, self._blocks[block]] = weight
        mlp.b_up[idx] = bias
        for block, weight in writes.items():
            mlp.down[self._blocks[block], idx] = weight
        self._next_neuron[layer] += 1

    def distract(self, block: str, generator: torch.Generator) -> None:
        """Gives random weights to every head and neuron that has none.

        They read the whole residual stream and write into one block, which must be read by no
        head, neuron or logit of the circuit.
        """
        weights = self.weights
        size = weights.d_model**-0.5

        def random(*shape: int) -> Tensor:
            return size * torch.randn(shape, generator=generator, dtype=weights.dtype)

        junk = self._blocks[block]
        width = junk.stop - junk.start
        for layer, (attention, mlp) in enumerate(zip(weights.attention, weights.mlp, strict=True)):
            for head in range(weights.topology.n_heads):
                if attention.o[head].any():
                    continue
                rows = slice(head * weights.d_head, (head + 1) * weights.d_head)
                for projection in (attention.q, attention.k, attention.v):
                    projection[rows] = random(weights.d_head, weights.d_model)
                attention.o[head, :, junk] = random(weights.d_head, width)
            first = self._next_neuron[layer]
            n_free = len(mlp.up) - first
            mlp.up[first:] = random(n_free, weights.d_model)
            mlp.down[junk, first:] = random(width, n_free)
