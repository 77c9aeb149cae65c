"""The plain forward pass, with an optional record of what senders wrote and receivers read."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from kcircuits.engine.layers import (
    GRADIENT,
    BackwardRules,
    KeysValues,
    Normalised,
    attention_output,
    attention_pattern,
    mixed_values,
    mlp_hidden,
    mlp_written,
    normalise,
    soft_capped,
    split_heads,
)
from kcircuits.models.weights import AttentionWeights, TransformerWeights

Prefix = tuple[KeysValues, ...]


@runtime_checkable
class Places(Protocol):
    """Where logits are wanted: ``engine.tokens.Reads``, or plain rows and positions."""

    @property
    def row(self) -> Tensor:
        """Row of each read."""
        ...

    @property
    def pos(self) -> Tensor:
        """Its position, counted from the first token of the row."""
        ...


class At(NamedTuple):
    """Rows and positions, both [read]."""

    row: Tensor
    pos: Tensor


class LayerRun(NamedTuple):
    """What one layer of a forward pass leaves behind; see ``Record``, and ``pattern`` of heads."""

    layer: int
    resid_pre: Tensor
    attention_norm: Normalised
    q: Tensor
    k: Tensor
    v: Tensor
    pattern: Tensor
    finished: KeysValues
    z: Tensor
    attention_out: Tensor
    mlp_in: Tensor
    mlp_hidden: Tensor
    mlp_out: Tensor


@runtime_checkable
class Recorder(Protocol):
    """Is shown every layer as it was run."""

    def see(self, run: LayerRun) -> None:
        """Keeps of a layer what is wanted."""
        ...


@dataclass
class Record:
    """What a forward pass leaves behind, one entry per layer.

    Senders: ``z`` (mixed values per head) and ``mlp_out``. Receivers: ``q``, ``k``, ``v`` as
    projected (one per query head), ``attention_norm`` (the norm that they were read through),
    ``mlp_in`` and ``final_in`` [read, d_model], each its own node of the autograd graph.
    ``mlp_hidden`` holds the activations of the MLPs' neurons where ``with_hidden`` asks for
    them, ``attention_out`` what each attention layer wrote in all, ``resid_pre`` the residual
    stream before each layer, ``finished`` the keys and values for a prefix.
    """

    with_hidden: bool = False
    resid_pre: list[Tensor] = field(default_factory=list)
    z: list[Tensor] = field(default_factory=list)
    attention_out: list[Tensor] = field(default_factory=list)
    mlp_hidden: list[Tensor] = field(default_factory=list)
    mlp_out: list[Tensor] = field(default_factory=list)
    q: list[Tensor] = field(default_factory=list)
    k: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)
    attention_norm: list[Normalised] = field(default_factory=list)
    mlp_in: list[Tensor] = field(default_factory=list)
    finished: list[KeysValues] = field(default_factory=list)
    final_in: Tensor | None = None

    def see(self, run: LayerRun) -> None:
        """Keeps everything but the attention pattern."""
        self.resid_pre.append(run.resid_pre)
        self.z.append(run.z)
        self.attention_out.append(run.attention_out)
        self.mlp_out.append(run.mlp_out)
        self.q.append(run.q)
        self.k.append(run.k)
        self.v.append(run.v)
        self.attention_norm.append(run.attention_norm)
        self.mlp_in.append(run.mlp_in)
        self.finished.append(run.finished)
        if self.with_hidden:
            self.mlp_hidden.append(run.mlp_hidden)


def embed(weights: TransformerWeights, tokens: Int[Tensor, "row pos"]) -> Tensor:
    """The ``input`` sender: token embeddings [row, pos, d_model], positions not included."""
    return F.embedding(tokens, weights.embed)


def positions(weights: TransformerWeights, start: int, n_pos: int) -> Tensor | float:
    """Learned positional embeddings [pos, d_model], which belong to no sender; 0 without any."""
    return 0.0 if weights.pos_embed is None else weights.pos_embed[start : start + n_pos]


def project(
    y: Float[Tensor, "row pos d_model"], attention: AttentionWeights, n_heads: int, d_head: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [row, n_heads, pos, d_head] of one input, one per query head."""
    q = split_heads(F.linear(y, attention.q, attention.b_q), d_head)
    k = split_heads(F.linear(y, attention.k, attention.b_k), d_head)
    v = split_heads(F.linear(y, attention.v, attention.b_v), d_head)
    group = n_heads // k.shape[1]
    return q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """An attention layer's or an MLP's output that is given instead of computed."""

    kind: Literal["attention", "mlp"]
    layer: int
    output: Float[Tensor, "row pos d_model"]


def forward(
    weights: TransformerWeights,
    inputs: Float[Tensor, "row pos d_model"],
    reads: Places,
    *,
    prefix: Prefix | None = None,
    record: Record | None = None,
    rules: BackwardRules = GRADIENT,
    replaced: Replaced | None = None,
) -> Float[Tensor, "read d_vocab"]:
    """Logits where they are read.

    Args:
        weights: The model.
        inputs: Token embeddings of the positions after the prefix.
        reads: Rows and positions, counted from the first token of the row.
        prefix: Finished keys and values of earlier positions, per layer.
        record: Filled on the way, where given.
        rules: Of the backward pass.
        replaced: An output to put in the place of the model's own.
    """
    start = n_prefix(prefix)
    resid = run_layers(
        weights,
        inputs + positions(weights, start, inputs.shape[1]),
        prefix=prefix,
        record=record,
        rules=rules,
        replaced=replaced,
    )
    final_in = resid[reads.row, reads.pos - start]
    if record is not None:
        record.final_in = final_in
    return unembed(weights, final_in, rules)


def run_layers(
    weights: TransformerWeights,
    resid: Float[Tensor, "row pos d_model"],
    *,
    first: int = 0,
    prefix: Prefix | None = None,
    record: Recorder | None = None,
    rules: BackwardRules = GRADIENT,
    replaced: Replaced | None = None,
) -> Float[Tensor, "row pos d_model"]:
    """The residual stream after the last layer, from the one before layer ``first``."""
    with_hidden = isinstance(record, Record) and record.with_hidden
    for layer in range(first, weights.topology.n_layers):
        attention, mlp = weights.attention[layer], weights.mlp[layer]
        normed = normalise(resid, attention.norm, rules)
        q, k, v = project(normed.output, attention, weights.topology.n_heads, weights.d_head)
        before = None if prefix is None else prefix[layer]
        pattern, finished = attention_pattern(q, k, v, attention, before, rules)
        z = mixed_values(pattern, finished, rules)
        mixed = attention_output(z, attention, rules)
        if replaced is not None and (replaced.kind, replaced.layer) == ("attention", layer):
            mixed = replaced.output
        after_attention = resid + mixed
        mlp_in = resid if weights.topology.is_parallel else after_attention
        mlp_in = mlp_in.view_as(mlp_in)  # a graph node of its own: the MLP's private input
        hidden = mlp_hidden(normalise(mlp_in, mlp.norm, rules).output, mlp, rules)
        written = mlp_written(hidden, mlp, rules)
        if replaced is not None and (replaced.kind, replaced.layer) == ("mlp", layer):
            written = replaced.output
            if with_hidden:
                # What is written does not move with the model any more, but with its neurons.
                hidden = hidden.detach().requires_grad_()
                moved = mlp_written(hidden, mlp, rules)
                written = written + (moved - moved.detach())
        if record is not None:
            record.see(
                LayerRun(
                    layer=layer,
                    resid_pre=resid,
                    attention_norm=normed,
                    q=q,
                    k=k,
                    v=v,
                    pattern=pattern,
                    finished=finished,
                    z=z,
                    attention_out=mixed,
                    mlp_in=mlp_in,
                    mlp_hidden=hidden,
                    mlp_out=written,
                )
            )
        resid = after_attention + written
    return resid


def unembed(
    weights: TransformerWeights,
    final_in: Float[Tensor, "read d_model"],
    rules: BackwardRules = GRADIENT,
) -> Float[Tensor, "read d_vocab"]:
    """Logits of residual streams; at least float32."""
    logits = F.linear(
        normalise(final_in, weights.final_norm, rules).output, weights.unembed, weights.b_unembed
    )
    capped = soft_capped(logits, weights.logits_soft_cap)
    return capped if capped.dtype == torch.float64 else capped.float()


def run_prefix(weights: TransformerWeights, tokens: Int[Tensor, "row pos"]) -> Prefix | None:
    """Finished keys and values of shared leading tokens; None where there are none."""
    if tokens.shape[1] == 0:
        return None
    record = Record()
    with torch.no_grad():
        run_rows(weights, tokens, record=record)
    return tuple(record.finished)


def run_rows(
    weights: TransformerWeights, tokens: Int[Tensor, "row pos"], record: Record | None = None
) -> Float[Tensor, "row d_vocab"]:
    """Logits after the last token of every row."""
    n_rows, n_pos = tokens.shape
    row = torch.arange(n_rows, device=tokens.device)
    pos = torch.full_like(row, n_pos - 1)
    return forward(weights, embed(weights, tokens), At(row, pos), record=record)


def n_prefix(prefix: Prefix | None) -> int:
    """Number of positions in a prefix."""
    return 0 if prefix is None else prefix[0][0].shape[2]


def repeat_prefix(
    prefix: Prefix | None, n: int
) -> tuple[tuple[Tensor, Tensor], ...] | None:  # another ``row`` than the prefix's
    """The prefix for rows stacked ``n`` times."""
    if prefix is None or n == 1:
        return prefix
    return tuple((k.repeat(n, 1, 1, 1), v.repeat(n, 1, 1, 1)) for k, v in prefix)
