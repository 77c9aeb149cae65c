"""Scores of whole nodes: heads, MLPs and the input, one vector per fact.

The residual stream is linear: what sender u writes is added, as it is, to the input of every later
receiver v. So the gradient of the metric at u's output is the sum over v of the gradient at v's
own input, and with the activation difference z'_u - z_u common to all of u's edges

    (z'_u - z_u) . dm/dz_u = sum over v of (z'_u - z_u) . dm/d(input of v) = sum of edge scores.

A node's attribution therefore needs no pass of its own. That holds for every score which is linear
in the gradient (eap, the eap-ig family, relp). It does not hold for exact patching, where patching
a node is not the sum of patching its edges; and the sum of mask probabilities is the expected
number of edges that the node keeps.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from kcircuits.core.provenance import Provenance
from kcircuits.core.topology import Topology


@dataclass(frozen=True, kw_only=True)
class NodeScores:
    """Scores of the senders, per fact; from ``EdgeScores.nodes()``.

    Attributes:
        values: Scores in units of the metric, with the sign of edge scores: an estimate of
            metric(node corrupted) - metric(clean), so a helpful node is negative.
        topology: Names of the sender axis.
        fact_ids: Names of the facts.
        provenance: Method and model of the edge scores.
    """

    values: Float[np.ndarray, "fact n_forward"]
    topology: Topology
    fact_ids: tuple[str, ...]
    provenance: Provenance

    def __getitem__(self, fact_id: str) -> Float[np.ndarray, " n_forward"]:
        """The fact's scores."""
        return self.values[self.fact_ids.index(fact_id)]

    @property
    def importance(self) -> Float[np.ndarray, "fact n_forward"]:
        """Higher is better; as ``EdgeScores.importance``."""
        return self.values if self.provenance.is_importance else -self.values

    def top_nodes(self, fact_id: str, n_nodes: int) -> list[dict[str, Any]]:
        """The largest nodes of a fact by absolute score, as rows ``node``, ``score``."""
        values = self[fact_id]
        names = self.topology.forward_names
        order = sorted(range(len(names)), key=lambda i: (-abs(values[i]), names[i]))
        return [{"node": names[i], "score": float(values[i])} for i in order[:n_nodes]]
