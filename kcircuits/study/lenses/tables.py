"""The tables of ``RunLenses``: plain rows, None where there is no number.

Means are over the facts of a stratum (each fact's mean over its prompts first). ``low`` and
``high`` are 95% intervals: by bootstrap over subjects, or, where there is one fact alone, over its
prompts by Student's t.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from kcircuits.analysis.overlap.jackknife import student_quantile
from kcircuits.analysis.roles import NO_ROLE, ROLES, RoleSteps, head_roles, role_step
from kcircuits.core.bootstrap import CONFIDENCE, bootstrap_mean
from kcircuits.core.lenses import GROUPS, RELATION, SUBJECT
from kcircuits.study.diff.tables import number
from kcircuits.study.strata import strata_of

if TYPE_CHECKING:
    from kcircuits.study.lenses.lenses import RunLenses

Row = dict[str, Any]
N_HEADS = 10
_SEED = 0


def depth_names(n_layers: int) -> list[str]:
    """What the logit lens has behind it at each depth."""
    return ["embedding", *(f"layer {layer}" for layer in range(n_layers))]


def lens_rows(lenses: "RunLenses") -> list[Row]:
    """The target read off the residual stream: one row per epoch, stratum and depth.

    Returns:
        Rows ``epoch, stratum, facts, depth, after, logprob, low, high, prob, rank``; logprob in
        nats, rank as geometric mean over facts and prompts, 1 is best.
    """
    rows = []
    for stratum, places in strata_of(lenses.facts, lenses.by).items():
        chosen = [lenses.fact_lenses[place] for place in places]
        logprob = np.stack([each.logprob for each in chosen])
        errors = chosen[0].logprob_errors if len(lenses.facts) == 1 else None
        low, high = _interval(lenses, places, logprob, errors)
        prob, log_rank = (
            np.mean([getattr(each, name) for each in chosen], 0) for name in ("prob", "log_rank")
        )
        mean = logprob.mean(0)
        rows += [
            {
                "epoch": epoch,
                "stratum": stratum,
                "facts": len(places),
                "depth": depth,
                "after": after,
                "logprob": number(mean[e, depth]),
                "low": number(low[e, depth]),
                "high": number(high[e, depth]),
                "prob": number(prob[e, depth]),
                "rank": number(np.exp(log_rank[e, depth])),
            }
            for e, epoch in enumerate(lenses.epochs)
            for depth, after in enumerate(depth_names(lenses.topology.n_layers))
        ]
    return rows


def part_rows(lenses: "RunLenses") -> list[Row]:
    """Where the target's logit above the vocabulary's mean comes from, in logits.

    Returns:
        Rows ``epoch, stratum, facts, subject, relation, last, rest`` (all heads, by the positions
        that they read from), ``mlps, embedding, constant, total``.
    """
    rows = []
    for stratum, places in strata_of(lenses.facts, lenses.by).items():
        chosen = [lenses.fact_lenses[place] for place in places]
        heads = np.mean([each.heads.sum((1, 2)) for each in chosen], 0)  # [epoch, group]
        others = {
            "mlps": np.mean([each.mlps.sum(1) for each in chosen], 0),
            "embedding": np.mean([each.embedding for each in chosen], 0),
            "constant": np.mean([each.constant for each in chosen], 0),
        }
        for e, epoch in enumerate(lenses.epochs):
            parts = dict(zip(GROUPS, map(float, heads[e]), strict=True))
            parts |= {name: float(values[e]) for name, values in others.items()}
            row = {"epoch": epoch, "stratum": stratum, "facts": len(places)}
            rows.append({**row, **parts, "total": sum(parts.values())})
    return rows


def role_rows(lenses: "RunLenses") -> list[Row]:
    """Heads of each role per fact: one row per epoch, stratum and role.

    Returns:
        Rows ``epoch, stratum, facts, role, heads, low, high, against`` (of these, heads that lower
        the target's logit), ``replicated`` (in both halves of the prompts), ``chance``. Facts of
        which no prompt has tokens of subject and relation are not counted.
    """
    rows = []
    for stratum, places in _with_roles(lenses):
        chosen = [lenses.fact_lenses[place].counts for place in places]
        heads, against, replicated, chance = (
            np.stack([getattr(each, name) for each in chosen])
            for name in ("heads", "against", "replicated", "chance")
        )
        low, high = _interval(lenses, places, heads, None)
        for e, epoch in enumerate(lenses.epochs):
            for r, role in enumerate(ROLES):
                rows.append(
                    {
                        "epoch": epoch,
                        "stratum": stratum,
                        "facts": len(places),
                        "role": role,
                        "heads": number(heads[:, e, r].mean()),
                        "low": number(low[e, r]),
                        "high": number(high[e, r]),
                        "against": number(against[:, e, r].mean()),
                        "replicated": number(replicated[:, e, r].mean()),
                        "chance": number(chance[:, e, r].mean()),
                    }
                )
    return rows


def step_rows(lenses: "RunLenses") -> list[Row]:
    """Roles that come and go between consecutive epochs, in heads per fact.

    Returns:
        Rows ``from, to, stratum, facts, role, acquired, lost, noise`` (what each of the two would
        be if nothing had changed) and ``excess``, acquired + lost - 2 noise, with its interval
        ``low, high``: where that is above 0, roles changed beyond noise.
    """
    places = range(len(lenses.epochs))
    return [row for start, stop in pairwise(places) for row in _step(lenses, start, stop)]


def head_step_rows(lenses: "RunLenses", n_heads: int) -> list[Row]:
    """Heads whose role changed in most facts between the first and the last epoch.

    Returns:
        Rows ``from, to, head, role, facts, acquired, lost, noise``: in how many facts.
    """
    if len(lenses.epochs) < 2:
        return []
    steps = _fact_steps(lenses, range(len(lenses.facts)), 0, len(lenses.epochs) - 1)
    if not steps:
        return []
    acquired, lost, noise = (
        np.nansum([getattr(each, name) for each in steps], 0)
        for name in ("acquired", "lost", "noise")
    )
    size = acquired + lost - 2 * noise
    order = np.argsort(-size, axis=None, kind="stable")[:n_heads]
    return [
        {
            "from": lenses.epochs[0],
            "to": lenses.epochs[-1],
            "head": f"a{layer}.h{head}",
            "role": ROLES[role],
            "facts": len(steps),
            "acquired": float(acquired[role, layer, head]),
            "lost": float(lost[role, layer, head]),
            "noise": float(noise[role, layer, head]),
        }
        for role, layer, head in zip(*np.unravel_index(order, size.shape), strict=True)
        if acquired[role, layer, head] + lost[role, layer, head] > 0
    ]


def head_rows(lenses: "RunLenses", n_heads: int) -> list[Row]:
    """The heads with the largest |contribution| (mean over facts of its size), at each epoch.

    Returns:
        Rows ``epoch, head, contribution, low, high`` (signed mean, logits), ``difference`` (to
        target minus foil), ``subject, relation, last, rest`` (the contribution by what is read),
        ``attention_subject, attention_relation`` (shares), ``role`` (of the mean over facts, or
        None) and ``mover_facts, relation_facts, mixture_facts``: shares of the facts.
    """
    all_facts = lenses.fact_lenses
    heads = np.stack([each.heads for each in all_facts])  # [fact, epoch, layer, head, group]
    wholes = heads.sum(-1)
    errors = all_facts[0].head_errors if len(all_facts) == 1 else None
    low, high = _interval(lenses, range(len(all_facts)), wholes, errors)
    attention, difference = (
        np.mean([getattr(each, name) for each in all_facts], 0)
        for name in ("attention", "differences")
    )
    roles = np.stack([each.roles.role for each in all_facts])
    of_mean, sizes, means = head_roles(heads.mean(0)), np.abs(wholes).mean(0), heads.mean(0)
    rows = []
    for e, epoch in enumerate(lenses.epochs):
        order = np.argsort(-sizes[e], axis=None, kind="stable")[:n_heads]
        for layer, head in zip(*np.unravel_index(order, sizes[e].shape), strict=True):
            at = (e, layer, head)
            rows.append(
                {
                    "epoch": epoch,
                    "head": f"a{layer}.h{head}",
                    "contribution": number(means[at].sum()),
                    "low": number(low[at]),
                    "high": number(high[at]),
                    "difference": number(difference[at]),
                    **{name: number(means[at][g]) for g, name in enumerate(GROUPS)},
                    "attention_subject": number(attention[at][SUBJECT]),
                    "attention_relation": number(attention[at][RELATION]),
                    "role": None if of_mean[at] == NO_ROLE else ROLES[of_mean[at]],
                    **{
                        f"{name}_facts": float((roles[:, e, layer, head] == r).mean())
                        for r, name in enumerate(ROLES)
                    },
                }
            )
    return rows


def role_map_rows(lenses: "RunLenses") -> list[Row]:
    """Every head at every epoch: in which share of the facts it has each role.

    Returns:
        Rows ``epoch, layer, head, mover, relation, mixture, contribution`` (mean, logits).
    """
    told = [each for each in lenses.fact_lenses if each.n_role_prompts]
    if not told:
        return []
    roles = np.stack([each.roles.role for each in told])
    shares = np.stack([(roles == r).mean(0) for r in range(len(ROLES))], -1)
    means = np.mean([each.heads.sum(-1) for each in told], 0)
    return [
        {
            "epoch": lenses.epochs[e],
            "layer": layer,
            "head": head,
            **dict(zip(ROLES, map(float, shares[e, layer, head]), strict=True)),
            "contribution": float(means[e, layer, head]),
        }
        for e, layer, head in np.ndindex(means.shape)
    ]


def _step(lenses: "RunLenses", start: int, stop: int) -> Iterator[Row]:
    for stratum, places in _with_roles(lenses):
        steps = _fact_steps(lenses, places, start, stop)
        acquired, lost, noise = (
            np.stack([getattr(each, name).sum((1, 2)) for each in steps])  # [fact, role]
            for name in ("acquired", "lost", "noise")
        )
        excess = acquired + lost - 2 * noise
        low, high = _interval(lenses, places, excess, None)
        for r, role in enumerate(ROLES):
            yield {
                "from": lenses.epochs[start],
                "to": lenses.epochs[stop],
                "stratum": stratum,
                "facts": len(places),
                "role": role,
                "acquired": number(acquired[:, r].mean()),
                "lost": number(lost[:, r].mean()),
                "noise": number(noise[:, r].mean()),
                "excess": number(excess[:, r].mean()),
                "low": number(low[r]),
                "high": number(high[r]),
            }


def _fact_steps(
    lenses: "RunLenses", places: Sequence[int], start: int, stop: int
) -> list[RoleSteps]:
    chosen = (lenses.fact_lenses[place] for place in places)
    return [role_step(each.roles, start, stop) for each in chosen if each.n_role_prompts]


def _with_roles(lenses: "RunLenses") -> Iterator[tuple[str, list[int]]]:
    """The strata with those of their facts that roles can be told of."""
    for stratum, places in strata_of(lenses.facts, lenses.by).items():
        told = [place for place in places if lenses.fact_lenses[place].n_role_prompts]
        if told:
            yield stratum, told


def _interval(
    lenses: "RunLenses",
    places: Sequence[int],
    values: Float[np.ndarray, "fact *rest"],
    errors: Float[np.ndarray, "*rest"] | None,
) -> tuple[Float[np.ndarray, "*rest"], Float[np.ndarray, "*rest"]]:
    """95% intervals of the mean over facts; by ``errors`` over prompts where there is one fact."""
    if errors is not None:
        degrees = lenses.fact_lenses[places[0]].n_prompts - 1
        reach = errors * (student_quantile((1 + CONFIDENCE) / 2, degrees) if degrees else np.nan)
        return values[0] - reach, values[0] + reach
    subjects = np.array([lenses.facts[place].subject for place in places])
    interval = bootstrap_mean(values, subjects, seed=_SEED)
    return interval.low, interval.high
