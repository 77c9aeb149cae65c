"""The tables of overlaps between facts: groups of pairs, strata, clusters, facts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from kcircuits.analysis.overlap.between_facts import FactPairs, PairGroup, ceilings, pool_pairs
from kcircuits.analysis.overlap.clusters import Clusters
from kcircuits.analysis.overlap.contrast import N_PERMUTATIONS, Contrast, exchanged
from kcircuits.analysis.overlap.rand_index import agreement
from kcircuits.analysis.overlap.turnover import MIN_CEILING
from kcircuits.analysis.overlap.verdict import LOW_CEILING
from kcircuits.core.facts import Fact
from kcircuits.study.between.halved_facts import HalvedFact
from kcircuits.study.diff.tables import number
from kcircuits.study.strata import stratum_of

Row = dict[str, Any]
RELATION = "relation"


def group_rows(
    pairs: FactPairs,
    compared: Bool[np.ndarray, "fact fact"],
    labels: Shaped[np.ndarray, " fact"],
    relations: Shaped[np.ndarray, " fact"],
    by: str,
) -> list[Row]:
    """Rows of ``BetweenFacts.rows``.

    Args:
        pairs: All pairs.
        compared: Those that enter within and between strata.
        labels: Stratum of each fact.
        relations: Relation of each fact.
        by: What the strata are.
    """
    same = labels[:, None] == labels
    groups: list[tuple[str, str | None, Bool[np.ndarray, "fact fact"]]] = [
        ("within", name, compared & same & (labels == name)) for name in np.unique(labels).tolist()
    ]
    groups += [
        ("within", None, compared & same),
        ("between", None, compared & ~same),
        ("one-entity", None, pairs.is_one_entity),
    ]
    if by != RELATION:
        apart = ~compared & ~pairs.is_one_entity
        is_one_relation = relations[:, None] == relations
        groups += [
            ("two-relations", None, apart & ~is_one_relation),
            ("one-stratum-relations", None, apart & is_one_relation),
        ]
    return [_group_row(group, name, pool_pairs(pairs, mask)) for group, name, mask in groups]


def strata_rows(pairs: FactPairs, labels: Shaped[np.ndarray, " fact"]) -> list[Row]:
    """Rows of ``BetweenFacts.strata_rows``."""
    names, codes = np.unique(labels, return_inverse=True)
    member = (codes[:, None] == np.arange(len(names))).astype(np.float64)
    mask, own = pairs.is_pair & ~pairs.is_one_entity, pairs.overlaps.own
    tables = (mask, mask * pairs.overlaps.corrected, mask * ceilings(own))
    n_pairs, tops, bottoms = (member.T @ table @ member for table in tables)
    is_low = own @ member / member.sum(0) < MIN_CEILING
    return [
        {
            "first": str(names[i]),
            "second": str(names[j]),
            "pairs": round(n_pairs[i, j]) // (2 if i == j else 1),
            "shared": float(tops[i, j] / bottoms[i, j])
            if bottoms[i, j] > 0 and not (is_low[i] or is_low[j])
            else None,
        }
        for i in range(len(names))
        for j in range(i, len(names))
    ]


def agreement_rows(found: Clusters, facts: Sequence[Fact], by: str) -> list[Row]:
    """Rows of ``BetweenFacts.agreements``."""
    clustered = [facts[i] for i in found.facts.tolist()]
    entities = np.array([fact.subject for fact in clustered])
    relations = [fact.relation for fact in clustered]
    rows = []
    for label in dict.fromkeys((RELATION, by, "entity")):
        if label == "entity":
            labels, units, makeup = entities, np.arange(len(clustered)), relations
        else:
            labels = np.array([stratum_of(fact, label) for fact in clustered])
            units, makeup = entities, None if label == RELATION else relations
        n_groups = len(np.unique(labels))
        row: Row = {"label": label, "groups": n_groups, "rand": None, "p": None}
        if found.word == "clusters" and 1 < n_groups < len(clustered):
            agreed = agreement(found.labels, labels, exchanged(units, makeup, N_PERMUTATIONS, 0))
            row |= {"rand": agreed.rand, "p": agreed.p}
        rows.append(row)
    return rows


def fact_rows(
    pairs: FactPairs,
    shared: Float[np.ndarray, "fact fact"],
    found: Clusters,
    halved: Sequence[HalvedFact],
    labels: Shaped[np.ndarray, " fact"],
) -> list[Row]:
    """Rows of ``BetweenFacts.fact_rows``."""
    cluster: dict[int, int] = {}
    if found.word == "clusters":
        members = zip(found.facts.tolist(), found.labels.tolist(), strict=True)
        cluster = {place: label + 1 for place, label in members}
    others = np.where(pairs.is_pair & np.isfinite(shared), shared, -np.inf)
    return [
        {
            "fact": one.fact.id,
            "entity": one.fact.subject,
            "relation": one.fact.relation,
            "stratum": str(labels[i]),
            "prompts": one.n_prompts,
            "own": number(pairs.overlaps.own[i]),
            "cluster": cluster.get(i),
            "nearest": halved[at].fact.id if np.isfinite(others[i, at]) else None,
            "nearest_shared": number(others[i, at]),
        }
        for i, (one, at) in enumerate(zip(halved, others.argmax(1).tolist(), strict=True))
    ]


def contrast_row(found: Contrast) -> Row:
    """A contrast as JSON has it."""
    return {
        "difference": number(found.difference.estimate),
        "difference_low": number(found.difference.low),
        "difference_high": number(found.difference.high),
        "p": number(found.p),
        "verdict": found.word,
        "reason": found.reason,
    }


def _group_row(group: str, stratum: str | None, found: PairGroup) -> Row:
    reason = None
    if not found.n_pairs:
        reason = "no pair"
    elif not found.has_ceiling:
        reason = LOW_CEILING
    return {
        "group": group,
        "stratum": stratum,
        "pairs": found.n_pairs,
        "facts": found.n_facts,
        "entities": found.shared.n_entities,
        "jaccard": number(found.jaccard),
        "ceiling": number(found.ceiling),
        "chance": number(found.chance),
        "chance_matched": number(found.matched_chance),
        "shared": number(found.shared.estimate),
        "shared_low": number(found.shared.low),
        "shared_high": number(found.shared.high),
        "shared_matched": number(found.matched_shared),
        "reason": reason,
    }
