"""Completeness and minimality: does a circuit hold all that matters, and nothing else?

Completeness looks at the model without the circuit: if what is left still does the task, the
circuit misses a way of doing it. Minimality takes each node or edge out of the circuit by itself:
one whose removal changes nothing need not be there.

Source: Wang et al. 2022, arXiv 2211.00593 (the criteria; theirs are over sets of nodes).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from kcircuits.core.ablation import Ablation
from kcircuits.core.batch import PromptBatch
from kcircuits.core.circuit import Circuits
from kcircuits.core.topology import Topology
from kcircuits.engine.chunks import DEFAULT_MEMORY, parse_memory
from kcircuits.engine.metrics import DEFAULT_METRIC
from kcircuits.errors import UsageError
from kcircuits.evaluation.judge import Judge
from kcircuits.models import Model

Mask = Bool[np.ndarray, "n_forward n_backward"]


@dataclass(frozen=True, kw_only=True)
class Necessity:
    """What circuits and their parts are needed for.

    Attributes:
        fact_ids: Names of the fact axis.
        faithfulness: F of each circuit; NaN where gated.
        without_circuit: F of the model without the circuit's edges: 0 for a complete circuit.
        parts: Names of each fact's nodes or edges.
        drops: For each of them F(circuit) - F(circuit without it), in the same order.
    """

    fact_ids: tuple[str, ...]
    faithfulness: Float[np.ndarray, " fact"]
    without_circuit: Float[np.ndarray, " fact"]
    parts: tuple[tuple[str, ...], ...]
    drops: tuple[Float[np.ndarray, " part"], ...]

    @property
    def completeness(self) -> Float[np.ndarray, " fact"]:
        """1 - F of the model without the circuit: 1 where nothing of the task is left."""
        return 1 - self.without_circuit

    def minimality(self, threshold: float = 0.01) -> Float[np.ndarray, " fact"]:
        """Share of the parts whose removal changes F by at least a threshold; NaN where gated."""
        shares = [
            np.nan if np.isnan(drop).any() or not len(drop) else (np.abs(drop) >= threshold).mean()
            for drop in self.drops
        ]
        return np.array(shares, dtype=np.float64)


def necessity(
    model: Model,
    batch: PromptBatch,
    circuits: Circuits,
    *,
    level: Literal["node", "edge"] = "node",
    ablation: Ablation = "corrupt",
    metric: str = DEFAULT_METRIC,
    memory: str | int = DEFAULT_MEMORY,
    progress: Callable[[int], object] | None = None,
) -> Necessity:
    """Runs the model without each circuit, and each circuit without each of its parts.

    Args:
        model: From ``load_model``.
        batch: Prompts of the circuits' facts; judged on those for evaluation.
        circuits: One per fact. The cost is one masked forward for each part of the largest.
        level: Take out nodes (with all their edges), or single edges.
        ablation: As in ``evaluate``; a circuit without a part has the circuit's ``optimal``
            constants, the model without the circuit its own.
        metric: As in ``attribute``.
        memory: As in ``evaluate``.
        progress: Called with the number of prompts done after each chunk.

    Raises:
        UsageError: As ``evaluate``.
        NonFiniteError: A metric is NaN or infinite; names the fact.
    """
    if level not in ("node", "edge"):
        raise UsageError(f"level is {level!r}; expected node or edge", field="level")
    topology, masks = circuits.topology, circuits.mask
    judge = Judge(
        model,
        batch,
        circuits.fact_ids,
        topology,
        metric=metric,
        ablation=ablation,
        memory=parse_memory(memory),
    )
    split = _nodes if level == "node" else _edges
    parts = [split(mask, topology) for mask in masks]
    n_parts = max(len(of_fact) for of_fact in parts)

    def mask_of(i: int) -> Bool[np.ndarray, "fact n_forward n_backward"]:
        if i == 0:
            return masks
        if i == 1:
            return topology.edge_mask & ~masks
        without = masks.copy()
        for fact, of_fact in enumerate(parts):
            if i - 2 < len(of_fact):
                without[fact] &= ~of_fact[i - 2][1]
        return without

    judged = judge.run(2 + n_parts, mask_of, progress, learned_with=lambda i: int(i == 1))
    clean, empty = judge.by_fact(judged.clean), judge.by_fact(judged.empty)
    gap = np.where(judge.is_gated(judged), np.nan, clean - empty)
    ratios = (judge.by_fact(judged.circuit) - empty[:, None]) / gap[:, None]
    return Necessity(
        fact_ids=circuits.fact_ids,
        faithfulness=ratios[:, 0],
        without_circuit=ratios[:, 1],
        parts=tuple(tuple(name for name, _ in of_fact) for of_fact in parts),
        drops=tuple(
            ratios[fact, 0] - ratios[fact, 2 : 2 + len(of_fact)]
            for fact, of_fact in enumerate(parts)
        ),
    )


def _nodes(mask: Mask, topology: Topology) -> list[tuple[str, Mask]]:
    """Each head and MLP of a circuit with all edges that touch it."""
    owner = topology.node_of_backward
    found: list[tuple[str, Mask]] = []
    for node in range(1, topology.n_forward):
        touching = np.zeros_like(mask)
        touching[node] = mask[node]
        touching[:, owner == node] = mask[:, owner == node]
        if touching.any():
            found.append((topology.nodes[node], touching))
    return found


def _edges(mask: Mask, topology: Topology) -> list[tuple[str, Mask]]:
    """Each edge of a circuit."""
    found: list[tuple[str, Mask]] = []
    for u, v in np.argwhere(mask):
        single = np.zeros_like(mask)
        single[u, v] = True
        found.append((topology.edge_name(int(u), int(v)), single))
    return found
