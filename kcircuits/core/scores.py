"""Scores of all edges, one matrix per fact (or per prompt)."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kcircuits.core.node_scores import NodeScores
from kcircuits.core.provenance import Provenance
from kcircuits.core.topology import Topology


@dataclass(frozen=True, kw_only=True)
class EdgeScores:
    """Edge scores.

    Sign: an attribution score estimates metric(edge corrupted) - metric(clean), in units of the
    metric: with the logit difference a *helpful* edge scores negative. See ``importance``.

    Attributes:
        values: Scores; 0 where there is no edge. The first axis is facts, or prompts when the
            prompts were kept apart.
        topology: Names of the two other axes.
        fact_ids: Names of the facts.
        fact_idx: Fact of each row, an index into ``fact_ids``.
        prompt_idx: Which prompt of its fact each row is; None where a row is a fact's mean.
        by_role: The same scores apart by the role of the receiver's position
            (``core.answers.ROLES``); they add up to ``values``. None where not asked for.
        provenance: Method and model.
    """

    values: Float[np.ndarray, "row n_forward n_backward"]
    by_role: Float[np.ndarray, "row role n_forward n_backward"] | None = None
    topology: Topology
    fact_ids: tuple[str, ...]
    fact_idx: Int[np.ndarray, " row"]
    prompt_idx: Int[np.ndarray, " row"] | None = None
    provenance: Provenance

    def __getitem__(self, fact_id: str) -> Float[np.ndarray, "..."]:
        """The fact's matrix, or its [prompt, n_forward, n_backward] where prompts are apart."""
        rows = self.values[self.fact_idx == self.fact_ids.index(fact_id)]
        return rows[0] if self.prompt_idx is None else rows

    @property
    def importance(self) -> Float[np.ndarray, "row n_forward n_backward"]:
        """Scores turned so that a helpful edge is positive and higher is better.

        The negative score where the metric is better when higher; the value itself where
        ``provenance.is_importance`` says so (mask probabilities, KL).
        """
        return self.values if self.provenance.is_importance else -self.values

    def nodes(self) -> NodeScores:
        """Scores of the senders: the sum over each one's edges; see ``NodeScores``."""
        mean = self.mean_by_fact()
        return NodeScores(
            values=mean.values.sum(2),
            topology=self.topology,
            fact_ids=self.fact_ids,
            provenance=self.provenance,
        )

    def mean_by_fact(self) -> "EdgeScores":
        """The mean over each fact's prompts; itself if it already is."""
        if self.prompt_idx is None:
            return self
        n_facts = len(self.fact_ids)
        apart = self.by_role
        return replace(
            self,
            values=_means(self.values, self.fact_idx, n_facts),
            by_role=None if apart is None else _means(apart, self.fact_idx, n_facts),
            fact_idx=np.arange(n_facts),
            prompt_idx=None,
        )

    def top_edges(self, fact_id: str, n_edges: int) -> list[dict[str, Any]]:
        """The largest edges of a fact by absolute score, as rows ``edge``, ``score``."""
        matrix = self.mean_by_fact()[fact_id]
        flat = np.argsort(-np.abs(matrix), axis=None, kind="stable")[:n_edges]
        pairs = zip(*np.unravel_index(flat, matrix.shape), strict=True)
        return [
            {"edge": self.topology.edge_name(int(u), int(v)), "score": float(matrix[u, v])}
            for u, v in pairs
        ]


@dataclass(frozen=True, kw_only=True)
class NeuronScores:
    """Scores of MLP neurons, with the sign and unit of ``EdgeScores``.

    Attributes:
        values: Scores.
        fact_ids: Names of the facts.
        fact_idx: Fact of each row, an index into ``fact_ids``.
        prompt_idx: Which prompt of its fact each row is; None where a row is a fact's mean.
        provenance: Method and model.
    """

    values: Float[np.ndarray, "row n_layers d_mlp"]
    fact_ids: tuple[str, ...]
    fact_idx: Int[np.ndarray, " row"]
    prompt_idx: Int[np.ndarray, " row"] | None = None
    provenance: Provenance

    def top_neurons(self, fact_id: str, n_neurons: int) -> list[dict[str, Any]]:
        """The largest neurons of a fact by absolute score: ``layer``, ``neuron``, ``score``."""
        n_facts = len(self.fact_ids)
        matrix = _means(self.values, self.fact_idx, n_facts)[self.fact_ids.index(fact_id)]
        flat = np.argsort(-np.abs(matrix), axis=None, kind="stable")[:n_neurons]
        pairs = zip(*np.unravel_index(flat, matrix.shape), strict=True)
        return [
            {"layer": int(layer), "neuron": int(neuron), "score": float(matrix[layer, neuron])}
            for layer, neuron in pairs
        ]


def _means(
    values: Float[np.ndarray, "row *what"], fact_idx: Int[np.ndarray, " row"], n_facts: int
) -> Float[np.ndarray, "fact *what"]:
    """Means over the rows of each fact; 0 for a fact without any."""
    counts = np.maximum(np.bincount(fact_idx, minlength=n_facts), 1)
    sums = np.zeros((n_facts, *values.shape[1:]), dtype=values.dtype)
    np.add.at(sums, fact_idx, values)
    return sums / counts.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
