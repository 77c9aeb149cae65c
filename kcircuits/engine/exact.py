"""Exact edge patching: the oracle that attribution estimates.

Corrupting one edge u -> v changes the input of v by z'_u - z_u and nothing else. So the new output
of v alone is computed, and the layers after it run as in the plain model. Edges into one receiver
run side by side. Cost: about half a forward pass per edge and prompt.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.engine.ablation import ablate_all, sender_differences
from kcircuits.engine.attribution import Question
from kcircuits.engine.footprint import RowSizes, plain_bytes, recorded_bytes
from kcircuits.engine.forward import (
    Record,
    embed,
    forward,
    project,
    repeat_prefix,
    run_layers,
    run_prefix,
    unembed,
)
from kcircuits.engine.layers import attend, attention_output, mlp_output, normalise
from kcircuits.engine.tokens import TokenRows
from kcircuits.models.weights import TransformerWeights

# Rows that run side by side: enough to fill matrix products, few enough to stay in cache.
_ROWS = 256


@torch.no_grad()
def exact_scores(
    weights: TransformerWeights, rows: TokenRows, question: Question
) -> Float[Tensor, "prompt n_forward n_backward"]:
    """metric(that one edge ablated) - metric(clean), in units of the metric."""
    return _Patcher(weights, rows, question).scores()


class _Patcher:
    """The clean run of a chunk, and the effect of changing one receiver's input."""

    def __init__(self, weights: TransformerWeights, rows: TokenRows, question: Question) -> None:
        self.weights, self.rows, self.metric = weights, rows, question.metric
        self.prefix = run_prefix(weights, rows.clean[:, : rows.n_shared])
        self.clean, inputs = Record(), embed(weights, rows.clean[:, rows.n_shared :])
        self.logits = forward(weights, inputs, rows.reads, prefix=self.prefix, record=self.clean)
        ablated = ablate_all(weights, rows, question.ablation, question.constants)
        self.difference = sender_differences(weights, ablated, inputs, self.clean)
        self.base = self.metric.by_prompt(self.logits, self.logits, rows)

    def scores(self) -> Float[Tensor, "prompt n_forward n_backward"]:
        topology, n_heads = self.weights.topology, self.weights.topology.n_heads
        shape = (self.rows.n_prompts, topology.n_forward, topology.n_backward)
        dtype = torch.float64 if self.base.dtype == torch.float64 else torch.float32
        scores = self.base.new_zeros(shape, dtype=dtype)
        step = self._n_side_by_side()
        for column, n_senders in enumerate(topology.n_senders.tolist()):
            layer, place = divmod(column, 3 * n_heads + 1)
            for start in range(0, n_senders, step):
                senders = slice(start, min(start + step, n_senders))
                if layer == topology.n_layers:
                    values = self._into_logits(senders)
                elif place == 3 * n_heads:
                    values = self._into_mlp(layer, senders)
                else:
                    kind, head = divmod(place, n_heads)
                    values = self._into_head(layer, kind, head, senders)
                scores[:, senders, column] = (values - self.base).T.to(dtype)
        return scores

    def _n_side_by_side(self) -> int:
        """Senders whose runs take no more memory than the differentiated run that was planned."""
        n_rows, n_all = self.rows.clean.shape
        n_reads = -(-len(self.rows.reads.row) // n_rows)
        sizes = RowSizes(n_all - self.rows.n_shared, self.rows.n_shared, n_reads)
        planned = recorded_bytes(self.weights, sizes, n_steps=1)
        return max(1, min(_ROWS // n_rows, planned // plain_bytes(self.weights, sizes)))

    def _changed(self, inputs: Float[Tensor, "row pos d_model"], senders: slice) -> Tensor:
        """The input of a receiver with each sender's edge ablated [sender * row, pos, d_model]."""
        return (inputs + self.difference[senders]).flatten(0, 1)

    def _into_head(self, layer: int, kind: int, head: int, senders: slice) -> Tensor:
        attention = self.weights.attention[layer]
        changed = self._changed(self.clean.resid_pre[layer], senders)
        n = len(changed) // len(self.rows.clean)
        normed = normalise(changed, attention.norm).output
        projected = project(normed, attention, self.weights.topology.n_heads, self.weights.d_head)
        qkv = [
            side[layer].repeat(n, 1, 1, 1) for side in (self.clean.q, self.clean.k, self.clean.v)
        ]
        qkv[kind][:, head] = projected[kind][:, head]
        prefix = repeat_prefix(self.prefix, n)
        q, k, v = qkv
        z, _ = attend(q, k, v, attention, None if prefix is None else prefix[layer])
        before = self.clean.resid_pre[layer].repeat(n, 1, 1)
        after = before + attention_output(z, attention)
        mlp = self.weights.mlp[layer]
        mlp_in = before if self.weights.topology.is_parallel else after
        return self._finish(after + mlp_output(normalise(mlp_in, mlp.norm).output, mlp), layer + 1)

    def _into_mlp(self, layer: int, senders: slice) -> Tensor:
        mlp = self.weights.mlp[layer]
        changed = self._changed(self.clean.mlp_in[layer], senders)
        after = self.clean.resid_pre[layer] + self.clean.attention_out[layer]
        after = after.repeat(len(changed) // len(after), 1, 1)
        return self._finish(after + mlp_output(normalise(changed, mlp.norm).output, mlp), layer + 1)

    def _into_logits(self, senders: slice) -> Tensor:
        reads = self.rows.reads
        assert self.clean.final_in is not None
        at_reads = self.difference[senders, reads.row, reads.pos - self.rows.n_shared]
        final_in = self.clean.final_in + at_reads
        return self._metric(unembed(self.weights, final_in.flatten(0, 1)))

    def _finish(self, resid: Float[Tensor, "step_row pos d_model"], first: int) -> Tensor:
        n = len(resid) // len(self.rows.clean)
        prefix = repeat_prefix(self.prefix, n)
        resid = run_layers(self.weights, resid, first=first, prefix=prefix)
        reads = self.rows.reads.repeated(n, len(self.rows.clean))
        return self._metric(unembed(self.weights, resid[reads.row, reads.pos - self.rows.n_shared]))

    def _metric(self, logits: Float[Tensor, "step_read d_vocab"]) -> Tensor:
        """The metric [sender, prompt] of stacked runs."""
        n_reads = len(self.rows.reads.row)
        return torch.stack(
            [self.metric.by_prompt(part, self.logits, self.rows) for part in logits.split(n_reads)]
        )
