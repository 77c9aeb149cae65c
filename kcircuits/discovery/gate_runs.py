"""The runs behind a training of gates: each fact's circuit on its next prompt, and its gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kcircuits.core.ablation import Ablation
from kcircuits.core.answers import max_rows_per_prompt
from kcircuits.core.batch import PromptBatch
from kcircuits.discovery.pruning import Measure, gates_as_masks
from kcircuits.engine.chunks import count_workers, plan_chunks, recorded_bytes, run_chunks
from kcircuits.engine.constants import constants_of
from kcircuits.engine.gradient import circuit_gradient
from kcircuits.engine.masked import Stage, set_stage
from kcircuits.engine.metrics import get_metric
from kcircuits.engine.tokens import TokenRows
from kcircuits.errors import UsageError
from kcircuits.models.weights import TransformerWeights

LossName = Literal["kl", "task"]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What training lowers."""

    name: LossName
    metric: str

    @property
    def with_foil(self) -> bool:
        """Whether the foil is read too."""
        return self.name == "task" and get_metric(self.metric).with_foil

    def of(self, stage: Stage) -> Callable[[Tensor], Tensor]:
        """Logits -> loss per prompt."""
        if self.name == "kl":
            divergence = get_metric("kl")
            return lambda logits: divergence.by_prompt(logits, stage.clean_logits, stage.rows)
        metric = get_metric(self.metric)
        full = metric.by_prompt(stage.clean_logits, stage.clean_logits, stage.rows)
        return lambda logits: (
            metric.by_prompt(logits, stage.clean_logits, stage.rows) - full
        ).abs()


class GateRuns:
    """The prompts of a training and their runs.

    Args:
        weights: The model.
        batch: Prompts that circuits are found on.
        loss: What training lowers.
        ablation: What ablated edges carry.
        joint: One circuit for all facts.
        memory: Peak memory in bytes above the loaded model.

    Raises:
        UsageError: A fact has no prompt.
    """

    def __init__(
        self,
        weights: TransformerWeights,
        batch: PromptBatch,
        loss: Loss,
        ablation: Ablation,
        joint: bool,
        memory: int,
    ) -> None:
        self.weights, self.batch, self.loss = weights, batch, loss
        self.ablation: Ablation = ablation
        self.joint, self.memory = joint, memory
        self.constants = constants_of(self.weights, batch, ablation, memory)
        self.prompts = [np.flatnonzero(batch.fact_idx == i) for i in range(batch.n_facts)]
        missing = [i for i, rows in enumerate(self.prompts) if not len(rows)]
        if missing:
            raise UsageError(
                f"fact {batch.fact_ids[missing[0]]!r} has no discovery prompt",
                field="facts",
                hint='give it a prompt with "use": "discovery"',
            )

    def measure(self, flat: Int[Tensor, "fact edge"]) -> Measure:
        """Loss and gradient of gates at candidate edges; each step takes a fact's next prompt."""
        shape = (self.weights.topology.n_forward, self.weights.topology.n_backward)

        def run(facts: Tensor, gates: Tensor, step: int) -> tuple[Tensor, Tensor]:
            members = list(range(self.batch.n_facts)) if self.joint else facts.tolist()
            rows = np.array([self.prompts[i][step % len(self.prompts[i])] for i in members])
            part = self.batch.rows(rows)
            owner = torch.zeros(len(rows), dtype=torch.long)
            owner = owner if self.joint else torch.arange(len(rows))
            losses = gates.new_zeros(len(rows))
            gradient = torch.zeros_like(gates)

            def chunk(index: np.ndarray) -> tuple[Tensor, Tensor]:
                stage = self._stage(part.rows(index))
                mine = owner[torch.as_tensor(index)]
                edges = flat[mine if self.joint else facts[mine]]
                mask = gates_as_masks(gates[mine].to(self.weights.dtype), edges, shape)
                found = circuit_gradient(
                    self.weights,
                    stage,
                    mask.to(self.weights.device)[stage.rows.prompt],
                    self.loss.of(stage),
                )
                by_prompt = stage.rows.by_prompt(found.mask).flatten(1).cpu()
                return found.values.cpu(), by_prompt.gather(1, edges)

            n_workers = count_workers(self.weights)
            for index, (values, slopes) in run_chunks(self._plan(part), chunk, n_workers):
                where = torch.as_tensor(index)
                losses[where] = values.to(losses.dtype)
                gradient.index_add_(0, owner[where], slopes.to(gradient.dtype))
            return losses, gradient / (len(rows) if self.joint else 1)

        return run

    def _stage(self, part: PromptBatch) -> Stage:
        rows = TokenRows.from_batch(
            part,
            self.weights,
            with_foil=self.loss.with_foil,
            share_prefix=self.ablation == "corrupt",
        )
        return set_stage(self.weights, rows, self.ablation, self.constants)

    def _plan(self, part: PromptBatch) -> list[np.ndarray]:
        # Private inputs are kept for the way back: as much as a recorded run of 3 H + 1 streams.
        topology = self.weights.topology
        n_pos = part.clean.shape[1]
        kept = topology.n_layers * 3 * topology.n_heads * self.weights.d_model * n_pos
        n_bytes = recorded_bytes(self.weights, n_pos, 1) + kept * self.weights.embed.element_size()
        n_bytes *= max_rows_per_prompt(part)
        return plan_chunks(part, n_bytes, self.memory, count_workers(self.weights))
