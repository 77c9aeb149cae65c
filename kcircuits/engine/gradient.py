"""The exact gradient of a circuit run with respect to its mask.

Reverse mode by hand on the tape of ``engine.masked``: autograd sees one layer at a time (from
projected queries, keys and values to what the heads write, and the MLP), and all that is wide is
written out: the way through norm and projection (``engine.private``), and the flows between layers,
which are matrix products in both directions,

    input of v = base_v + sum_u mask_uv change_u,
    d/d mask_uv = change_u . G_v,    d/d change_u = sum_v mask_uv G_v,

with G_v the gradient at the private input of v. Nothing on the tape is ever copied.

What ablated edges carry can be learned too. Where it is constants a_u, base_v is their sum, and
change_u = z_u - a_u, so d/d a_u = sum_v (1 - mask_uv) G_v.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.engine.forward import unembed
from kcircuits.engine.layer_blocks import Block, n_together
from kcircuits.engine.layers import by_row
from kcircuits.engine.masked import Stage, Tape
from kcircuits.engine.private import Projected
from kcircuits.engine.workspace import Workspace
from kcircuits.models.weights import TransformerWeights

# Logits [read, d_vocab] -> values [prompt]; what is differentiated is their sum.
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class CircuitGradient:
    """Values of a loss, and their gradient.

    Attributes:
        values: The loss of each prompt.
        mask: Gradient with respect to each row's mask; 0 where there is no edge.
        ablated: Gradient with respect to the constants that ablated edges carry, by row.
    """

    values: Float[Tensor, " prompt"]
    mask: Float[Tensor, "row n_forward n_backward"]
    ablated: Float[Tensor, "row n_forward pos d_model"] | None


def circuit_gradient(
    weights: TransformerWeights,
    stage: Stage,
    mask: Float[Tensor, "row n_forward n_backward"],
    loss: Loss,
    *,
    of_ablated: bool = False,
    space: Workspace | None = None,
) -> CircuitGradient:
    """A loss of the circuits' logits, and its gradient.

    Args:
        weights: The model.
        stage: The rows, from ``set_stage``.
        mask: 1 keeps an edge, 0 ablates it; values between interpolate.
        loss: What is differentiated.
        of_ablated: Also differentiate what ablated edges carry, where that is constants.
        space: Memory to work in; what is returned is not part of it.
    """
    run = _Reverse(weights, stage, mask, space or Workspace(), of_ablated=of_ablated)
    with torch.enable_grad():
        values = run.forward(loss)
    with torch.no_grad():
        run.backward()
    exists = torch.as_tensor(weights.topology.edge_mask, device=mask.device)
    return CircuitGradient(
        values=values.detach(),
        mask=run.mask_gradient.masked_fill_(~exists, 0.0),
        ablated=run.ablated_gradient,
    )


class _Reverse:
    """A tape with the local graph of every layer, and the way back through it."""

    def __init__(
        self,
        weights: TransformerWeights,
        stage: Stage,
        mask: Tensor,
        space: Workspace,
        *,
        of_ablated: bool,
    ) -> None:
        self.tape = Tape(weights, stage, mask, space, keeps_inputs=True)
        self.weights, self.topology, self.rows = weights, weights.topology, stage.rows
        # Of each layer: its projections, then (leaf, output) of its heads and of its MLP.
        self.projected: list[Projected] = []
        self.heads: list[tuple[Tensor, Tensor]] = []
        self.mlps: list[tuple[Tensor, Tensor]] = []
        change = self.tape.change
        self.mask_gradient = torch.zeros_like(mask)
        self.gradient = space.take("gradient", tuple(change.shape), change).zero_()
        self.ablated_gradient = torch.zeros_like(change) if of_ablated else None
        n_layers, n_receivers = n_together(self.topology), 3 * self.topology.n_heads + 1
        wide = (n_layers, n_receivers, len(change), *change.shape[2:])
        self.at_receivers = space.take("at receivers", wide, change)

    def forward(self, loss: Loss) -> Float[Tensor, " prompt"]:
        """Runs the circuit and its loss."""
        tape = self.tape
        for layer in range(self.topology.n_layers):
            private = tape.layer_in(layer)
            with torch.no_grad():
                self.projected.append(tape.project(layer, private[:-1]))
            leaf = self.projected[-1].values.requires_grad_()
            self.heads.append((leaf, tape.heads(layer, leaf)))
            tape.write_heads(layer, self.heads[-1][1])
            leaf = tape.with_own_heads(layer, private[-1]).requires_grad_()
            self.mlps.append((leaf, tape.mlp(layer, leaf)))
            tape.write_mlp(layer, self.mlps[-1][1])
        self.final_in = tape.final_in().requires_grad_()
        self.values = loss(unembed(self.weights, self.final_in))
        return self.values

    def backward(self) -> None:
        """Fills the gradients, from the logits to the input."""
        self._from_logits()
        for layer in reversed(range(self.topology.n_layers)):
            block = Block.of(self.topology, layer)
            at_receivers = self.at_receivers[layer - block.first]
            first = self.topology.n_before_attention(layer)
            after = first + self.topology.n_heads
            leaf, written = self.mlps.pop()
            (at_mlp,) = torch.autograd.grad(written, leaf, self.gradient[:, after])
            at_receivers[-1] = at_mlp
            column = self.topology.mlp_column(layer)
            own = self.tape.own_heads(layer)
            self._flow_back(own, slice(column, column + 1), at_receivers[-1:])
            leaf, written = self.heads.pop()
            (at_heads,) = torch.autograd.grad(written, leaf, self.gradient[:, first:after])
            self.projected.pop().pull_back(at_heads, at_receivers[:-1])
            if layer > block.first:
                columns = self.topology.layer_columns(layer)
                self._flow_back(block.senders_within(layer), columns, at_receivers)
            else:
                of_block = self.at_receivers[: len(block.layers)].flatten(0, 1)
                self._flow_back(block.senders_before, block.columns, of_block)

    def _from_logits(self) -> None:
        ones = torch.ones_like(self.values)
        (gradient,) = torch.autograd.grad(self.values, self.final_in, ones)
        reads, mask = self.rows.reads, self.tape.mask
        of_mask = torch.einsum("aud,ad->au", self.tape.at_reads(), gradient)
        self.mask_gradient[:, :, -1].index_add_(0, reads.row, of_mask)
        kept = mask[reads.row, :, -1].unsqueeze(-1)
        sender = torch.arange(self.topology.n_forward, device=mask.device)
        place = (reads.row[:, None], sender, (reads.pos - self.rows.n_shared)[:, None])
        at_senders = gradient.unsqueeze(1)
        self.gradient.index_put_(place, kept * at_senders, accumulate=True)
        if self.ablated_gradient is not None:
            self.ablated_gradient.index_put_(place, (1 - kept) * at_senders, accumulate=True)

    def _flow_back(
        self, senders: slice, columns: slice, gradient: Float[Tensor, "receiver row pos d_model"]
    ) -> None:
        """From the gradient at private inputs to that at masks and senders."""
        kept, at_receivers = self.tape.mask[:, senders, columns], by_row(gradient)
        change = self.tape.change[:, senders].flatten(2)
        self.mask_gradient[:, senders, columns] = torch.bmm(change, at_receivers.mT)
        self.gradient[:, senders].flatten(2).baddbmm_(kept, at_receivers)
        if self.ablated_gradient is not None:
            self.ablated_gradient[:, senders].flatten(2).baddbmm_(1 - kept, at_receivers)
