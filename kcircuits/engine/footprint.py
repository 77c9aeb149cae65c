"""Bytes that runs take above the loaded model: what chunks of prompts are planned by.

Upper bounds, counted from the files of the engine that are named below. Tests hold them against
measured peaks of models with every kind of norm, grouping and residual: never below, and at most
five times as large.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kcircuits.core.batch import PromptBatch
from kcircuits.engine.layer_blocks import n_together
from kcircuits.models.weights import NormWeights, TransformerWeights


class RowSizes(NamedTuple):
    """How large a row of tokens is.

    Attributes:
        n_pos: Positions that are run.
        n_prefix: Positions before them, of which only keys and values are kept.
        n_reads: Positions whose logits are read.
    """

    n_pos: int
    n_prefix: int = 0
    n_reads: int = 1

    @classmethod
    def of(cls, batch: PromptBatch, *, share_prefix: bool) -> "RowSizes":
        """The largest row of a batch, its answer included.

        Args:
            batch: Prompts.
            share_prefix: Of equal leading positions only keys and values are kept.
        """
        longest = max((len(answer) for answer in (*batch.targets, *batch.foils)), default=1)
        n_all = int(batch.lengths.max(initial=1)) + longest - 1
        shared = np.minimum(batch.prefix_lengths, batch.lengths - 1) if share_prefix else []
        return cls(
            n_pos=n_all - int(min(shared, default=0)),
            n_prefix=int(max(shared, default=0)),
            n_reads=1 if longest == 1 else longest + 1,
        )


def plain_bytes(weights: TransformerWeights, sizes: RowSizes) -> int:
    """Bytes per row of a plain forward that records nothing (``engine.forward``)."""
    n, n_keys = _Widths.of(weights), sizes.n_prefix + sizes.n_pos
    layer = sizes.n_pos * (6 * n.model + 12 * n.heads + 4 * n.mlp + 3 * n.head * n_keys)
    prefix = (2 * n.layers + 2) * n.heads * sizes.n_prefix
    return n.n_bytes * (layer + prefix + 4 * sizes.n_reads * n.vocab)


def recorded_bytes(weights: TransformerWeights, sizes: RowSizes, n_steps: int) -> int:
    """Bytes per row of a differentiated forward and its products with all senders.

    Counted from ``engine.attribution``, ``engine.receivers``.

    Args:
        weights: The model.
        sizes: Of the row.
        n_steps: Points that run side by side.
    """
    n, (n_pos, n_prefix, n_reads) = _Widths.of(weights), sizes
    # The clean run and the ablated one; then, at every point, what the way back needs of a layer,
    # or what is recorded of it with its gradients.
    ends = n.layers * (2 * n_pos + n_prefix) * (7 * n.model + 7 * n.heads)
    kept = n_pos * ((4 + n.norms) * n.model + (7 + n.head_norms) * n.heads + 2 * n.kv + 4 * n.mlp)
    kept += n_pos * n.head * (n_prefix + n_pos)
    recorded = n_pos * ((3 + n.norms) * n.model + 9 * n.heads)
    prefix = 4 * n.heads * n_prefix
    products = n_pos * (n.senders + 2 * n.head + n.together + n.receivers + n_steps) * n.model
    products += 4 * n.edges
    back = n_steps * (n.layers * (kept + prefix) + 8 * n_reads * n.vocab)
    after = n_steps * (n.layers * (recorded + prefix) + n_reads * n.vocab) + products
    return n.n_bytes * (ends + max(back, after))


def masked_bytes(weights: TransformerWeights, sizes: RowSizes) -> int:
    """Bytes per row of a masked forward and its stage (``engine.masked``)."""
    n, (n_pos, n_prefix, n_reads) = _Widths.of(weights), sizes
    stage = n.layers * (
        n_pos * (5 * n.model + 5 * n.heads) + n_prefix * (6 * n.model + 7 * n.heads)
    )
    tape = n_pos * (n.senders + n.together + 3 * n.head) * n.model + n_reads * n.senders * n.model
    layer = n_pos * (12 * n.heads + 4 * n.mlp + 3 * n.head * (n_prefix + n_pos))
    return n.n_bytes * (stage + tape + layer + 7 * n_reads * n.vocab + 3 * n.edges)


def gradient_bytes(weights: TransformerWeights, sizes: RowSizes) -> int:
    """Bytes per row of a masked forward that is differentiated (``engine.gradient``)."""
    n, (n_pos, n_prefix, n_reads) = _Widths.of(weights), sizes
    tape = n_pos * (2 * n.senders + n.layers * n.receivers) * n.model
    graph = n_pos * ((n.head + n.norms) * n.model + (9 + n.head_norms) * n.heads + 4 * n.mlp)
    graph += n_pos * n.head * (n_prefix + n_pos) + 2 * n.heads * n_prefix
    kept = tape + n.layers * graph + 4 * n_reads * n.vocab + 2 * n.edges
    return n.n_bytes * kept + masked_bytes(weights, sizes)


def projection_bytes(weights: TransformerWeights) -> int:
    """Bytes that a layer's projections take as senders see them, whatever the number of rows."""
    n = _Widths.of(weights)
    return 7 * n.n_bytes * n.heads * n.model


@dataclass(frozen=True, kw_only=True)
class _Widths:
    """Numbers behind the bytes.

    Attributes:
        model, heads, kv, mlp, vocab: Dimensions; those of heads and kv of all heads together.
        layers, head, senders, receivers: How many; heads and receivers in a layer.
        together: Receivers of a block of layers.
        edges: Numbers of a mask.
        norms, head_norms: Tensors that a layer's norms keep, as wide as the residual stream and as
            all queries.
        n_bytes: Of a number.
    """

    model: int
    heads: int
    kv: int
    mlp: int
    vocab: int
    layers: int
    head: int
    receivers: int
    together: int
    senders: int
    edges: int
    norms: int
    head_norms: int
    n_bytes: int

    @classmethod
    def of(cls, weights: TransformerWeights) -> "_Widths":
        topology, attention, mlp = weights.topology, weights.attention[0], weights.mlp[0]
        norms = (attention.norm, mlp.norm, attention.post_norm, mlp.post_norm)
        return cls(
            model=weights.d_model,
            heads=topology.n_heads * weights.d_head,
            kv=weights.n_kv_heads * weights.d_head,
            mlp=weights.d_mlp,
            vocab=len(weights.unembed),
            layers=topology.n_layers,
            head=topology.n_heads,
            receivers=3 * topology.n_heads + 1,
            together=n_together(topology) * (3 * topology.n_heads + 1),
            senders=topology.n_forward,
            edges=topology.n_forward * topology.n_backward,
            norms=sum(map(_n_kept, norms)),
            head_norms=_n_kept(attention.q_norm) + _n_kept(attention.k_norm),
            # Norms, logits and scores are computed in float32 at least.
            n_bytes=max(4, weights.embed.element_size()),
        )


def _n_kept(norm: NormWeights | None) -> int:
    """The unit and the output; where there are such, the centred input and the sum with a bias."""
    return 0 if norm is None else 2 + norm.is_centred + (norm.bias is not None)
