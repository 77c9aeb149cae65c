"""What a circuit's size means, as a count or as a share."""

from numbers import Integral, Real

from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError


def edge_budget(
    topology: Topology, *, n_edges: int | None = None, fraction: float | None = None
) -> int:
    """The number of edges that a count or a fraction means, int(fraction N) and at least 1."""
    if n_edges is None:
        return share_of(fraction, topology.n_edges)
    return count_of("n_edges", n_edges, topology.n_edges)


def share_of(fraction: float | None, n_total: int) -> int:
    """int(fraction n_total), at least 1; UsageError unless 0 < fraction <= 1."""
    if not (isinstance(fraction, Real) and 0 < fraction <= 1):
        raise UsageError(f"fraction is {fraction!r}; expected a number above 0 and up to 1")
    return max(1, int(fraction * n_total))


def count_of(name: str, count: int | None, n_total: int) -> int:
    """The count; UsageError unless it is a whole number from 0 to ``n_total``."""
    if not (isinstance(count, Integral) and 0 <= count <= n_total):
        raise UsageError(f"{name} is {count!r}; expected a whole number from 0 to {n_total}")
    return int(count)
