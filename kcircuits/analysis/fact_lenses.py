"""One fact through its lenses at every epoch: means over prompts with their standard errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kcircuits.analysis.roles import FactRoles, RoleCounts, count_roles, fact_roles
from kcircuits.core.lenses import DIFFERENCE, RELATION, SUBJECT, TARGET, Lenses


@dataclass(frozen=True, kw_only=True)
class FactLenses:
    """Means over a fact's prompts at each epoch; contributions are to the effect ``target``.

    Attributes:
        heads: Contribution of each head, by the positions that it reads from.
        head_errors: Standard error of each head's whole contribution; NaN with one prompt.
        differences: Each head's whole contribution to target minus foil.
        attention: Share of each head's attention on each group of positions.
        mlps: Contribution of each MLP.
        embedding: Contribution of the last token's embedding.
        constant: What belongs to no component.
        logprob: Log-probability of the target read off each depth.
        logprob_errors: Its standard error; NaN with one prompt.
        prob: Probability of the target at each depth.
        log_rank: Natural logarithm of the target's rank at each depth.
        n_prompts: Prompts of the fact.
        n_role_prompts: Prompts that roles come from: those with tokens of subject and relation.
        roles: Of each head.
        counts: Heads of each role.
    """

    heads: Float[np.ndarray, "epoch n_layers n_heads group"]
    head_errors: Float[np.ndarray, "epoch n_layers n_heads"]
    differences: Float[np.ndarray, "epoch n_layers n_heads"]
    attention: Float[np.ndarray, "epoch n_layers n_heads group"]
    mlps: Float[np.ndarray, "epoch n_layers"]
    embedding: Float[np.ndarray, " epoch"]
    constant: Float[np.ndarray, " epoch"]
    logprob: Float[np.ndarray, "epoch depth"]
    logprob_errors: Float[np.ndarray, "epoch depth"]
    prob: Float[np.ndarray, "epoch depth"]
    log_rank: Float[np.ndarray, "epoch depth"]
    n_prompts: int
    n_role_prompts: int
    roles: FactRoles
    counts: RoleCounts


def fact_lenses(epochs: Sequence[Lenses]) -> FactLenses:
    """Sums up one fact.

    Args:
        epochs: The fact's lenses at each epoch, of the same prompts.
    """
    contributions = np.stack([each.heads[:, TARGET] for each in epochs])
    wholes = [each.heads[:, TARGET].sum(-1) for each in epochs]
    usable = (epochs[0].n_tokens[:, [SUBJECT, RELATION]] > 0).all(1)
    of_roles = contributions[:, usable]
    roles = fact_roles(of_roles)
    read = of_roles.mean(1) if usable.any() else np.full_like(contributions[:, 0], np.nan)
    return FactLenses(
        heads=contributions.mean(1),
        head_errors=np.stack(
            [each.standard_error(x)[0] for each, x in zip(epochs, wholes, strict=True)]
        ),
        differences=np.stack([each.heads[:, DIFFERENCE].sum(-1).mean(0) for each in epochs]),
        attention=np.stack([each.attention.mean(0) for each in epochs]),
        mlps=np.stack([each.mlps[:, TARGET].mean(0) for each in epochs]),
        embedding=np.array([each.embedding[:, TARGET].mean() for each in epochs]),
        constant=np.array([each.constant[:, TARGET].mean() for each in epochs]),
        logprob=np.stack([each.logprob.mean(0) for each in epochs]),
        logprob_errors=np.stack([each.standard_error(each.logprob)[0] for each in epochs]),
        prob=np.stack([each.prob.mean(0) for each in epochs]),
        log_rank=np.stack([np.log(each.rank).mean(0) for each in epochs]),
        n_prompts=len(epochs[0]),
        n_role_prompts=int(usable.sum()),
        roles=roles,
        counts=count_roles(roles, read),
    )
