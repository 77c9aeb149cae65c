"""The forward pass of circuits: every prompt its own edge mask.

The input of a receiver is

    base + sum over senders of mask * (current output - ablated output),

with base the residual stream of a run in which every sender gives its ablated output. Attention
output biases and positional embeddings belong to no sender and always flow.

Senders' changes stand on one append-only tape [row, n_forward, pos, d_model]. All receivers of a
layer read the earlier layers in one product; the MLP adds what its own layer's heads changed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.engine.ablation import Ablated, Ablation, Constants, ablate_all, head_change
from kcircuits.engine.forward import Prefix, embed, forward, run_prefix, unembed
from kcircuits.engine.layer_blocks import Block, n_together
from kcircuits.engine.layers import attend, by_row, mlp_output, normalise
from kcircuits.engine.private import Projected, project_privately
from kcircuits.engine.tokens import TokenRows
from kcircuits.engine.workspace import Workspace
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

    @property
    def n_bytes(self) -> int:
        """Memory that the stage holds."""
        ablated = self.ablated
        held = [self.inputs, self.clean_logits, ablated.inputs, ablated.final_in]
        held += [*ablated.resid_pre, *ablated.mlp_in]
        for layers in (ablated.z, ablated.heads, ablated.mlp_out, ablated.mlp_hidden):
            held += layers or []
        held += [side for layer in self.prefix or () for side in layer]
        return sum(tensor.nbytes for tensor in held)


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
    weights: TransformerWeights,
    stage: Stage,
    mask: Float[Tensor, "row n_forward n_backward"],
    space: Workspace | None = None,
) -> Float[Tensor, "read d_vocab"]:
    """Logits where they are read when only the masked edges carry current activations.

    Args:
        weights: The model.
        stage: The rows, from ``set_stage``.
        mask: 1 keeps an edge, 0 ablates it; values between interpolate.
        space: Memory to work in.
    """
    tape = Tape(weights, stage, mask, space or Workspace())
    for layer in range(weights.topology.n_layers):
        private = tape.layer_in(layer)
        projected = tape.project(layer, private[:-1])
        tape.write_heads(layer, tape.heads(layer, projected.values))
        tape.write_mlp(layer, tape.mlp(layer, tape.with_own_heads(layer, private[-1])))
    return unembed(weights, tape.final_in())


class Tape:
    """What the senders of a circuit run changed, and what its receivers read of it.

    Args:
        weights: The model.
        stage: The rows.
        mask: 1 keeps an edge, 0 ablates it.
        space: Memory to work in.
        keeps_inputs: Whether the private inputs of all layers stay, for the way back.
    """

    def __init__(
        self,
        weights: TransformerWeights,
        stage: Stage,
        mask: Float[Tensor, "row n_forward n_backward"],
        space: Workspace,
        *,
        keeps_inputs: bool = False,
    ) -> None:
        self.weights, self.stage, self.mask = weights, stage, mask
        self.topology, self.ablated = weights.topology, stage.ablated
        n_rows, n_pos, d_model = stage.inputs.shape
        shape = (n_rows, self.topology.n_forward, n_pos, d_model)
        self.change = space.take("change", shape, stage.inputs)
        self.change[:, 0] = stage.inputs - stage.ablated.inputs
        n_kept = self.topology.n_layers if keeps_inputs else n_together(self.topology)
        shape = (n_kept, 3 * self.topology.n_heads + 1, n_rows, n_pos, d_model)
        self._private = space.take("private", shape, stage.inputs)

    def layer_in(self, layer: int) -> Float[Tensor, "receiver row pos d_model"]:
        """The private inputs of a layer's q, k, v and MLP, as far as earlier layers make them.

        What comes from before a block of layers is added to all of them when the first one is
        asked for.
        """
        block, place = Block.of(self.topology, layer), layer % len(self._private)
        private = self._private[place]
        if layer == block.first:
            inputs = self._private[place : place + len(block.layers)]
            for i, of_layer in enumerate(inputs, layer):
                of_layer[:-1] = self.ablated.resid_pre[i]
                of_layer[-1] = self.ablated.mlp_in[i]
            self._add(inputs.flatten(0, 1), block.senders_before, block.columns)
        else:
            senders = block.senders_within(layer)
            self._add(private, senders, self.topology.layer_columns(layer))
        return private

    def _add(
        self, inputs: Float[Tensor, "receiver row pos d_model"], senders: slice, columns: slice
    ) -> None:
        kept = self.mask[:, senders, columns]
        by_row(inputs).baddbmm_(kept.mT, self.change[:, senders].flatten(2))

    def with_own_heads(
        self, layer: int, private: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row pos d_model"]:
        """The private input of the MLP, with what the heads of its layer changed."""
        own = self.own_heads(layer)
        kept = self.mask[:, own, self.topology.mlp_column(layer)]
        return private + torch.einsum("ru,rupd->rpd", kept, self.change[:, own])

    def own_heads(self, layer: int) -> slice:
        """The heads of a layer among the senders, as far as its MLP reads them."""
        return slice(self.topology.n_before_attention(layer), self.topology.n_before_mlp(layer))

    def final_in(self) -> Float[Tensor, "read d_model"]:
        """The residual stream that logits are read from."""
        kept = self.mask[self.stage.rows.reads.row, :, -1]
        return self.ablated.final_in + torch.einsum("au,aud->ad", kept, self.at_reads())

    def at_reads(self) -> Float[Tensor, "read n_forward d_model"]:
        """What every sender changed where logits are read."""
        reads = self.stage.rows.reads
        return self.change[reads.row, :, reads.pos - self.stage.rows.n_shared]

    def project(self, layer: int, private: Float[Tensor, "heads row pos d_model"]) -> Projected:
        """Queries, keys and values of all heads, each from its own input."""
        attention = self.weights.attention[layer]
        return project_privately(private, attention, self.topology.n_heads, self.weights.d_head)

    def heads(
        self, layer: int, projected: Float[Tensor, "heads row pos d_head"]
    ) -> Float[Tensor, "row n_heads pos d_model"]:
        """What the heads change."""
        attention = self.weights.attention[layer]
        q, k, v = projected.transpose(0, 1).split(self.topology.n_heads, 1)
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
