"""Optimal ablation: the constants that serve circuits best.

Zeros, means and outputs of other prompts say something false to the receivers that read them, so
part of the loss under such an ablation is not for want of information but for misleading. The
constants that make the loss least mislead least: one vector per sender, the same at all positions
and prompts, which every ablated edge out of the sender carries.

They are learned for given circuits, each fact's prompts run with its own circuit, on the prompts
that circuits are found on; the loss is KL(full model || circuit) where the answer is read, mean
over prompts within a fact and over facts. All facts share the constants. Of a single fact they
could hold the answer, which all its prompts have in common: then the empty circuit would be
faithful, and nothing could be told from it. So give facts with several answers.

Source: Li and Janson 2024, arXiv 2409.09951 (the definition). Ours: Adam from the mean outputs, one
prompt of each fact in a step.
"""

import logging
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kcircuits.core.batch import PromptBatch
from kcircuits.engine.ablation import Constants
from kcircuits.engine.chunks import count_workers, plan_runs, run_chunks
from kcircuits.engine.footprint import RowSizes, gradient_bytes
from kcircuits.engine.gradient import circuit_gradient
from kcircuits.engine.masked import Stage, circuit_logits, set_stage
from kcircuits.engine.metrics import get_metric
from kcircuits.engine.tokens import TokenRows
from kcircuits.engine.workspace import Workspace
from kcircuits.models.weights import TransformerWeights

logger = logging.getLogger(__name__)

# Steps, and the largest move of a coordinate in the first of them, in units of the root mean square
# of its sender's mean output; it falls in a line to 0.
STEPS, RATE = 50, 0.1

# Tensors of the constants' size: start, present ones, moves, two moments, gradient and what is made
# of them on the way.
_N_HELD = 10


def optimal_constants(
    weights: TransformerWeights,
    batch: PromptBatch,
    masks: Bool[np.ndarray, "fact n_forward n_backward"],
    start: Constants,
    memory: int,
) -> Constants:
    """Learns what ablated edges carry.

    Args:
        weights: The model.
        batch: Prompts that circuits are found on.
        masks: Circuits, one per fact.
        start: Mean outputs.
        memory: Peak memory in bytes above the loaded model.

    Returns:
        Constants whose loss over all prompts is at most that of ``start``.
    """
    learning = _Learning(weights, batch, masks, memory)
    size = start.square().mean(-1, keepdim=True).sqrt()
    moved = torch.zeros_like(start, requires_grad=True)
    adam = torch.optim.Adam([moved], lr=RATE)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        moved.grad = size * learning.gradient(start + size * moved.detach(), step)
        adam.step()
    end = start + size * moved.detach()
    before, after = learning.loss(start), learning.loss(end)
    logger.info("optimal constants: KL %.4g, %.4g with means", after, before)
    return end if after < before else start


class _Learning:
    """The loss of circuits, as a function of what their ablated edges carry."""

    def __init__(
        self,
        weights: TransformerWeights,
        batch: PromptBatch,
        masks: Bool[np.ndarray, "fact n_forward n_backward"],
        memory: int,
    ) -> None:
        self.weights, self.batch, self.masks, self.memory = weights, batch, masks, memory
        of_fact = [np.flatnonzero(batch.fact_idx == i) for i in range(batch.n_facts)]
        self.prompts = [rows for rows in of_fact if len(rows)]
        self.spaces: list[Workspace] = []

    def gradient(self, constants: Constants, step: int) -> Constants:
        """Of the mean loss of every fact's next prompt."""

        def of_rows(stage: Stage, mask: Tensor) -> Tensor:
            space = self.spaces.pop() if self.spaces else Workspace()
            found = circuit_gradient(
                self.weights,
                stage,
                mask,
                lambda logits: _divergence(logits, stage),
                of_ablated=True,
                space=space,
            )
            self.spaces.append(space)
            assert found.ablated is not None
            return found.ablated.sum((0, 2)).unsqueeze(1)

        rows = np.array([rows[step % len(rows)] for rows in self.prompts])
        parts = self._chunks(rows, constants, of_rows)
        return sum((part for _, part in parts), torch.zeros_like(constants)) / len(rows)

    def loss(self, constants: Constants) -> float:
        """Mean over facts of the mean over all their prompts."""

        def of_rows(stage: Stage, mask: Tensor) -> Tensor:
            return _divergence(circuit_logits(self.weights, stage, mask), stage)

        values = np.zeros(len(self.batch))
        for index, part in self._chunks(np.arange(len(values)), constants, of_rows):
            values[index] = part.double().cpu().numpy()
        return float(np.mean([values[rows].mean() for rows in self.prompts]))

    def _chunks(
        self,
        rows: Int[np.ndarray, " prompt"],
        constants: Constants,
        of_rows: Callable[[Stage, Tensor], Tensor],
    ) -> Iterator[tuple[Int[np.ndarray, " prompt"], Tensor]]:
        """Something of every chunk of prompts, each with its fact's circuit."""
        weights, part = self.weights, self.batch.rows(rows)

        def run(index: Int[np.ndarray, " prompt"]) -> Tensor:
            chosen = part.rows(index)
            tokens = TokenRows.from_batch(chosen, weights, with_foil=False, share_prefix=False)
            stage = set_stage(weights, tokens, "optimal", constants)
            masks = torch.as_tensor(self.masks[chosen.fact_idx], dtype=weights.dtype)
            return of_rows(stage, masks.to(weights.device)[tokens.prompt])

        n_bytes = gradient_bytes(weights, RowSizes.of(part, share_prefix=False))
        plan = plan_runs(weights, part, n_bytes, self.memory - _N_HELD * constants.nbytes)
        yield from run_chunks(plan, run, count_workers(weights))


def _divergence(logits: Float[Tensor, "read d_vocab"], stage: Stage) -> Float[Tensor, " prompt"]:
    return get_metric("kl").by_prompt(logits, stage.clean_logits, stage.rows)
