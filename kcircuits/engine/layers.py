"""The arithmetic of single layers, shared by the plain, the recording and the masked forward.

Heads keep their own axis from the projections on. Keys and values of grouped-query models are
expanded to query heads before qk-norm and rotary embedding, so that every query head has its own
key and value to differentiate.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from kcircuits.models.weights import AttentionWeights, MlpWeights, NormWeights

# Keys and values of other positions than the queries' ``pos``.
KeysValues = tuple[Float[Tensor, "row n_heads _ d_head"], Float[Tensor, "row n_heads _ d_head"]]


@dataclass(frozen=True)
class Normalised:
    """The parts of a norm: output = gain * unit + bias, unit = (centred x) * inverse_scale."""

    output: Float[Tensor, "... width"]
    unit: Float[Tensor, "... width"]
    inverse_scale: Float[Tensor, "... 1"]


def normalise(x: Float[Tensor, "... width"], norm: NormWeights) -> Normalised:
    """LayerNorm or RMSNorm; statistics in at least float32, as the trained models do."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    if norm.is_centred:
        wide = wide - wide.mean(-1, keepdim=True)
    inverse_scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)
    unit = wide * inverse_scale
    output = (unit * norm.gain).to(x.dtype)
    if norm.bias is not None:
        output = output + norm.bias
    return Normalised(output, unit, inverse_scale)


def split_heads(x: Float[Tensor, "row pos heads_d_head"], d_head: int) -> Tensor:
    """[row, pos, heads * d_head] -> [row, heads, pos, d_head]."""
    return x.unflatten(-1, (-1, d_head)).transpose(1, 2)


def attend(
    q: Float[Tensor, "row n_heads pos d_head"],
    k: Float[Tensor, "row n_heads pos d_head"],
    v: Float[Tensor, "row n_heads pos d_head"],
    attention: AttentionWeights,
    prefix: KeysValues | None,
) -> tuple[Float[Tensor, "row n_heads pos d_head"], KeysValues]:
    """Mixes values by attention, after qk-norm and rotary embedding.

    Args:
        q: Queries as projected.
        k: Keys as projected, one per query head.
        v: Values as projected, one per query head.
        attention: The layer.
        prefix: Finished keys and values of earlier positions.

    Returns:
        The mixed values of each head, and the finished keys and values.
    """
    start = 0 if prefix is None else prefix[0].shape[2]
    if attention.q_norm is not None:
        q = normalise(q, attention.q_norm).output
    if attention.k_norm is not None:
        k = normalise(k, attention.k_norm).output
    if attention.rotary is not None:
        cos, sin = (table[start : start + q.shape[2]] for table in attention.rotary)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    if prefix is not None:
        k, v = torch.cat([prefix[0], k], 2), torch.cat([prefix[1], v], 2)
    mask = _causal_mask(start, q.shape[2], attention.window, q.device)
    scores = (q @ k.transpose(-1, -2)) * attention.scale
    scores = scores.masked_fill(mask, float("-inf"))
    wide = torch.float32 if scores.dtype in (torch.bfloat16, torch.float16) else scores.dtype
    pattern = scores.softmax(-1, dtype=wide).to(v.dtype)
    return pattern @ v, (k, v)


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
    """What each head writes to the residual stream, after a post-norm of their sum if any."""
    written = torch.einsum("rhpe,hed->rhpd", z, attention.o)
    if attention.post_norm is None:
        return written
    total = written.sum(1) if attention.b_o is None else written.sum(1) + attention.b_o
    norm = attention.post_norm
    return written * normalise(total, norm).inverse_scale.unsqueeze(1) * norm.gain


def attention_output(
    z: Float[Tensor, "row n_heads pos d_head"], attention: AttentionWeights
) -> Float[Tensor, "row pos d_model"]:
    """What the whole layer writes, its output bias included."""
    mixed = z.transpose(1, 2).flatten(2) @ attention.o.flatten(0, 1)
    if attention.b_o is not None:
        mixed = mixed + attention.b_o
    return mixed if attention.post_norm is None else normalise(mixed, attention.post_norm).output


def mlp_output(x: Float[Tensor, "... d_model"], mlp: MlpWeights) -> Tensor:
    """What an MLP writes for its normalised input."""
    hidden = F.linear(x, mlp.up, mlp.b_up)
    if mlp.gate is None:
        hidden = mlp.activation(hidden)
    else:
        hidden = mlp.activation(F.linear(x, mlp.gate)) * hidden
    written = F.linear(hidden, mlp.down, mlp.b_down)
    return written if mlp.post_norm is None else normalise(written, mlp.post_norm).output
