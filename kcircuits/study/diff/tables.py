"""The tables of a diff: strata, edges, nodes, and a fact's graph."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from kcircuits.analysis.overlap.corrected import jaccard
from kcircuits.analysis.overlap.half_circuits import top_mask
from kcircuits.analysis.overlap.swap_test import JointTest
from kcircuits.analysis.overlap.turnover import REPLICATED, summarise
from kcircuits.analysis.overlap.verdict import Verdict, judge_stratum
from kcircuits.core.topology import Topology
from kcircuits.study.diff.fact_diff import FactDiff

if TYPE_CHECKING:
    import networkx as nx

Row = dict[str, Any]
STATUSES = ("gained", "lost", "kept")


def stratum_row(
    stratum: str,
    members: Sequence[FactDiff],
    verdict: Verdict | None = None,
    joint: JointTest | None = None,
) -> Row:
    """One row of ``Diff.rows``.

    Args:
        stratum: Its name.
        members: Its facts; those not known at both epochs are counted and left out, unless it is
            one fact with a verdict of its own.
        verdict: The verdict; None judges the facts together.
        joint: The joint swap test that goes into it, where the step is one of a track.
    """
    compared = [one for one in members if one.is_compared or verdict]
    verdict = verdict or judge_stratum(
        [one.overlap for one in compared],
        [one.fact.subject for one in compared],
        [one.templates for one in compared],
        joint,
    )
    summary = summarise([one.overlap for one in compared])
    return {
        "stratum": stratum,
        "facts": len(compared),
        "unknown": sum(not one.is_compared for one in members),
        "gained": number(summary.gained),
        "lost": number(summary.lost),
        "kept": number(summary.kept),
        "jaccard": number(summary.jaccard),
        "ceiling": number(summary.ceiling),
        "chance": number(summary.chance),
        "turnover": number(verdict.turnover),
        "turnover_low": number(verdict.low),
        "turnover_high": number(verdict.high),
        "turnover_detectable": number(verdict.detectable),
        "verdict": verdict.word,
        "reason": verdict.reason,
    }


def edge_rows(
    members: Sequence[FactDiff], topology: Topology, n_edges: int | None = None
) -> list[Row]:
    """The first ``n_edges`` rows of ``Diff.edges``; None for all."""
    status, places, owner, scores, is_kept = [], [], [], [], []
    for i, one in enumerate(members):
        kinds, where = replicated(one)
        status.append(kinds)
        places.append(one.candidates[where])
        owner.append(np.full(len(where), i))
        scores.append(one.scores[:, where])
        is_kept.append(one.is_kept[:, where])
    if not members:
        return []
    start, stop = np.concatenate(scores, axis=1).astype(float)
    start_kept, stop_kept = np.concatenate(is_kept, axis=1)
    change = np.abs(stop - start)
    order = np.argsort(-change, kind="stable")[: np.count_nonzero(change)][:n_edges]
    kind, edge, fact = (np.concatenate(part)[order] for part in (status, places, owner))
    return [
        {
            "fact": members[fact[row]].fact.id,
            "edge": edge_name(topology, edge[row]),
            "from": float(start[i]),
            "to": float(stop[i]),
            "status": STATUSES[kind[row]],
            "is_kept": [bool(start_kept[i]), bool(stop_kept[i])],
        }
        for row, i in enumerate(order)
    ]


def edge_totals(
    members: Sequence[FactDiff], topology: Topology, n_edges: int | None = None
) -> list[Row]:
    """The first ``n_edges`` rows of ``Diff.edge_totals``; None for all."""
    if not members:
        return []
    size = topology.n_forward * topology.n_backward
    places = np.concatenate([one.candidates for one in members])

    def total(values: list[np.ndarray]) -> Float[np.ndarray, " edge"]:
        return np.bincount(places, np.concatenate(values), minlength=size)

    start, stop = (total([one.scores[i] for one in members]) / len(members) for i in range(2))
    counts = np.stack(
        [total([one.overlap.edges[i] >= REPLICATED for one in members]) for i in range(3)]
    ).astype(int)
    changed = np.nonzero(counts.any(0) & (start != stop))[0]
    changed = changed[np.argsort(-np.abs(stop - start)[changed], kind="stable")][:n_edges]
    return [
        {
            "edge": edge_name(topology, edge),
            "from": float(start[edge]),
            "to": float(stop[edge]),
            **dict(zip(STATUSES, counts[:, edge].tolist(), strict=True)),
        }
        for edge in changed
    ]


def node_rows(members: Sequence[FactDiff], topology: Topology) -> list[Row]:
    """Rows of ``Diff.nodes``."""
    counts = np.zeros((3, topology.n_forward - 1), dtype=int)
    for one in members:
        counts += one.overlap.nodes >= REPLICATED
    changed = counts[0] + counts[1]
    names = topology.nodes[1:-1]
    return [
        {
            "node": names[node],
            "layer": topology.node_layer(names[node]),
            "kind": topology.node_kind(names[node]),
            **dict(zip(STATUSES, counts[:, node].tolist(), strict=True)),
        }
        for node in np.argsort(-changed, kind="stable")[: np.count_nonzero(changed)].tolist()
    ]


def diff_graph(one: FactDiff, topology: Topology) -> "nx.MultiDiGraph":
    """The graph of ``Diff.graph``."""
    # networkx takes longer to import than a whole diff may take to answer
    from kcircuits.core.circuit import circuit_graph

    status, places = replicated(one)
    edges = one.candidates[places]
    mask = np.zeros((topology.n_forward, topology.n_backward), dtype=bool)
    mask.flat[edges] = True
    graph = circuit_graph(mask, topology, name=one.fact.id)
    start, stop = one.scores[:, places].astype(float).tolist()
    details = {
        edge_name(topology, edge): {
            "status": STATUSES[kind],
            "from": low,
            "to": high,
        }
        for edge, kind, low, high in zip(edges, status, start, stop, strict=True)
    }
    for *_, data in graph.edges(data=True):
        del data["score"]
        data.update(details[data["name"]])
    return graph


def pruned_jaccard(members: Sequence[FactDiff], topology: Topology, n_edges: int) -> float:
    """The number of ``Diff.jaccard_pruned``."""
    # networkx takes longer to import than a whole diff may take to answer
    from kcircuits.core.circuit import prune_dangling

    found: list[float] = []
    for one in members:
        masks = np.zeros((2, topology.n_forward * topology.n_backward), dtype=bool)
        masks[:, one.candidates] = top_mask(np.abs(one.scores), n_edges)
        masks = masks.reshape(2, topology.n_forward, topology.n_backward)
        first, second = prune_dangling(masks, topology).reshape(2, -1)
        found.append(float(jaccard(first, second)))
    return float(np.mean(found)) if found else np.nan


def replicated(
    one: FactDiff,
) -> tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"]]:
    """Status (index into ``STATUSES``) and place of the fact's edges that replicate."""
    shares = one.overlap.edges
    places = np.nonzero(shares.max(0) >= REPLICATED)[0]
    return shares[:, places].argmax(0), places


def edge_name(topology: Topology, flat: int | np.integer) -> str:
    """Name of a flat edge index."""
    return topology.edge_name(*divmod(int(flat), topology.n_backward))


def number(value: float) -> float | None:
    """A number as JSON has it: None where there is none, or it is infinite."""
    return float(value) if math.isfinite(value) else None
