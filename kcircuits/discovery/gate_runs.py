"""The runs behind a training of gates: each fact's circuit on its next prompt, and its gradient."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kcircuits.core.ablation import Ablation
from kcircuits.core.batch import PromptBatch
from kcircuits.discovery.edge_pruning import LossName
from kcircuits.discovery.pruning import Measure, gates_as_masks
from kcircuits.engine.chunks import count_workers, plan_runs, run_chunks
from kcircuits.engine.constants import constants_of
from kcircuits.engine.footprint import RowSizes, gradient_bytes
from kcircuits.engine.gradient import circuit_gradient
from kcircuits.engine.masked import Stage, set_stage
from kcircuits.engine.metrics import get_metric
from kcircuits.engine.tokens import TokenRows
from kcircuits.engine.workspace import Workspace
from kcircuits.errors import UsageError
from kcircuits.models.weights import TransformerWeights

# Of the squared distance beside KL. KL of logits whose difference is off by d is d^2 / 8 at most:
# with this weight the metric counts for as much as all other tokens together.
_TASK_WEIGHT = 0.25

# Place of a gate, its log alpha, what the optimiser and the average keep of it, and a draw.
_BYTES_PER_GATE = 8 + 5 * 4 + 8 + 6 * 4


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What training lowers.

    Attributes:
        name: ``kl``: KL(full model || circuit); ``task``: distance of the metric from the full
            model's; ``kl+task``: KL plus a quarter of that distance's square.
        metric: The metric.
    """

    name: LossName
    metric: str

    @property
    def with_foil(self) -> bool:
        """Whether the foil is read too."""
        return self.name != "kl" and get_metric(self.metric).with_foil

    def of(self, stage: Stage) -> Callable[[Tensor], Tensor]:
        """Logits -> loss per prompt."""
        metric, divergence = get_metric(self.metric), get_metric("kl")
        clean, rows = stage.clean_logits, stage.rows
        full = None if self.name == "kl" else metric.by_prompt(clean, clean, rows)

        def loss(logits: Tensor) -> Tensor:
            if full is None:
                return divergence.by_prompt(logits, clean, rows)
            distance = metric.by_prompt(logits, clean, rows) - full
            if self.name == "task":
                return distance.abs()
            return divergence.by_prompt(logits, clean, rows) + _TASK_WEIGHT * distance.square()

        return loss


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
        self._spaces: list[Workspace] = []
        self.constants = constants_of(self.weights, batch, ablation, memory)
        if self.constants is not None:
            self.memory -= self.constants.nbytes
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
        self.memory -= _BYTES_PER_GATE * flat.numel()
        # Half of the memory is for runs, half for stages: a prompt's turn comes again and again.
        self._stages = StageCache(self.memory // 2)

        def run(facts: Tensor, gates: Tensor, step: int) -> tuple[Tensor, Tensor]:
            members = list(range(self.batch.n_facts)) if self.joint else facts.tolist()
            self._stages.keep_only_for(members)
            rows = np.array([self.prompts[i][step % len(self.prompts[i])] for i in members])
            part = self.batch.rows(rows)
            owner = torch.zeros(len(rows), dtype=torch.long)
            owner = owner if self.joint else torch.arange(len(rows))
            losses = gates.new_zeros(len(rows))
            gradient = torch.zeros_like(gates)

            def chunk(index: np.ndarray) -> tuple[Tensor, Tensor]:
                stage = self._stage(rows[index])
                space = self._spaces.pop() if self._spaces else Workspace()
                mine = owner[torch.as_tensor(index)]
                edges = flat[mine if self.joint else facts[mine]]
                mask = gates_as_masks(gates[mine].to(self.weights.dtype), edges, shape)
                found = circuit_gradient(
                    self.weights,
                    stage,
                    mask.to(self.weights.device)[stage.rows.prompt],
                    self.loss.of(stage),
                    space=space,
                )
                self._spaces.append(space)
                by_prompt = stage.rows.by_prompt(found.mask).flatten(1).cpu()
                return found.values.cpu(), by_prompt.gather(1, edges)

            n_workers = count_workers(self.weights)
            for index, (values, slopes) in run_chunks(self._plan(part), chunk, n_workers):
                where = torch.as_tensor(index)
                losses[where] = values.to(losses.dtype)
                gradient.index_add_(0, owner[where], slopes.to(gradient.dtype))
            return losses, gradient / (len(rows) if self.joint else 1)

        return run

    def _stage(self, prompts: Int[np.ndarray, " prompt"]) -> Stage:
        def make() -> Stage:
            rows = TokenRows.from_batch(
                self.batch.rows(prompts),
                self.weights,
                with_foil=self.loss.with_foil,
                share_prefix=self.ablation == "corrupt",
            )
            return set_stage(self.weights, rows, self.ablation, self.constants)

        return self._stages.get(tuple(prompts.tolist()), make)

    def _plan(self, part: PromptBatch) -> list[np.ndarray]:
        sizes = RowSizes.of(part, share_prefix=self.ablation == "corrupt")
        n_bytes = gradient_bytes(self.weights, sizes)
        return plan_runs(self.weights, part, n_bytes, self.memory // 2)


class StageCache:
    """The first stages that fit into a number of bytes; the others are made anew each time."""

    def __init__(self, memory: int) -> None:
        self.memory, self._left = memory, memory
        self._stages: dict[tuple[int, ...], Stage] = {}
        self._members: list[int] = []

    def keep_only_for(self, members: list[int]) -> None:
        """Drops the stages of other sets of facts: with a fact that leaves, chunks change."""
        if members != self._members:
            self._members, self._left = members, self.memory
            self._stages.clear()

    def get(self, prompts: tuple[int, ...], make: Callable[[], Stage]) -> Stage:
        """The stage of these prompts."""
        if prompts in self._stages:
            return self._stages[prompts]
        stage = make()
        n_bytes = stage.n_bytes
        if n_bytes <= self._left:
            self._left -= n_bytes
            self._stages[prompts] = stage
        return stage
