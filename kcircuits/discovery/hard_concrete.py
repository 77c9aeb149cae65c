"""Hard-concrete gates, and the multiplier that keeps their expected number on target.

A gate is z = clamp(1.2 s - 0.1, 0, 1) with s = sigmoid((log u - log(1 - u) + a) / b), b = 2/3, u
uniform: it is exactly 0 or 1 with positive probability, and its mean rises with a ("log alpha").

Source: Louizos, Welling, Kingma 2018, arXiv 1712.01312; Bhaskar et al. 2024, arXiv 2406.16778.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

TEMPERATURE = 2 / 3
STRETCH, LOWER = 1.2, -0.1


@dataclass(frozen=True, kw_only=True)
class Gates:
    """One draw of gates, and the slope of each in log alpha."""

    values: Float[Tensor, "fact edge"]
    slope: Float[Tensor, "fact edge"]


def sample(log_alpha: Float[Tensor, "fact edge"], generators: Sequence[torch.Generator]) -> Gates:
    """Draws every gate, those of each fact from its own generator."""
    n_edges = log_alpha.shape[1]
    draws = [torch.rand(n_edges, generator=each, dtype=torch.float64) for each in generators]
    u = torch.stack(draws).clamp(1e-9, 1 - 1e-9).to(log_alpha)
    s = torch.sigmoid((torch.log(u) - torch.log1p(-u) + log_alpha) / TEMPERATURE)
    stretched = STRETCH * s + LOWER
    is_between = (stretched > 0) & (stretched < 1)
    return Gates(
        values=stretched.clamp(0, 1), slope=is_between * STRETCH * s * (1 - s) / TEMPERATURE
    )


def expected(log_alpha: Float[Tensor, "fact edge"]) -> Float[Tensor, "fact edge"]:
    """Mean of each gate, to 1e-5."""
    return _looked_up(log_alpha)[0].to(log_alpha.dtype)


def _looked_up(
    log_alpha: Float[Tensor, "fact edge"],
) -> tuple[Float[Tensor, "fact edge"], Float[Tensor, "fact edge"]]:
    """Means of gates and their slopes in log alpha, between two points of the table."""
    per_unit = (_N_POINTS - 1) / (2 * _REACH)
    place = (log_alpha.double() + _REACH).mul_(per_unit).clamp_(0, _N_POINTS - 1)
    left = place.long().clamp_(max=_N_POINTS - 2)
    means, rises = _means(log_alpha.device)
    rise = rises[left]
    return torch.addcmul(means[left], rise, place.sub_(left)), rise.mul_(per_unit)


def move_to_count(
    log_alpha: Float[Tensor, "fact edge"], n_edges: float
) -> Float[Tensor, "fact edge"]:
    """Moves all gates of a fact by one amount, so that their expected number is ``n_edges``.

    The amount is the Lagrange multiplier of the constraint, solved for instead of ascended. Nothing
    is cut off at either end, so that gates keep their order on the way up and down.
    """
    wide = log_alpha.double()
    low, high = wide.amin(1, keepdim=True) - _REACH, wide.amax(1, keepdim=True) + _REACH
    amount = torch.zeros_like(low)
    for _ in range(_N_TRIES):
        means, slopes = _looked_up(wide - amount)
        excess = means.sum(1, keepdim=True) - n_edges
        # Each fact stops by itself, so that it does not depend on the others.
        is_done = excess.abs() <= _PRECISION * n_edges
        if is_done.all():
            break
        low, high = torch.where(excess > 0, amount, low), torch.where(excess > 0, high, amount)
        newton = amount + excess / slopes.sum(1, keepdim=True)
        inside = (newton > low) & (newton < high)
        amount = torch.where(is_done, amount, torch.where(inside, newton, (low + high) / 2))
    return (wide - amount).to(log_alpha.dtype)


# Points of the table of means, and of the quadrature over u behind each.
# Beyond the reach a gate is 0 or 1 but for one draw in a hundred million.
_N_POINTS, _N_DRAWS, _REACH = 4001, 4096, 20.0
# Of the number of gates; Newton's method is there in some 5 tries, halving alone in 40.
_PRECISION, _N_TRIES = 1e-9, 60


@cache
def _means(device: torch.device) -> tuple[Float[Tensor, " point"], Float[Tensor, " interval"]]:
    """Mean of a gate at evenly spaced log alpha, and its rise from each point to the next."""
    grid = torch.linspace(-_REACH, _REACH, _N_POINTS, dtype=torch.float64)
    u = (torch.arange(_N_DRAWS, dtype=torch.float64) + 0.5) / _N_DRAWS
    noise = torch.log(u) - torch.log1p(-u)

    def mean(a: Tensor) -> Tensor:
        return (STRETCH * torch.sigmoid((noise + a) / TEMPERATURE) + LOWER).clamp(0, 1).mean()

    means = torch.stack([mean(a) for a in grid]).to(device)
    return means, means.diff()
