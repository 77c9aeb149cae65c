"""From scores to circuits."""

from collections.abc import Callable
from numbers import Real

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.core.budget import count_of, edge_budget, share_of
from kcircuits.core.candidates import flat_edges, name_rank
from kcircuits.core.circuit import Circuits, prune_dangling
from kcircuits.core.greedy import greedy_edge_mask
from kcircuits.core.node_scores import NodeScores
from kcircuits.core.ranking import By, strength
from kcircuits.core.scores import EdgeScores
from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError


def select(
    scores: EdgeScores,
    *,
    n_edges: int | None = None,
    fraction: float | None = None,
    threshold: float | None = None,
    greedy: int | None = None,
    by: By = "size",
    prune: bool = True,
) -> Circuits:
    """Chooses each fact's circuit from its scores.

    Args:
        scores: Per fact, or per prompt (then the mean over each fact's prompts is taken).
        n_edges: Keep that many edges.
        fraction: Keep that share of all edges (at least one edge).
        threshold: Keep edges that reach this, in units of the metric. No edge ties with the last
            one taken, since equal ones are all in.
        greedy: Keep that many edges, grown from the logits: again and again the largest of the
            edges into a node that the circuit has reached, see ``greedy_edge_mask``.
        by: ``size``: the largest |score| first; ``importance``: the largest importance, signed,
            so that edges which harm come last (``EdgeScores.importance``).
        prune: Remove dangling nodes afterwards.

    Raises:
        UsageError: Not exactly one rule, or a value out of range.
        NonFiniteError: A score is NaN or infinite.
    """
    scores = scores.mean_by_fact()
    topology = scores.topology
    if sum(rule is not None for rule in (n_edges, fraction, threshold, greedy)) != 1:
        raise UsageError("select needs exactly one of n_edges, fraction, threshold and greedy")
    values = strength(scores, by)
    if threshold is not None:
        if not (isinstance(threshold, Real) and threshold > 0):
            raise UsageError(f"threshold is {threshold!r}; expected a number above 0")
        chosen = (values >= threshold) & topology.edge_mask
        n_ties = np.zeros(len(chosen), dtype=np.int64)
    elif greedy is not None:
        n = count_of("greedy", greedy, topology.n_edges)
        chosen, n_ties = greedy_edge_mask(values, topology, n)
    else:
        n = edge_budget(topology, n_edges=n_edges, fraction=fraction)
        chosen, n_ties = top_edge_mask(values, topology, n, is_signed=True)
    return Circuits(
        mask=prune_dangling(chosen, topology) if prune else chosen,
        topology=topology,
        fact_ids=scores.fact_ids,
        scores=scores.values,
        n_selected=chosen.sum((1, 2)),
        n_ties=n_ties,
        provenance=scores.provenance,
    )


def select_nodes(
    scores: NodeScores,
    *,
    n_nodes: int | None = None,
    fraction: float | None = None,
    by: By = "size",
) -> Circuits:
    """Chooses each fact's nodes, and takes every edge between them.

    The input and the logits are in every circuit and are not counted, so no node dangles.

    Args:
        scores: From ``EdgeScores.nodes()``.
        n_nodes: Keep that many heads and MLPs.
        fraction: Keep that share of all heads and MLPs (at least one).
        by: ``size``: the largest |score| first; ``importance``: the largest importance.

    Returns:
        Circuits whose ``n_ties`` counts the nodes left out although they score exactly as the
        last one taken (ties are broken by node name).

    Raises:
        UsageError: Not exactly one rule, or a value out of range.
        NonFiniteError: A score is NaN or infinite.

    Source: Mueller et al. 2025 (MIB), arXiv 2504.13151 (edges between chosen nodes).
    """
    if (n_nodes is None) == (fraction is None):
        raise UsageError("select_nodes needs exactly one of n_nodes and fraction")
    topology = scores.topology
    n_total = topology.n_forward - 1
    n = count_of("n_nodes", n_nodes, n_total) if fraction is None else share_of(fraction, n_total)
    names = np.argsort(np.argsort(topology.forward_names[1:]))
    is_in = np.ones((len(scores.values), len(topology.nodes)), dtype=bool)
    n_ties = np.zeros(len(is_in), dtype=np.int64)
    for fact, values in enumerate(strength(scores, by)[:, 1:]):
        chosen, n_ties[fact] = _largest(values, n, lambda: names)
        is_in[fact, 1:-1] = False
        is_in[fact, 1 + chosen] = True
    ends = is_in[:, : topology.n_forward, None] & is_in[:, topology.node_of_backward][:, None, :]
    mask = ends & topology.edge_mask
    return Circuits(
        mask=mask,
        topology=topology,
        fact_ids=scores.fact_ids,
        n_selected=mask.sum((1, 2)),
        n_ties=n_ties,
        provenance=scores.provenance,
    )


def top_edge_mask(
    values: Float[np.ndarray, "fact n_forward n_backward"],
    topology: Topology,
    n_edges: int,
    *,
    is_signed: bool = False,
) -> tuple[Bool[np.ndarray, "fact n_forward n_backward"], Int[np.ndarray, " fact"]]:
    """The ``n_edges`` largest |value| of each fact, and how many ties were left out.

    Ties are broken by edge name, so that the result depends on no memory order.

    Args:
        values: What to rank by.
        topology: Names of the axes.
        n_edges: How many edges to take.
        is_signed: Take the largest values instead of the largest |value|.
    """
    flat = flat_edges(topology)
    chosen = np.zeros((len(values), topology.edge_mask.size), dtype=bool)
    n_ties = np.zeros(len(values), dtype=np.int64)
    for fact, matrix in enumerate(values):
        row = matrix.reshape(-1)[flat]
        kept, n_ties[fact] = _largest(
            row if is_signed else np.abs(row), n_edges, lambda: name_rank(topology)
        )
        chosen[fact, flat[kept]] = True
    return chosen.reshape(values.shape), n_ties


def _largest(
    values: Float[np.ndarray, " item"], n: int, name_order: Callable[[], Int[np.ndarray, " item"]]
) -> tuple[Int[np.ndarray, " n"], int]:
    """The n largest and how many equal to the last were left out; ties by name.

    Names are asked for only where there are ties: those of a large model take seconds to sort.
    """
    if n == 0:
        return np.zeros(0, dtype=np.int64), 0
    cutoff = np.partition(values, len(values) - n)[len(values) - n]
    above, equal = np.flatnonzero(values > cutoff), np.flatnonzero(values == cutoff)
    n_equal = n - len(above)
    n_ties = len(equal) - n_equal
    if n_ties:
        equal = equal[np.argsort(name_order()[equal])[:n_equal]]
    return np.concatenate([above, equal]), n_ties
