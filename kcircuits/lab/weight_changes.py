"""Changes of a model's weights whose effect on circuits is known: renumbered heads, and noise."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kcircuits.errors import UsageError
from kcircuits.models.weights import AttentionWeights, NormWeights, TransformerWeights


def random_head_order(
    weights: TransformerWeights, rng: np.random.Generator
) -> Int[np.ndarray, "layer head"]:
    """A random order of the heads of each layer that leaves none in its place.

    Query heads that share keys and values stay together: groups change places, and the heads of a
    group among themselves.

    Raises:
        UsageError: The layers have a single head.
    """
    n_heads, n_groups = weights.topology.n_heads, weights.n_kv_heads
    if n_heads < 2:
        raise UsageError("layers of a single head have no other order of heads", field="n_heads")

    own = np.arange(n_heads)

    def draw() -> np.ndarray:
        groups = own.reshape(n_groups, -1)[rng.permutation(n_groups)]
        return rng.permuted(groups, axis=1).ravel()

    def moved() -> np.ndarray:
        order = draw()
        while (order == own).any():
            order = draw()
        return order

    return np.stack([moved() for _ in range(weights.topology.n_layers)])


def permute_heads(
    weights: TransformerWeights, order: Int[np.ndarray, "layer head"]
) -> TransformerWeights:
    """The same function with its heads renumbered: head i of a layer is what ``order[i]`` was.

    Args:
        weights: The model.
        order: Of the query heads of each layer; heads that share keys and values stay together.

    Raises:
        UsageError: An order that tears a group apart, or is none.
    """
    n_groups = weights.n_kv_heads
    group_of = np.arange(weights.topology.n_heads) // (weights.topology.n_heads // n_groups)
    layers: list[AttentionWeights] = []
    for heads, attention in zip(order, weights.attention, strict=True):
        groups = group_of[heads].reshape(n_groups, -1)
        if sorted(heads.tolist()) != list(range(len(group_of))) or (groups != groups[:, :1]).any():
            raise UsageError(
                f"{heads.tolist()} is no order of heads in {n_groups} groups of keys and values",
                field="order",
                hint="keep the heads of a group together",
            )
        layers.append(_reordered(attention, heads, groups[:, 0], weights.d_head))
    return replace(weights, attention=tuple(layers))


def add_noise(
    weights: TransformerWeights, scale: float, seed: int, *, is_relative: bool = False
) -> TransformerWeights:
    """Gaussian noise on the matrices of embedding, heads, MLPs and unembedding.

    Norms, biases and embedded positions stay. One seed gives the same noise at every scale, only
    larger.

    Args:
        weights: The model.
        scale: Standard deviation of the noise.
        seed: Of the noise.
        is_relative: The scale is a share of each matrix's own standard deviation.
    """
    generator = torch.Generator().manual_seed(seed)

    def noisy(weight: Tensor) -> Tensor:
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        size = scale * float(weight.double().std()) if is_relative else scale
        return weight + (size * noise).to(weight)

    return replace(
        weights,
        embed=noisy(weights.embed),
        unembed=noisy(weights.unembed),
        attention=tuple(
            replace(a, q=noisy(a.q), k=noisy(a.k), v=noisy(a.v), o=noisy(a.o))
            for a in weights.attention
        ),
        mlp=tuple(
            replace(
                m,
                up=noisy(m.up),
                down=noisy(m.down),
                gate=None if m.gate is None else noisy(m.gate),
            )
            for m in weights.mlp
        ),
    )


def _reordered(
    attention: AttentionWeights, heads: np.ndarray, groups: np.ndarray, d_head: int
) -> AttentionWeights:
    """One layer with its query heads and its groups of keys and values in another order."""

    def blocks(x: Tensor | None, order: np.ndarray) -> Tensor | None:
        if x is None:
            return None
        return x.unflatten(0, (-1, d_head))[torch.as_tensor(order)].flatten(0, 1)

    def norm(weights: NormWeights | None) -> NormWeights | None:
        """A gain of all heads together moves with them; keys are normalised per query head."""
        if weights is None or len(weights.gain) == d_head:
            return weights
        gain, bias = blocks(weights.gain, heads), blocks(weights.bias, heads)
        assert gain is not None
        return replace(weights, gain=gain, bias=bias)

    moved = {
        name: blocks(getattr(attention, name), order)
        for name, order in (
            ("q", heads), ("b_q", heads), ("k", groups), ("b_k", groups), ("v", groups),
            ("b_v", groups),
        )
    }  # fmt: skip
    return replace(
        attention,
        **moved,
        o=attention.o[torch.as_tensor(heads)],
        q_norm=norm(attention.q_norm),
        k_norm=norm(attention.k_norm),
    )
