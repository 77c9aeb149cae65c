"""The forward pass of circuits: every prompt its own edge mask.

The input of a receiver is

    base + sum over senders of mask * (current output - ablated output),

with base the residual stream of a run in which every sender gives its ablated output. Attention
output biases and positional embeddings belong to no sender and always flow.

Senders' changes stand on one append-only tape [row, n_forward, pos, d_model]. A receiver whose
mask column is zero in every row reads the base, which all such receivers share.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.engine.ablation import Ablated, Ablation, Constants, ablate_all, head_change
from kcircuits.engine.forward import Prefix, embed, forward, run_prefix, unembed
from kcircuits.engine.layers import attend, mlp_output, normalise
from kcircuits.engine.private import project_privately
from kcircuits.engine.tokens import TokenRows
from kcircuits.models.weights import TransformerWeights


@dataclass(frozen=True, kw_only=True)
class Stage:
    """All that circuits of the same rows share: what is run once for many masks.

    Attributes:
        rows: Clean prompts.
        prefix: Finished keys and values of the shared leading tokens.
        inputs: Clean embeddings of the rest.
        ablated: The run with every edge ablated.
        clean_logits: The full model's logits where they are read [read, d_vocab].
    """

    rows: TokenRows
    prefix: Prefix | None
    inputs: Tensor
    ablated: Ablated
    clean_logits: Tensor


@torch.no_grad()
def set_stage(
    weights: TransformerWeights,
    rows: TokenRows,
    ablation: Ablation = "corrupt",
    constants: Constants | None = None,
) -> Stage:
    """Runs the full model and the ablated one.

    Args:
        weights: The model.
        rows: Clean prompts; without a shared prefix unless ablation is corrupt.
        ablation: What ablated edges carry.
        constants: What they carry where that is constants.
    """
    prefix = run_prefix(weights, rows.clean[:, : rows.n_shared])
    inputs = embed(weights, rows.clean[:, rows.n_shared :])
    return Stage(
        rows=rows,
        prefix=prefix,
        inputs=inputs,
        ablated=ablate_all(weights, rows, ablation, constants),
        clean_logits=forward(weights, inputs, rows.reads, prefix=prefix),
    )


@torch.no_grad()
def circuit_logits(
    weights: TransformerWeights, stage: Stage, mask: Float[Tensor, "row n_forward n_backward"]
) -> Float[Tensor, "read d_vocab"]:
    """Logits where they are read when only the masked edges carry current activations.

    Args:
        weights: The model.
        stage: The rows, from ``set_stage``.
        mask: 1 keeps an edge, 0 ablates it; values between interpolate.
    """
    tape = Tape(weights, stage, mask)
    for layer in range(weights.topology.n_layers):
        tape.write_heads(layer, tape.heads(layer, tape.attention_in(layer)))
        tape.write_mlp(layer, tape.mlp(layer, tape.mlp_in(layer)))
    return unembed(weights, tape.final_in())


class Tape:
    """What the senders of a circuit run changed, and what its receivers read of it."""

    def __init__(
        self,
        weights: TransformerWeights,
        stage: Stage,
        mask: Float[Tensor, "row n_forward n_backward"],
    ) -> None:
        self.weights, self.stage, self.mask = weights, stage, mask
        self.topology, self.ablated = weights.topology, stage.ablated
        n_rows, n_pos, d_model = stage.inputs.shape
        self.change = stage.inputs.new_empty(n_rows, self.topology.n_forward, n_pos, d_model)
        self.change[:, 0] = stage.inputs - stage.ablated.inputs

    def attention_in(self, layer: int) -> Float[Tensor, "row heads pos d_model"]:
        """The private inputs of all heads' q, k and v."""
        n_senders = self.topology.n_before_attention(layer)
        flowing = self._flowing(n_senders, self.topology.attention_columns(layer))
        return flowing.add_(self.ablated.resid_pre[layer].unsqueeze(1))

    def mlp_in(self, layer: int) -> Float[Tensor, "row pos d_model"]:
        """The private input of the MLP."""
        column = self.topology.mlp_column(layer)
        flowing = self._flowing(self.topology.n_before_mlp(layer), slice(column, column + 1))
        return flowing[:, 0].add_(self.ablated.mlp_in[layer])

    def final_in(self) -> Float[Tensor, "read d_model"]:
        """The residual stream that logits are read from."""
        kept = self.mask[self.stage.rows.reads.row, :, -1]
        return self.ablated.final_in + torch.einsum("au,aud->ad", kept, self.at_reads())

    def at_reads(self) -> Float[Tensor, "read n_forward d_model"]:
        """What every sender changed where logits are read."""
        reads = self.stage.rows.reads
        return self.change[reads.row, :, reads.pos - self.stage.rows.n_shared]

    def heads(
        self, layer: int, private: Float[Tensor, "row heads pos d_model"]
    ) -> Float[Tensor, "row n_heads pos d_model"]:
        """What the heads change, each from its own inputs."""
        attention = self.weights.attention[layer]
        q, k, v = project_privately(private, attention, self.topology.n_heads, self.weights.d_head)
        prefix = None if self.stage.prefix is None else self.stage.prefix[layer]
        z, _ = attend(q, k, v, attention, prefix)
        return head_change(z, self.ablated, layer, attention)

    def mlp(
        self, layer: int, private: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row pos d_model"]:
        """What the MLP changes."""
        mlp = self.weights.mlp[layer]
        written = mlp_output(normalise(private, mlp.norm).output, mlp)
        given = self.ablated.mlp_out
        return written if given is None else written - given[layer]

    def write_heads(self, layer: int, changed: Float[Tensor, "row n_heads pos d_model"]) -> None:
        """Puts the heads of a layer on the tape."""
        first = self.topology.n_before_attention(layer)
        self.change[:, first : first + self.topology.n_heads] = changed.detach()

    def write_mlp(self, layer: int, changed: Float[Tensor, "row pos d_model"]) -> None:
        """Puts the MLP of a layer on the tape."""
        first = self.topology.n_before_attention(layer)
        self.change[:, first + self.topology.n_heads] = changed.detach()

    def _flowing(self, n_senders: int, columns: slice) -> Float[Tensor, "row receiver pos d_model"]:
        kept = self.mask[:, :n_senders, columns].mT
        _, _, n_pos, d_model = self.change.shape
        flowing = torch.bmm(kept, self.change[:, :n_senders].flatten(2))
        return flowing.unflatten(2, (n_pos, d_model))
