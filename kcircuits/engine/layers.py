"""The arithmetic of single layers, shared by the plain, the recording and the masked forward.

Heads keep their own axis from the projections on. Keys and values of grouped-query models are
expanded to query heads before qk-norm and rotary embedding, so that every query head has its own
key and value to differentiate.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from kcircuits.models.weights import AttentionWeights, MlpWeights, NormWeights

# Keys and values of other positions than the queries' ``pos``.
KeysValues = tuple[Float[Tensor, "row n_heads _ d_head"], Float[Tensor, "row n_heads _ d_head"]]


@dataclass(frozen=True, kw_only=True)
class BackwardRules:
    """Where the backward pass departs from the gradient; forward values never change.

    Attributes:
        freeze_norms: The scale of every norm is a constant (query, key and post-norms included).
        linear_activations: act(x) is x times the constant act(x) / x.
        halve_products: The gradient of the product of gate and up is halved through each factor.
        halve_attention: Likewise that of pattern times values and of queries times keys.
        softmax_temperature: The Jacobian of the pattern is diag(p) - p p' at the p of this
            temperature.
    """

    freeze_norms: bool = False
    linear_activations: bool = False
    halve_products: bool = False
    halve_attention: bool = False
    softmax_temperature: float = 1.0


GRADIENT = BackwardRules()


@dataclass(frozen=True)
class Normalised:
    """The parts of a norm: output = gain * unit + bias, unit = (centred x) * inverse_scale."""

    output: Float[Tensor, "... width"]
    unit: Float[Tensor, "... width"]
    inverse_scale: Float[Tensor, "... 1"]


def normalise(
    x: Float[Tensor, "... width"], norm: NormWeights | None, rules: BackwardRules = GRADIENT
) -> Normalised:
    """LayerNorm or RMSNorm; statistics in at least float32, as the trained models do.

    Without a norm the output is ``x`` itself, at scale 1.
    """
    if norm is None:
        return Normalised(x, x, torch.ones_like(x[..., :1]))
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    if norm.is_centred:
        wide = wide - wide.mean(-1, keepdim=True)
    measured = wide.detach() if rules.freeze_norms else wide
    inverse_scale = torch.rsqrt(measured.square().mean(-1, keepdim=True) + norm.eps)
    unit = wide * inverse_scale
    output = (unit * norm.gain).to(x.dtype)
    if norm.bias is not None:
        output = output + norm.bias
    return Normalised(output, unit, inverse_scale)


def by_row(x: Float[Tensor, "node row pos d_model"]) -> Float[Tensor, "row node _"]:
    """The same memory with rows first and each row's positions in one."""
    return x.transpose(0, 1).flatten(2)


def split_heads(x: Float[Tensor, "row pos heads_d_head"], d_head: int) -> Tensor:
    """[row, pos, heads * d_head] -> [row, heads, pos, d_head]."""
    return x.unflatten(-1, (-1, d_head)).transpose(1, 2)


def attend(
    q: Float[Tensor, "row n_heads pos d_head"],
    k: Float[Tensor, "row n_heads pos d_head"],
    v: Float[Tensor, "row n_heads pos d_head"],
    attention: AttentionWeights,
    prefix: KeysValues | None,
    rules: BackwardRules = GRADIENT,
) -> tuple[Float[Tensor, "row n_heads pos d_head"], KeysValues]:
    """Mixes values by attention: the mixed values of each head, and the finished keys and values.

    Arguments are those of ``attention_pattern``.
    """
    pattern, finished = attention_pattern(q, k, v, attention, prefix, rules)
    return mixed_values(pattern, finished, rules), finished


def attention_pattern(
    q: Float[Tensor, "row n_heads pos d_head"],
    k: Float[Tensor, "row n_heads pos d_head"],
    v: Float[Tensor, "row n_heads pos d_head"],
    attention: AttentionWeights,
    prefix: KeysValues | None,
    rules: BackwardRules = GRADIENT,
) -> tuple[Float[Tensor, "row n_heads pos _"], KeysValues]:
    """How much each position attends to each, after qk-norm, clipping and rotary embedding.

    A qk-norm over all heads together takes its scale from the queries (keys) that all heads have
    in this run: that is what a head's private input means where its norm is shared.

    Args:
        q: Queries as projected.
        k: Keys as projected, one per query head.
        v: Values as projected, one per query head.
        attention: The layer.
        prefix: Finished keys and values of earlier positions.
        rules: Of the backward pass.

    Returns:
        The pattern of each head, and the finished keys and values.
    """
    start = 0 if prefix is None else prefix[0].shape[2]
    if attention.q_norm is not None:
        q = _normalise_heads(q, attention.q_norm, rules)
    if attention.k_norm is not None:
        k = _normalise_heads(k, attention.k_norm, rules)
    if attention.clip is not None:
        q, k, v = (x.clamp(-attention.clip, attention.clip) for x in (q, k, v))
    if attention.rotary is not None:
        cos, sin = (table[start : start + q.shape[2]] for table in attention.rotary)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    if prefix is not None:
        k, v = torch.cat([prefix[0], k], 2), torch.cat([prefix[1], v], 2)
    mask = _causal_mask(start, q.shape[2], attention.window, q.device)
    scores = (q @ k.transpose(-1, -2)) * attention.scale
    if rules.halve_attention:
        scores = _halved(scores)
    scores = soft_capped(scores, attention.soft_cap).masked_fill(mask, float("-inf"))
    return _softmax(scores, rules.softmax_temperature).to(v.dtype), (k, v)


def mixed_values(
    pattern: Float[Tensor, "row n_heads pos _"], finished: KeysValues, rules: BackwardRules
) -> Float[Tensor, "row n_heads pos d_head"]:
    """The values that each head mixes."""
    mixed = pattern @ finished[1]
    return _halved(mixed) if rules.halve_attention else mixed


def _normalise_heads(
    x: Float[Tensor, "row n_heads pos d_head"], norm: NormWeights, rules: BackwardRules
) -> Float[Tensor, "row n_heads pos d_head"]:
    """Normalises each head alone, or all heads of a position together if the gain says so."""
    n_heads, d_head = x.shape[1], x.shape[3]
    if len(norm.gain) == d_head:
        return normalise(x, norm, rules).output
    together = normalise(x.transpose(1, 2).flatten(2), norm, rules).output
    return together.unflatten(2, (n_heads, d_head)).transpose(1, 2)


def soft_capped(x: Tensor, cap: float | None) -> Tensor:
    """Values pressed into (-cap, cap) by a tanh; unchanged without a cap."""
    return x if cap is None else cap * torch.tanh(x / cap)


def _softmax(scores: Tensor, temperature: float) -> Tensor:
    """Softmax in at least float32, with the Jacobian diag(p) - p p' of another temperature's p.

    That is the gradient of the softer softmax without its factor 1 / temperature.
    """
    wide = torch.float32 if scores.dtype in (torch.bfloat16, torch.float16) else scores.dtype
    pattern = scores.softmax(-1, dtype=wide)
    if temperature == 1.0:
        return pattern
    softer = temperature * (scores / temperature).softmax(-1, dtype=wide)
    return softer + (pattern - softer).detach()


class _Halved(torch.autograd.Function):
    """The same values, half the gradient."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.view_as(x)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient / 2


def _halved(x: Tensor) -> Tensor:
    halved: Tensor = _Halved.apply(x)  # type: ignore[assignment]
    return halved


def _rotate(x: Tensor, cos: Float[Tensor, "pos d"], sin: Float[Tensor, "pos d"]) -> Tensor:
    d_rotary = cos.shape[-1]
    turning, passing = x[..., :d_rotary], x[..., d_rotary:]
    first, second = turning.chunk(2, -1)
    turned = turning * cos + torch.cat([-second, first], -1) * sin
    return torch.cat([turned, passing], -1) if passing.shape[-1] else turned


def _causal_mask(start: int, n_pos: int, window: int | None, device: torch.device) -> Tensor:
    """True where a query must not look; queries start at position ``start``."""
    query = torch.arange(start, start + n_pos, device=device)[:, None]
    key = torch.arange(start + n_pos, device=device)[None, :]
    mask = key > query
    return mask if window is None else mask | (query - key >= window)


def head_outputs(
    z: Float[Tensor, "row n_heads pos d_head"], attention: AttentionWeights
) -> Float[Tensor, "row n_heads pos d_model"]:
    """What each head writes to the residual stream, after a post-norm of their sum if any.

    An output bias belongs to no head, unless a post-norm follows: what it adds then depends on
    what the heads write, and each carries an equal share of it.
    """
    written = torch.einsum("rhpe,hed->rhpd", z, attention.o)
    norm = attention.post_norm
    if norm is None:
        return written
    if attention.b_o is not None:
        written = written + attention.b_o / written.shape[1]
    return written * normalise(written.sum(1), norm).inverse_scale.unsqueeze(1) * norm.gain


def attention_output(
    z: Float[Tensor, "row n_heads pos d_head"],
    attention: AttentionWeights,
    rules: BackwardRules = GRADIENT,
) -> Float[Tensor, "row pos d_model"]:
    """What the whole layer writes, its output bias included."""
    mixed = z.transpose(1, 2).flatten(2) @ attention.o.flatten(0, 1)
    if attention.b_o is not None:
        mixed = mixed + attention.b_o
    if attention.post_norm is None:
        return mixed
    return normalise(mixed, attention.post_norm, rules).output


def mlp_hidden(
    x: Float[Tensor, "... d_model"], mlp: MlpWeights, rules: BackwardRules = GRADIENT
) -> Float[Tensor, "... d_mlp"]:
    """Activations of an MLP's neurons for its normalised input."""
    up = F.linear(x, mlp.up, mlp.b_up)
    if mlp.gate is None:
        return _activate(up, mlp, rules)
    hidden = _activate(F.linear(x, mlp.gate), mlp, rules) * up
    return _halved(hidden) if rules.halve_products else hidden


def _activate(x: Tensor, mlp: MlpWeights, rules: BackwardRules) -> Tensor:
    if not rules.linear_activations:
        return mlp.activation(x)
    with torch.no_grad():
        slope = mlp.activation(x) / x.masked_fill(x == 0, 1.0)
    return x * slope


def mlp_written(
    hidden: Float[Tensor, "... d_mlp"], mlp: MlpWeights, rules: BackwardRules = GRADIENT
) -> Float[Tensor, "... d_model"]:
    """What an MLP writes for given activations of its neurons."""
    written = F.linear(hidden, mlp.down, mlp.b_down)
    return written if mlp.post_norm is None else normalise(written, mlp.post_norm, rules).output


def mlp_output(
    x: Float[Tensor, "... d_model"], mlp: MlpWeights, rules: BackwardRules = GRADIENT
) -> Float[Tensor, "... d_model"]:
    """What an MLP writes for its normalised input."""
    return mlp_written(mlp_hidden(x, mlp, rules), mlp, rules)
