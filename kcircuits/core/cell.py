"""A cell: what a sweep knows about one fact at one checkpoint by one method."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kcircuits.core.provenance import Provenance
from kcircuits.core.topology import Topology


@dataclass(frozen=True, kw_only=True)
class SparseMean:
    """What is kept of a fact's mean scores where the model has too many edges to keep all.

    Attributes:
        index: Flat indices of the edges of largest |score|, ascending.
        values: Their scores.
        forward_marginals: Sum of |score| over each sender's edges, the dropped ones included.
        backward_marginals: Sum of |score| over each receiver's edges, likewise.
    """

    index: Int[np.ndarray, " edge"]
    values: Float[np.ndarray, " edge"]
    forward_marginals: Float[np.ndarray, " n_forward"]
    backward_marginals: Float[np.ndarray, " n_backward"]


@dataclass(frozen=True, kw_only=True)
class FailedCell:
    """A cell that could not be computed, and where it failed; it holds no numbers.

    Attributes:
        key: As in ``Cell``.
        checkpoint: Content hash of the checkpoint.
        fact_id: Name of the fact.
        fact_hash: Content hash of the fact.
        component: What was not finite: an edge, or a value of the evaluation.
        message: What happened there.
    """

    key: str
    checkpoint: str
    fact_id: str
    fact_hash: str
    component: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Scores and judgements of one fact at one checkpoint.

    Attributes:
        key: sha256 of everything that the numbers depend on.
        checkpoint: Content hash of the checkpoint.
        fact_id: Name of the fact.
        fact_hash: Content hash of the fact.
        provenance: Method and parameters.
        topology: The graph that edge indices refer to.
        n_edges: The budget n: edges of the circuit before dangling nodes are pruned.
        candidates: Flat edge indices (sender * n_backward + receiver), ascending: enough edges
            to hold the top n of the mean and of every half of the discovery prompts.
        prompt_idx: Which prompts of the fact the rows of ``prompt_scores`` are.
        prompt_scores: Each discovery prompt's scores on the candidates.
        mean: The fact's mean scores over all edges; None where only the candidates were read or
            the model is too large to keep them.
        sparse_mean: The mean's largest edges where the model is too large to keep all.
        is_known: More than half of the fact's probe prompts rank the target first.
        values: Scalars by name: ``metric``, ``clean_metric``, ``empty_metric``, ``faithfulness``
            (None where the gate holds), ``hit_at_10``, ``target_rank``, ``n_circuit_edges`` of
            the circuit at the budget; ``prob``, ``logprob``, ``rank`` of the target under the
            full model, means over the probe prompts.
    """

    key: str
    checkpoint: str
    fact_id: str
    fact_hash: str
    provenance: Provenance
    topology: Topology
    n_edges: int
    candidates: Int[np.ndarray, " candidate"]
    prompt_idx: Int[np.ndarray, " prompt"]
    prompt_scores: Float[np.ndarray, "prompt candidate"]
    mean: Float[np.ndarray, "n_forward n_backward"] | None = None
    sparse_mean: SparseMean | None = None
    is_known: bool
    values: Mapping[str, float | None]
