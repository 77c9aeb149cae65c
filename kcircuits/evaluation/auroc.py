"""How well scores find a circuit that is known."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError

# |scores| below this share of the largest are rounding of float64 sums, and tie at 0.
ROUNDING = 1e-12

Matrix = Float[np.ndarray, "fact n_forward n_backward"]
Truth = Bool[np.ndarray, "n_forward n_backward"]


def edge_auroc(values: Matrix, truth: Truth, topology: Topology) -> Float[np.ndarray, " fact"]:
    """Area under the ROC curve of |score| for the edges of a known circuit.

    It is the probability that an edge of the circuit scores higher than an edge outside it; ties
    count half. 1 is perfect, 0.5 chance.

    Args:
        values: Scores, one matrix per fact.
        truth: True at the edges of the circuit.
        topology: Says which edges exist.

    Raises:
        UsageError: The circuit holds all edges, none, or one that does not exist.

    Source: Mann and Whitney 1947 (U statistic); Hanley and McNeil 1982 (its use as AUROC).
    """
    size, is_true = _by_edge(values, truth, topology)
    n_true = int(is_true.sum())
    n_false = len(is_true) - n_true
    ranks = rankdata(size, axis=1)
    u = ranks[:, is_true].sum(1) - n_true * (n_true + 1) / 2
    return u / (n_true * n_false)


def edge_recall(values: Matrix, truth: Truth, topology: Topology) -> Float[np.ndarray, " fact"]:
    """Share of a known circuit's n edges among the n largest |scores|.

    Where edges tie at the cutoff it is the expected share when ties are broken at random.

    Args:
        values: As in ``edge_auroc``.
        truth: As in ``edge_auroc``.
        topology: As in ``edge_auroc``.

    Raises:
        UsageError: As ``edge_auroc``.
    """
    size, is_true = _by_edge(values, truth, topology)
    n_true = int(is_true.sum())
    cutoff = np.sort(size, axis=1)[:, -n_true, None]
    above, equal = size > cutoff, size == cutoff
    free = n_true - above.sum(1)
    found = (above & is_true).sum(1) + free * (equal & is_true).sum(1) / equal.sum(1)
    return found / n_true


def _by_edge(
    values: Matrix, truth: Truth, topology: Topology
) -> tuple[Float[np.ndarray, "fact edge"], Bool[np.ndarray, " edge"]]:
    n_true = int(truth.sum())
    if (truth & ~topology.edge_mask).any() or not 0 < n_true < topology.n_edges:
        raise UsageError(
            f"a circuit of {n_true} edges cannot be told from the rest of {topology.n_edges} edges",
            hint="give a mask over edges that exist, with at least one inside and one outside",
        )
    size = np.abs(values[:, topology.edge_mask])
    rounding = ROUNDING * size.max(1, keepdims=True)
    return np.where(size <= rounding, 0.0, size), truth[topology.edge_mask]
