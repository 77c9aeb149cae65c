"""Direct logit attribution by the positions that heads read, and the logit lens, in one pass.

The final norm's scale s is frozen at its value in the run; then any linear function of the logits
at the answer position is a sum over everything that was written to the residual stream there,

    w . logits = sum over components c of  c . d + constants,    d = s * centred(gain * (w U)),

with U the unembedding (centred for LayerNorm only). A head writes the values of all positions j
that it attends to, so its part is a sum over them:

    sum over j of  pattern[answer, j] * (v_j W_O) . d.

Where a norm follows the attention (Gemma, OLMo 2), its scale is frozen too and d is carried back
through it. What belongs to no component is constant: positional embeddings, output biases of
attention, biases of norms and of the unembedding. A value bias is part of the values.

The functions are the target's logit *above the mean over the vocabulary*, and target minus foil.
The raw logit would not do: softmax ignores what all logits have in common, but heads write much of
it (attention sinks above all), and a role by raw logits is mostly about that.

Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits (direct paths);
Chughtai, Cooney, Nanda 2024, arXiv 2402.07321 (by source token); nostalgebraist 2020 (logit lens).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kcircuits.engine.forward import LayerRun, embed, positions, run_layers, unembed
from kcircuits.engine.layers import normalise
from kcircuits.models.weights import AttentionWeights, NormWeights, TransformerWeights


class DirectEffects(NamedTuple):
    """Of each row, at its last position; contributions in logits before any soft cap.

    Attributes:
        heads: Contribution of each head, by the group of positions that it reads.
        mlps: Contribution of each MLP.
        embedding: Contribution of the token embedding.
        constant: What belongs to no component.
        mean_logit: Mean logit of the vocabulary, before any soft cap.
        attention: Share of each head's attention on each group of positions.
        logprob: Log-probability of the token, read from the residual stream before each layer and
            after the last, in nats.
        rank: Its rank in the vocabulary there, 1 is best.
    """

    heads: Float[Tensor, "row effect n_layers n_heads group"]
    mlps: Float[Tensor, "row effect n_layers"]
    embedding: Float[Tensor, "row effect"]
    constant: Float[Tensor, "row effect"]
    mean_logit: Float[Tensor, " row"]
    attention: Float[Tensor, "row n_layers n_heads group"]
    logprob: Float[Tensor, "row depth"]
    rank: Int[Tensor, "row depth"]


class Readout(NamedTuple):
    """Linear functions of the logits before their soft cap: weight . (final norm's output) + bias.

    ``mean_weight`` and ``mean_bias`` give the mean logit of the vocabulary.
    """

    weight: Float[Tensor, "row effect d_model"]
    bias: Float[Tensor, "row effect"]
    mean_weight: Float[Tensor, " d_model"]
    mean_bias: Float[Tensor, ""]


@torch.no_grad()
def direct_effects(
    weights: TransformerWeights,
    tokens: Int[Tensor, "row pos"],
    lengths: Int[Tensor, " row"],
    target: Int[Tensor, " row"],
    foil: Int[Tensor, " row"],
    groups: Float[Tensor, "row pos group"],
) -> DirectEffects:
    """What each component adds to the logits of two tokens after the last token of each row.

    Args:
        weights: The model.
        tokens: Token ids, padded on the right.
        lengths: Real tokens of each row.
        target: The token whose logit is explained, and that the logit lens looks for.
        foil: The token that it is compared with.
        groups: 1 where a position belongs to a group, else 0.
    """
    at = torch.arange(len(tokens), device=tokens.device), lengths - 1
    readout = read_logits(weights, target, foil)
    watch = _Watch(weights, at, target, readout, groups)
    inputs, always = embed(weights, tokens), positions(weights, 0, tokens.shape[1])
    resid = run_layers(weights, inputs + always, record=watch)
    watch.look(resid[at])
    final = normalise(resid[at], weights.final_norm)
    wide, scale = readout.weight.dtype, final.inverse_scale
    constant = watch.biases + watch.along((torch.zeros_like(inputs) + always)[at])
    return DirectEffects(
        heads=torch.stack(watch.heads, 2) * scale[..., None, None, None],
        mlps=torch.stack(watch.mlps, 2) * scale[..., None],
        embedding=watch.along(inputs[at]) * scale,
        constant=constant * scale + _own_bias(weights.final_norm, readout),
        mean_logit=final.output.to(wide) @ readout.mean_weight + readout.mean_bias,
        attention=torch.stack(watch.attention, 1),
        logprob=torch.stack(watch.logprob, 1),
        rank=torch.stack(watch.rank, 1),
    )


def read_logits(
    weights: TransformerWeights, target: Int[Tensor, " row"], foil: Int[Tensor, " row"]
) -> Readout:
    """The target's logit above the vocabulary's mean, and target minus foil."""
    wide = torch.promote_types(weights.dtype, torch.float32)
    table, bias = weights.unembed, weights.b_unembed
    bias = torch.zeros_like(table[:, 0]) if bias is None else bias
    mean_weight, mean_bias = table.mean(0, dtype=wide), bias.mean(dtype=wide)
    w_target, w_foil, b_target, b_foil = (
        of_all[token].to(wide) for of_all in (table, bias) for token in (target, foil)
    )
    return Readout(
        weight=torch.stack([w_target - mean_weight, w_target - w_foil], 1),
        bias=torch.stack([b_target - mean_bias, b_target - b_foil], 1),
        mean_weight=mean_weight,
        mean_bias=mean_bias,
    )


def through_norm(direction: Float[Tensor, "*any d_model"], norm: NormWeights) -> Tensor:
    """A direction of a norm's output as seen from its input, without the norm's scale."""
    seen = direction * norm.gain
    return seen - seen.mean(-1, keepdim=True) if norm.is_centred else seen


def _own_bias(norm: NormWeights, readout: Readout) -> Float[Tensor, "row effect"]:
    """What the final norm's bias and the unembedding's add."""
    if norm.bias is None:
        return readout.bias
    return readout.bias + readout.weight @ norm.bias.to(readout.weight.dtype)


class _Watch:
    """Keeps what a run shows at its answer positions, without the final norm's scale."""

    def __init__(
        self,
        weights: TransformerWeights,
        at: tuple[Tensor, Tensor],
        token: Tensor,
        readout: Readout,
        groups: Tensor,
    ) -> None:
        self.weights, self.at, self.token = weights, at, token
        self.direction = through_norm(readout.weight, weights.final_norm)
        self.groups = groups.to(self.direction.dtype)
        self.biases = torch.zeros_like(readout.bias)
        self.heads: list[Tensor] = []
        self.mlps: list[Tensor] = []
        self.attention: list[Tensor] = []
        self.logprob: list[Tensor] = []
        self.rank: list[Tensor] = []

    def see(self, run: LayerRun) -> None:
        """One layer."""
        self.look(run.resid_pre[self.at])
        row, pos = self.at
        wide, attention = self.direction.dtype, self.weights.attention[run.layer]
        pattern = run.pattern[row, :, pos].to(wide)  # [row, head, key]
        self.attention.append(torch.einsum("rhk,rkg->rhg", pattern, self.groups))
        direction = self._before_post_norm(attention, run.z[row, :, pos])
        if attention.b_o is not None:
            self.biases += direction @ attention.b_o.to(wide)
        through = torch.einsum("rtd,hed->rhte", direction, attention.o.to(wide))
        of_values = torch.einsum("rhke,rhte->rthk", run.finished[1].to(wide), through)
        read = of_values * pattern[:, None]
        self.heads.append(torch.einsum("rthk,rkg->rthg", read, self.groups))
        self.mlps.append(self.along(run.mlp_out[self.at]))

    def _before_post_norm(
        self, attention: AttentionWeights, z: Float[Tensor, "row n_heads d_head"]
    ) -> Float[Tensor, "row effect d_model"]:
        """The functions' directions as what the heads write sees them."""
        norm = attention.post_norm
        if norm is None:
            return self.direction
        written = torch.einsum("rhe,hed->rd", z, attention.o)
        if attention.b_o is not None:
            written = written + attention.b_o
        if norm.bias is not None:
            self.biases += self.direction @ norm.bias.to(self.direction.dtype)
        return through_norm(self.direction, norm) * normalise(written, norm).inverse_scale[:, None]

    def along(self, written: Float[Tensor, "row d_model"]) -> Float[Tensor, "row effect"]:
        """What is written, along the functions' directions."""
        return torch.einsum("rd,rtd->rt", written.to(self.direction.dtype), self.direction)

    def look(self, resid: Float[Tensor, "row d_model"]) -> None:
        """Reads the token off a residual stream as the final norm and the unembedding would."""
        logits = unembed(self.weights, resid)
        own = logits.gather(1, self.token[:, None])
        self.logprob.append((own - logits.logsumexp(1, keepdim=True))[:, 0])
        self.rank.append(1 + (logits > own).sum(1))
