"""Runs many circuits of the same facts on the same prompts: what all of them share is run once."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kcircuits.core.ablation import Ablation, require_ablation
from kcircuits.core.batch import PromptBatch
from kcircuits.core.faithfulness import MIN_GAP, MIN_GAP_STANDARD_ERRORS
from kcircuits.core.topology import Topology
from kcircuits.engine.ablation import Constants, ablate_with
from kcircuits.engine.chunks import count_workers, plan_runs, run_chunks
from kcircuits.engine.constants import constants_of
from kcircuits.engine.footprint import RowSizes, masked_bytes
from kcircuits.engine.forward import unembed
from kcircuits.engine.masked import circuit_logits, set_stage
from kcircuits.engine.metrics import get_metric
from kcircuits.engine.parity import checked_weights
from kcircuits.engine.tokens import TokenRows
from kcircuits.engine.workspace import Workspace
from kcircuits.errors import NonFiniteError, UsageError
from kcircuits.evaluation.optimal import optimal_constants
from kcircuits.models import Model

logger = logging.getLogger(__name__)

Prompts = Literal["evaluation", "same"]
# A place in a list of circuits -> one mask per fact.
MaskOf = Callable[[int], Bool[np.ndarray, "fact n_forward n_backward"]]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Numbers of each prompt, before they become a fact's.

    Attributes:
        circuit: Metric of each circuit.
        target_rank: Rank of the target in each circuit's logits, 1 is best; the worst over the
            positions of its tokens.
        clean: Metric of the full model.
        empty: Metric with every edge ablated.
    """

    circuit: Float[np.ndarray, "prompt circuit"]
    target_rank: Float[np.ndarray, "prompt circuit"]
    clean: Float[np.ndarray, " prompt"]
    empty: Float[np.ndarray, " prompt"]


class Judge:
    """The prompts that circuits are judged on, what is measured, and what ablated edges carry.

    Args:
        model: From ``load_model``.
        batch: Prompts of all facts, those for discovery included.
        fact_ids: The facts, in the order of every mask's fact axis.
        topology: The graph that masks refer to.
        metric: Name of the metric.
        ablation: What ablated edges carry.
        memory: Peak memory in bytes above the loaded model.
        use: The prompts: those for evaluation, or those that circuits are found on.

    Raises:
        UsageError: An option that cannot be meant, or a graph of another architecture.
    """

    def __init__(
        self,
        model: Model,
        batch: PromptBatch,
        fact_ids: tuple[str, ...],
        topology: Topology,
        *,
        metric: str,
        ablation: Ablation,
        memory: int,
        use: Literal["evaluation", "discovery"] = "evaluation",
    ) -> None:
        self.metric = get_metric(metric)
        require_ablation(ablation, is_evaluation=True)
        self.weights = checked_weights(model)
        if topology != self.weights.topology:
            raise UsageError(
                f"the circuits belong to {topology}, the model is {self.weights.topology}",
                hint="evaluate circuits on the architecture that they were found in",
            )
        batch = batch.facts(fact_ids)
        self.ablation: Ablation = ablation
        self.memory = memory
        self._discovery = batch.with_use("discovery")
        self._means = constants_of(self.weights, batch, ablation, memory)
        self.prompts: Prompts
        if use == "discovery":
            self.batch, self.prompts = batch.with_use("discovery"), "same"
        else:
            self.batch, self.prompts = _evaluation_rows(batch)

    def run(
        self,
        n_circuits: int,
        mask_of: MaskOf,
        progress: Callable[[int], object] | None = None,
        *,
        learned_with: Callable[[int], int] = lambda i: i,
    ) -> Judged:
        """Runs circuits 0, 1, ... of every fact, each prompt's with its fact's mask.

        Args:
            n_circuits: How many; with 0 only the full and the ablated model run.
            mask_of: The masks of each; asked for chunk by chunk, so that they need not all exist
                at once.
            progress: Called with the number of prompts done after each chunk.
            learned_with: The circuit whose optimal constants each circuit runs with.

        Raises:
            NonFiniteError: A metric is NaN or infinite; names the fact.
        """
        n_prompts = len(self.batch)
        found = Judged(
            circuit=np.zeros((n_prompts, n_circuits)),
            target_rank=np.zeros((n_prompts, n_circuits)),
            clean=np.zeros(n_prompts),
            empty=np.zeros(n_prompts),
        )

        carried = self._carried(n_circuits, mask_of, learned_with)
        without = self._without_edges

        def run(index: np.ndarray) -> Judged:
            facts = self.batch.fact_idx[index]
            masks = (mask_of(i)[facts] for i in range(n_circuits))
            return self._run_rows(index, zip(masks, carried, strict=True), without)

        sizes = RowSizes.of(self.batch, share_prefix=self.ablation == "corrupt")
        n_bytes = masked_bytes(self.weights, sizes)
        held = {id(each): each.nbytes for each in (without, *carried) if each is not None}
        plan = plan_runs(self.weights, self.batch, n_bytes, self.memory - sum(held.values()))
        for index, part in run_chunks(plan, run, count_workers(self.weights)):
            found.circuit[index], found.target_rank[index] = part.circuit, part.target_rank
            found.clean[index], found.empty[index] = part.clean, part.empty
            if progress is not None:
                progress(len(index))
        for name in ("clean", "empty", "circuit"):
            self._require_finite(name, getattr(found, name))
        return found

    def run_edges(
        self,
        circuits: Sequence[Sequence[Int[np.ndarray, " edge"]]],
        progress: Callable[[int], object] | None = None,
    ) -> Judged:
        """``run`` on circuits as flat indices of edges, of each circuit one array per fact.

        They take a hundredth of the memory of masks, which are made one circuit at a time.
        """

        def mask_of(i: int) -> Bool[np.ndarray, "fact n_forward n_backward"]:
            edge_mask = self.weights.topology.edge_mask
            mask = np.zeros((len(circuits[i]), *edge_mask.shape), dtype=bool)
            for fact, edges in enumerate(circuits[i]):
                mask[fact].flat[edges] = True
            return mask

        return self.run(len(circuits), mask_of, progress)

    def by_fact(self, values: Float[np.ndarray, "prompt *rest"]) -> Float[np.ndarray, "fact *rest"]:
        """Means over each fact's prompts."""
        counts = np.bincount(self.batch.fact_idx, minlength=self.batch.n_facts)
        sums = np.zeros((self.batch.n_facts, *values.shape[1:]))
        np.add.at(sums, self.batch.fact_idx, values)
        return sums / counts.reshape(-1, *[1] * (values.ndim - 1))

    def is_gated(self, judged: Judged) -> Bool[np.ndarray, " fact"]:
        """Facts whose gap between full and empty is too small to divide by."""
        gaps = judged.clean - judged.empty
        gaps = gaps if self.metric.is_higher_better else -gaps
        gap = self.by_fact(gaps)
        n_prompts = np.bincount(self.batch.fact_idx, minlength=self.batch.n_facts)
        squared = self.by_fact((gaps - gap[self.batch.fact_idx]) ** 2)
        spread = np.sqrt(squared / np.maximum(n_prompts - 1, 1))
        return gap < np.maximum(MIN_GAP, MIN_GAP_STANDARD_ERRORS * spread)

    def _carried(
        self, n_circuits: int, mask_of: MaskOf, learned_with: Callable[[int], int]
    ) -> list[Constants | None]:
        """Optimal constants of every circuit; None where edges carry what they always do."""
        if self.ablation != "optimal":
            return [None] * n_circuits
        sources = [learned_with(i) for i in range(n_circuits)]
        learned = {i: self._learned(mask_of(i)) for i in dict.fromkeys(sources)}
        return [learned[i] for i in sources]

    def _learned(self, masks: Bool[np.ndarray, "fact n_forward n_backward"]) -> Constants:
        assert self._means is not None, "learning starts at means"
        return optimal_constants(self.weights, self._discovery, masks, self._means, self.memory)

    @cached_property
    def _without_edges(self) -> Constants | None:
        """What edges carry where all of them are ablated."""
        if self.ablation != "optimal":
            return self._means
        shape = (self.batch.n_facts, *self.weights.topology.edge_mask.shape)
        return self._learned(np.broadcast_to(False, shape))

    @torch.no_grad()
    def _run_rows(
        self,
        index: np.ndarray,
        circuits: Iterable[tuple[Bool[np.ndarray, "..."], Constants | None]],
        without: Constants | None,
    ) -> Judged:
        rows = TokenRows.from_batch(
            self.batch.rows(index),
            self.weights,
            with_foil=self.metric.with_foil,
            share_prefix=self.ablation == "corrupt",
        )
        stage = set_stage(self.weights, rows, self.ablation, without)
        space = Workspace()

        def measure(logits: Tensor) -> np.ndarray:
            return self.metric.by_prompt(logits, stage.clean_logits, rows).double().cpu().numpy()

        values, ranks = [], []
        for mask, constants in circuits:
            by_row = torch.as_tensor(mask, dtype=self.weights.dtype, device=self.weights.device)
            own = stage
            if constants is not None:
                own = replace(stage, ablated=ablate_with(self.weights, rows, constants))
            logits = circuit_logits(self.weights, own, by_row[rows.prompt], space)
            values.append(measure(logits))
            ranks.append(_target_rank(logits, rows).double().cpu().numpy())
        return Judged(
            circuit=np.array(values).reshape(len(values), len(index)).T,
            target_rank=np.array(ranks).reshape(len(ranks), len(index)).T,
            clean=measure(stage.clean_logits),
            empty=measure(unembed(self.weights, stage.ablated.final_in)),
        )

    def _require_finite(self, name: str, values: Float[np.ndarray, "prompt *rest"]) -> None:
        means = self.by_fact(values)
        bad = np.argwhere(~np.isfinite(means))
        if len(bad):
            fact = self.batch.fact_ids[int(bad[0, 0])]
            raise NonFiniteError(f"fact {fact!r}: the {name} metric is not finite", field=fact)


def _evaluation_rows(batch: PromptBatch) -> tuple[PromptBatch, Prompts]:
    chosen = batch.with_use("evaluation")
    without = sorted(set(range(batch.n_facts)) - set(chosen.fact_idx.tolist()))
    if not without:
        return chosen, "evaluation" if batch.uses is not None else "same"
    logger.warning(
        "fact %r has no evaluation prompt: circuits are judged on their discovery prompts",
        batch.fact_ids[without[0]],
    )
    return batch.with_use("discovery"), "same"


def _target_rank(logits: Float[Tensor, "read d_vocab"], rows: TokenRows) -> Tensor:
    """Rank [prompt] of each prompt's target: the worst over the positions of its tokens."""
    of_target = rows.reads.sign > 0
    chosen, prompt = logits[of_target], rows.reads.prompt[of_target]
    target = chosen.gather(1, rows.reads.token[of_target][:, None])
    rank = (1 + (chosen > target).sum(-1)).to(logits.dtype)
    return rank.new_zeros(rows.n_prompts).scatter_reduce(0, prompt, rank, "amax")
