"""Sums over all but one, without subtracting: what is left out leaves no trace, not even rounding.

Taking a part away from the whole in floating point leaves a remainder of the part's last bits,
which would rank an edge that only the part uses above the edges that nothing uses.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float


def leave_one_out(
    values: Float[np.ndarray, "unit *size"],
) -> Iterator[Float[np.ndarray, "*size"]]:
    """For each unit in turn the sum over all others; zeros where there is no other.

    Halves are added to what lies outside them, and split again: n log n additions, and log n sums
    in memory at a time.
    """
    return _outside(values, np.zeros(values.shape[1:]))


def _outside(
    values: Float[np.ndarray, "unit *size"], rest: Float[np.ndarray, "*size"]
) -> Iterator[Float[np.ndarray, "*size"]]:
    if len(values) < 2:
        if len(values):
            yield rest
        return
    middle = len(values) // 2
    yield from _outside(values[:middle], rest + values[middle:].sum(0))
    yield from _outside(values[middle:], rest + values[:middle].sum(0))
