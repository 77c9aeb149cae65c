"""From scores to circuits."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from kcircuits.core.circuit import Circuits, prune_dangling
from kcircuits.core.scores import EdgeScores
from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError


def select(
    scores: EdgeScores,
    *,
    n_edges: int | None = None,
    fraction: float | None = None,
    threshold: float | None = None,
    prune: bool = True,
) -> Circuits:
    """Chooses each fact's circuit from its scores, by absolute value.

    Args:
        scores: Per fact, or per prompt (then the mean over each fact's prompts is taken).
        n_edges: Keep that many edges.
        fraction: Keep that share of all edges (at least one edge).
        threshold: Keep edges with |score| of at least this, in units of the metric.
        prune: Remove dangling nodes afterwards.

    Raises:
        UsageError: Not exactly one rule, or a value out of range.
    """
    scores = scores.mean_by_fact()
    topology = scores.topology
    if sum(rule is not None for rule in (n_edges, fraction, threshold)) != 1:
        raise UsageError("select needs exactly one of n_edges, fraction and threshold")
    if threshold is not None:
        if not (isinstance(threshold, Real) and threshold > 0):
            raise UsageError(f"threshold is {threshold!r}; expected a number above 0")
        chosen = (np.abs(scores.values) >= threshold) & topology.edge_mask
        n_ties = np.zeros(len(chosen), dtype=np.int64)
    else:
        n = edge_budget(topology, n_edges=n_edges, fraction=fraction)
        chosen, n_ties = top_edge_mask(scores.values, topology, n)
    return Circuits(
        mask=prune_dangling(chosen, topology) if prune else chosen,
        topology=topology,
        fact_ids=scores.fact_ids,
        scores=scores.values,
        n_selected=chosen.sum((1, 2)),
        n_ties=n_ties,
        provenance=scores.provenance,
    )


def edge_budget(
    topology: Topology, *, n_edges: int | None = None, fraction: float | None = None
) -> int:
    """The number of edges that a count or a fraction means, int(fraction N) and at least 1."""
    if n_edges is None:
        if not (isinstance(fraction, Real) and 0 < fraction <= 1):
            raise UsageError(f"fraction is {fraction!r}; expected a number above 0 and up to 1")
        n_edges = max(1, int(fraction * topology.n_edges))
    if not (isinstance(n_edges, Integral) and 0 <= n_edges <= topology.n_edges):
        raise UsageError(
            f"n_edges is {n_edges!r}; expected a whole number from 0 to {topology.n_edges}"
        )
    return n_edges


def top_edge_mask(
    values: Float[np.ndarray, "fact n_forward n_backward"], topology: Topology, n_edges: int
) -> tuple[Bool[np.ndarray, "fact n_forward n_backward"], Any]:
    """The ``n_edges`` largest |score| of each fact, and how many ties were left out.

    Ties are broken by edge name, so that the result depends on no memory order.
    """
    chosen = np.zeros(values.shape, dtype=bool)
    n_ties = np.zeros(len(values), dtype=np.int64)
    where = np.nonzero(topology.edge_mask)
    if n_edges == 0:
        return chosen, n_ties
    for fact, matrix in enumerate(np.abs(values)):
        size = matrix[where]
        cutoff = np.partition(size, len(size) - n_edges)[len(size) - n_edges]
        above, equal = np.nonzero(size > cutoff)[0], np.nonzero(size == cutoff)[0]
        n_equal = n_edges - len(above)
        n_ties[fact] = len(equal) - n_equal
        if n_ties[fact]:
            names = [topology.edge_name(int(where[0][i]), int(where[1][i])) for i in equal]
            equal = equal[np.argsort(names, kind="stable")[:n_equal]]
        keep = np.concatenate([above, equal])
        chosen[fact, where[0][keep], where[1][keep]] = True
    return chosen, n_ties
