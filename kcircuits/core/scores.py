"""Scores of all edges, one matrix per fact (or per prompt)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kcircuits.core.provenance import Provenance
from kcircuits.core.topology import Topology


@dataclass(frozen=True, kw_only=True)
class EdgeScores:
    """Edge scores.

    Sign: an attribution score estimates metric(edge corrupted) - metric(clean), in units of the
    metric: with the logit difference a *helpful* edge scores negative. Importance, where higher
    is better, is the negative score.

    Attributes:
        values: Scores; 0 where there is no edge. The first axis is facts, or prompts when the
            prompts were kept apart.
        topology: Names of the two other axes.
        fact_ids: Names of the facts.
        fact_idx: Fact of each row, an index into ``fact_ids``.
        prompt_idx: Which prompt of its fact each row is; None where a row is a fact's mean.
        provenance: Method and model.
    """

    values: Float[np.ndarray, "row n_forward n_backward"]
    topology: Topology
    fact_ids: tuple[str, ...]
    fact_idx: Int[np.ndarray, " row"]
    prompt_idx: Int[np.ndarray, " row"] | None = None
    provenance: Provenance

    def __getitem__(self, fact_id: str) -> Float[np.ndarray, "..."]:
        """The fact's matrix, or its [prompt, n_forward, n_backward] where prompts are apart."""
        rows = self.values[self.fact_idx == self.fact_ids.index(fact_id)]
        return rows[0] if self.prompt_idx is None else rows

    def mean_by_fact(self) -> "EdgeScores":
        """The mean over each fact's prompts; itself if it already is."""
        if self.prompt_idx is None:
            return self
        n_facts = len(self.fact_ids)
        counts = np.bincount(self.fact_idx, minlength=n_facts)
        sums = np.zeros((n_facts, *self.values.shape[1:]), dtype=self.values.dtype)
        np.add.at(sums, self.fact_idx, self.values)
        return EdgeScores(
            values=sums / np.maximum(counts, 1)[:, None, None],
            topology=self.topology,
            fact_ids=self.fact_ids,
            fact_idx=np.arange(n_facts),
            provenance=self.provenance,
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
