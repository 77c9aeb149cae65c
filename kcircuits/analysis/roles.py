"""Roles of heads by what they read to say the answer, and how roles come and go.

A head's direct contribution to the target's logit is split by the positions that it reads. With S
and R its contributions from the subject's and from the relation's positions (sums over positions,
means over prompts), a head is

    a mover      where |S| > 10 |R|     (it carries what the subject's tokens hold),
    relation     where |S| < |R| / 10   (it says what the relation alone suggests),
    mixture      in between,

and has no role where both are below .1 logits: less than that moves the odds of the answer by less
than a tenth, and ratios of two small numbers are noise. Within a group contributions add up with
their signs, since what cancels does not reach the logit; the ratio then takes absolute values,
since the role says *where* a head reads. Whether it speaks for or against the answer is told apart.

Noise: a role counts as replicated where both halves of the fact's prompts give it. Between two
epochs a head acquires (loses) a role only if it does so in both halves. What noise alone gives is
counted beside it: heads that acquire it in one half *and lose it in the other*. If nothing changed,
the epochs of one half could be exchanged, so either happens equally often.

Source: Ou et al. 2025, arXiv 2502.11196 (roles and thresholds; their code sums over the vocabulary
and takes values at the last position); Chughtai, Cooney, Nanda 2024, arXiv 2402.07321.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.halves import split_halves
from kcircuits.core.lenses import RELATION, SUBJECT

ROLES = ("mover", "relation", "mixture")
NO_ROLE = -1
MOVER, RELATION_HEAD, MIXTURE = range(3)
RATIO = 10.0
MIN_CONTRIBUTION = 0.1


def head_roles(contributions: Float[np.ndarray, "*heads group"]) -> Int[np.ndarray, "*heads"]:
    """The role of each head, an index into ``ROLES`` or ``NO_ROLE``.

    Args:
        contributions: Means over prompts, in logits; NaN gives no role.
    """
    subject, relation = np.abs(contributions[..., SUBJECT]), np.abs(contributions[..., RELATION])
    roles = np.full(subject.shape, MIXTURE, dtype=np.int8)
    roles[subject > RATIO * relation] = MOVER
    roles[RATIO * subject < relation] = RELATION_HEAD
    roles[~(np.maximum(subject, relation) >= MIN_CONTRIBUTION)] = NO_ROLE
    return roles


@dataclass(frozen=True, kw_only=True)
class FactRoles:
    """Roles of all heads for one fact at some epochs.

    Attributes:
        role: By the mean over the fact's prompts.
        halves: By the means over both halves of every split; no split with a single prompt.
    """

    role: Int[np.ndarray, "epoch n_layers n_heads"]
    halves: Int[np.ndarray, "epoch split 2 n_layers n_heads"]


@dataclass(frozen=True, kw_only=True)
class RoleCounts:
    """Heads of each role, for one fact at each epoch.

    Attributes:
        heads: By the mean over prompts.
        against: Of these, heads that lower the target's logit.
        replicated: Heads that have the role in both halves; mean over splits, NaN without halves.
        chance: What ``replicated`` would be if halves had their roles at random heads.
    """

    heads: Float[np.ndarray, "epoch role"]
    against: Float[np.ndarray, "epoch role"]
    replicated: Float[np.ndarray, "epoch role"]
    chance: Float[np.ndarray, "epoch role"]


@dataclass(frozen=True, kw_only=True)
class RoleSteps:
    """Roles that come and go between two epochs: shares of splits, NaN without halves.

    Attributes:
        acquired: The head has the role at the second epoch and not at the first, in both halves.
        lost: The other way round.
        noise: It acquires the role in one half and loses it in the other, half of these cases:
            what ``acquired`` and ``lost`` would each be if nothing had changed.
    """

    acquired: Float[np.ndarray, "role n_layers n_heads"]
    lost: Float[np.ndarray, "role n_layers n_heads"]
    noise: Float[np.ndarray, "role n_layers n_heads"]


def fact_roles(
    contributions: Float[np.ndarray, "epoch prompt n_layers n_heads group"],
) -> FactRoles:
    """The roles of one fact's heads, from all its prompts and from their halves."""
    n_prompts = contributions.shape[1]
    if n_prompts == 0:
        contributions = np.full_like(
            contributions, np.nan, shape=(len(contributions), 1, *contributions.shape[2:])
        )
        n_prompts = 1
    second = split_halves(n_prompts)
    sides = np.stack([~second, second], 1).astype(contributions.dtype)  # [split, half, prompt]
    sides /= sides.sum(2, keepdims=True)
    means = np.einsum("shp,eplng->eshlng", sides, contributions, optimize=True)
    return FactRoles(role=head_roles(contributions.mean(1)), halves=head_roles(means))


def count_roles(
    roles: FactRoles, contributions: Float[np.ndarray, "epoch n_layers n_heads group"]
) -> RoleCounts:
    """How many heads have each role.

    Args:
        roles: Of one fact.
        contributions: Their means over the fact's prompts.
    """
    has_role = _each_role(roles.role)
    lowers = contributions[..., [SUBJECT, RELATION]].sum(-1) < 0
    in_halves = _each_role(roles.halves)  # [role, epoch, split, half, layer, head]
    both = in_halves.all(3).sum((3, 4))
    sizes = in_halves.sum((4, 5))
    n_heads = roles.role[0].size
    return RoleCounts(
        heads=has_role.sum((2, 3)).T.astype(np.float64),
        against=(has_role & lowers).sum((2, 3)).T.astype(np.float64),
        replicated=_mean(both, 2).T,
        chance=_mean(sizes.prod(3) / n_heads, 2).T,
    )


def role_step(roles: FactRoles, start: int, stop: int) -> RoleSteps:
    """Roles acquired and lost between two epochs of one fact.

    Args:
        roles: Of one fact.
        start: Place of the first epoch.
        stop: Place of the second.
    """
    before, after = (_each_role(roles.halves[place]) for place in (start, stop))
    acquires, loses = ~before & after, before & ~after  # [role, split, half, layer, head]
    crossed = (acquires[:, :, 0] & loses[:, :, 1]).astype(np.float64)
    crossed += acquires[:, :, 1] & loses[:, :, 0]
    return RoleSteps(
        acquired=_mean(acquires.all(2), 1),
        lost=_mean(loses.all(2), 1),
        noise=_mean(crossed, 1) / 2,
    )


def _each_role(roles: Int[np.ndarray, "*axes"]) -> Bool[np.ndarray, "role *axes"]:
    return np.stack([roles == role for role in range(len(ROLES))])


def _mean(values: Any, axis: int) -> np.ndarray:
    """Mean over splits; NaN where there is none."""
    if values.shape[axis] == 0:
        return np.full(np.delete(values.shape, axis), np.nan)
    return values.mean(axis)
