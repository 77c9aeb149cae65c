"""The order in which edges enter a circuit, and circuits of all sizes cut from that one order.

A faithfulness curve needs each fact's top-n circuit at ten sizes. They are nested, so one sort per
fact gives every edge a rank r, and the edge is in the circuit of n edges where r < n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from kcircuits.core.budget import edge_budget
from kcircuits.core.candidates import flat_edges, name_rank
from kcircuits.core.circuit import Circuits, prune_dangling
from kcircuits.core.node_scores import NodeScores
from kcircuits.core.provenance import Provenance
from kcircuits.core.scores import EdgeScores
from kcircuits.core.topology import Topology
from kcircuits.errors import NonFiniteError, UsageError

# What comes first: the largest |score|, or the largest importance (signed, higher is better).
By = Literal["size", "importance"]

# Shares of all edges at which a curve is taken.
# Source: Mueller et al. 2025 (MIB), arXiv 2504.13151.
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def strength(scores: EdgeScores | NodeScores, by: By) -> Float[np.ndarray, "fact ..."]:
    """What the scores of facts are ranked by, largest first: |score|, or the importance.

    Raises:
        UsageError: Another ``by``.
        NonFiniteError: A score is NaN or infinite.
    """
    if by not in get_args(By):
        raise UsageError(f"by is {by!r}; expected one of {', '.join(get_args(By))}", field="by")
    bad = np.argwhere(~np.isfinite(scores.values))
    if len(bad):
        row, *place = (int(i) for i in bad[0])
        topology, fact = scores.topology, scores.fact_ids[row]
        name = topology.edge_name(*place) if len(place) == 2 else topology.forward_names[place[0]]
        raise NonFiniteError(
            f"fact {fact!r}: the score of {name} is not finite ({len(bad)} scores in all)",
            field=fact,
            hint="check the checkpoint for overflow, or compute in float32",
        )
    return np.abs(scores.values) if by == "size" else scores.importance


def edge_ranks(
    scores: EdgeScores, *, by: By = "size"
) -> Int32[np.ndarray, "fact n_forward n_backward"]:
    """Place of every edge in its fact's order, 0 for the first; ties by edge name.

    Args:
        scores: Per fact, or per prompt (then the mean over each fact's prompts is ranked).
        by: ``size`` ranks by |score|, ``importance`` by the signed importance.

    Returns:
        Rank r: the edge is in the top n for every n > r. Where there is no edge r is the number
        of edges, which no n exceeds.
    """
    scores = scores.mean_by_fact()
    topology = scores.topology
    flat = _flat_by_name(topology)
    values = strength(scores, by).reshape(len(scores.values), -1)
    ranks = np.full(values.shape, topology.n_edges, dtype=np.int32)
    for fact, row in enumerate(values):
        # The edges stand in the order of their names, and a stable sort keeps that among equals.
        ranks[fact, flat[np.argsort(-row[flat], kind="stable")]] = np.arange(len(flat))
    return ranks.reshape(scores.values.shape)


def _flat_by_name(topology: Topology) -> Int[np.ndarray, " edge"]:
    """Flat index of every edge, in the order of edge names."""
    return flat_edges(topology)[np.argsort(name_rank(topology))]


@dataclass(frozen=True, kw_only=True)
class NestedCircuits:
    """The top-n circuits of every fact at several sizes, each within the next.

    Attributes:
        ranks: From ``edge_ranks``.
        topology: Names of the axes.
        fact_ids: Names of the facts.
        sizes: Nominal sizes, shares of all edges.
        n_selected: Edges at each size before dangling nodes are pruned: int(size N), at least 1.
        n_ties: Edges left out although they rank equal to the last one taken.
        by: What the edges are ranked by.
        provenance: Method and model of the scores.
    """

    ranks: Int32[np.ndarray, "fact n_forward n_backward"]
    topology: Topology
    fact_ids: tuple[str, ...]
    sizes: tuple[float, ...]
    n_selected: Int[np.ndarray, " size"]
    n_ties: Int[np.ndarray, "fact size"]
    by: By
    provenance: Provenance

    def __len__(self) -> int:
        return len(self.sizes)

    def mask(
        self, size_idx: int, *, prune: bool = True
    ) -> Bool[np.ndarray, "fact n_forward n_backward"]:
        """Edges of every fact's circuit at one size."""
        chosen = self.ranks < self.n_selected[size_idx]
        return prune_dangling(chosen, self.topology) if prune else chosen

    def circuits(self, size_idx: int, *, prune: bool = True) -> Circuits:
        """Every fact's circuit at one size; equal to ``select`` with that fraction."""
        n_facts = len(self.fact_ids)
        return Circuits(
            mask=self.mask(size_idx, prune=prune),
            topology=self.topology,
            fact_ids=self.fact_ids,
            n_selected=np.full(n_facts, self.n_selected[size_idx]),
            n_ties=self.n_ties[:, size_idx],
            provenance=self.provenance,
        )


def nested_circuits(
    scores: EdgeScores, *, sizes: Sequence[float] = SIZES, by: By = "size"
) -> NestedCircuits:
    """Each fact's top-n circuits at all sizes, from one sort.

    Args:
        scores: Per fact, or per prompt (then the mean over each fact's prompts is taken).
        sizes: Shares of all edges, ascending.
        by: ``size`` ranks by |score|, ``importance`` by the signed importance.

    Raises:
        UsageError: Sizes that are not shares in ascending order.
    """
    scores = scores.mean_by_fact()
    if not sizes or list(sizes) != sorted(set(sizes)):
        raise UsageError(f"sizes are {tuple(sizes)}; expected shares in ascending order")
    n_selected = [edge_budget(scores.topology, fraction=size) for size in sizes]
    ranks = edge_ranks(scores, by=by)
    return NestedCircuits(
        ranks=ranks,
        topology=scores.topology,
        fact_ids=scores.fact_ids,
        sizes=tuple(float(size) for size in sizes),
        n_selected=np.array(n_selected),
        n_ties=_ties(strength(scores, by), ranks, scores.topology, n_selected),
        by=by,
        provenance=scores.provenance,
    )


def _ties(
    values: Float[np.ndarray, "fact n_forward n_backward"],
    ranks: Int32[np.ndarray, "fact n_forward n_backward"],
    topology: Topology,
    n_selected: Sequence[int],
) -> Int[np.ndarray, "fact size"]:
    """Edges beyond each n that are equal to the n-th."""
    n_ties = np.zeros((len(values), len(n_selected)), dtype=np.int64)
    for fact in range(len(values)):
        ordered = np.empty(topology.n_edges, dtype=values.dtype)
        ordered[ranks[fact][topology.edge_mask]] = values[fact][topology.edge_mask]
        ends = np.searchsorted(-ordered, -ordered[np.array(n_selected) - 1], side="right")
        n_ties[fact] = ends - n_selected
    return n_ties
