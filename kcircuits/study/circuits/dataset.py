"""One circuit for all facts of a run together, as earlier work has it, over epochs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kcircuits.analysis.overlap.dataset_circuits import DatasetOverlap, dataset_overlaps
from kcircuits.core.candidates import flat_edges
from kcircuits.core.scores import EdgeScores
from kcircuits.study.diff.tables import number
from kcircuits.study.run import Run
from kcircuits.study.stored_scores import stored_scores

Row = dict[str, Any]
# Edges of a circuit beside the run's own budget: the 50,000 of 386,713 of Mousavi, Alghisi and
# Riccardi 2026, arXiv 2601.03858.
SEED_FRACTION = 50_000 / 386_713


def dataset_rows(run: Run) -> list[Row]:
    """Each epoch against the first, and against the one before, at both budgets.

    Rows ``n_edges, from, to``; ``jaccard`` of the circuits of all facts; ``differs``, 1 - k_st of
    halves of the entities, and ``noise``, 1 - c; ``noise_share`` and ``turnover`` with 95%
    jackknife intervals. Facts that have scores at every epoch count.
    """
    edges = flat_edges(run.topology)
    scores = [stored_scores(run, epoch) for epoch in run.epochs]
    names = [name for name in scores[0].fact_ids if all(name in s.fact_ids for s in scores)]
    means = np.stack([_means_of(s, names)[:, edges] for s in scores])
    by_id = {fact.id: fact.subject for fact in run.facts}
    entities = np.array([by_id[name] for name in names])
    pairs = [(0, i) for i in range(1, len(means))] + [(i - 1, i) for i in range(2, len(means))]
    return [
        {
            "n_edges": n_edges,
            "from": run.epochs[s],
            "to": run.epochs[t],
            **_row(found),
        }
        for n_edges in dict.fromkeys((run.n_edges, round(SEED_FRACTION * len(edges))))
        for (s, t), found in zip(
            pairs, dataset_overlaps(means, entities, n_edges, pairs), strict=True
        )
    ]


def _means_of(scores: EdgeScores, names: Sequence[str]) -> np.ndarray:
    """Mean scores [fact, flat edge] of the facts that are named."""
    places = [scores.fact_ids.index(name) for name in names]
    return scores.values.reshape(len(scores.values), -1)[places]


def _row(found: DatasetOverlap) -> Row:
    row: Row = {
        "jaccard": number(found.jaccard),
        "differs": number(1 - found.k_st),
        "noise": number(1 - found.ceiling),
    }
    for name in ("noise_share", "turnover"):
        value, error = getattr(found, name), getattr(found, f"{name}_error")
        row |= {
            name: number(value),
            f"{name}_low": number(value - found.quantile * error),
            f"{name}_high": number(value + found.quantile * error),
        }
    return row
