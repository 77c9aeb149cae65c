"""From the numbers of a batch to the cells that the store keeps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from kcircuits.core.candidates import candidate_edges
from kcircuits.core.cell import Cell, FailedCell, SparseMean
from kcircuits.core.scores import EdgeScores
from kcircuits.core.topology import Topology
from kcircuits.io.run_record import FactRecord
from kcircuits.sweep.compute import BatchResult

# A dense mean of float32 takes 4 bytes an edge: 4 MB a cell at this size.
MAX_DENSE_EDGES = 1_000_000
MIN_SPARSE_EDGES = 20_000
SPARSE_WIDTH = 16
# Two batches (of other sizes, with other neighbours) agree to this share of the largest score.
AGREEMENT = 1e-5

_EVALUATED = {
    "metric": "metric",
    "clean_metric": "clean_metric",
    "empty_metric": "empty_metric",
    "faithfulness": "faithfulness",
    "hit_at_10": "hit_at_k",
    "target_rank": "target_rank",
}


def cells_of_batch(
    result: BatchResult,
    facts: Sequence[FactRecord],
    keys: Sequence[str],
    *,
    checkpoint: str,
    n_edges: int,
) -> list[Cell | FailedCell]:
    """One cell per fact, in order; a fact with a number that is not finite becomes a failed one.

    Args:
        result: The batch's numbers.
        facts: Its members.
        keys: Key of each member's cell.
        checkpoint: Content hash of the checkpoint.
        n_edges: The budget.
    """
    cells: list[Cell | FailedCell] = []
    for fact, key in zip(facts, keys, strict=True):
        place = {"key": key, "checkpoint": checkpoint, "fact_id": fact.id, "fact_hash": fact.hash}
        failure = _failure(result, fact.id)
        if failure is None:
            cells.append(_cell(result, place, n_edges))
        else:
            cells.append(FailedCell(**place, component=failure[0], message=failure[1]))
    return cells


def disagreement(new: Cell, old: Cell) -> float:
    """Largest difference of the per-prompt scores of one key, as a share of the largest score."""
    _, left, right = np.intersect1d(new.candidates, old.candidates, return_indices=True)
    if not np.array_equal(new.prompt_idx, old.prompt_idx) or not len(left):
        return math.inf
    difference = np.abs(new.prompt_scores[:, left] - old.prompt_scores[:, right]).max()
    largest = np.abs(old.prompt_scores).max()
    return float(difference / largest) if largest else float(difference > 0)


def _cell(result: BatchResult, place: Mapping[str, str], n_edges: int) -> Cell:
    scores = result.scores
    assert scores is not None, "a fact without scores has failed"
    assert scores.prompt_idx is not None, "the sweep keeps prompts apart"
    rows, topology = _rows(scores, place["fact_id"]), scores.topology
    prompt_scores = scores.values[rows].astype(np.float32)
    candidates = candidate_edges(prompt_scores, topology, n_edges)
    mean = prompt_scores.mean(0)
    is_small = topology.n_edges <= MAX_DENSE_EDGES
    return Cell(
        key=place["key"],
        checkpoint=place["checkpoint"],
        fact_id=place["fact_id"],
        fact_hash=place["fact_hash"],
        provenance=replace(scores.provenance, checkpoint=place["checkpoint"]),
        topology=topology,
        n_edges=n_edges,
        candidates=candidates.astype(np.int32),
        prompt_idx=scores.prompt_idx[rows].astype(np.int32),
        prompt_scores=prompt_scores.reshape(len(rows), -1)[:, candidates],
        mean=mean if is_small else None,
        sparse_mean=None if is_small else sparse_mean(mean, topology, n_edges),
        is_known=bool(result.is_known[place["fact_id"]]),
        values=_values(result, place["fact_id"]),
    )


def sparse_mean(
    mean: Float[np.ndarray, "n_forward n_backward"], topology: Topology, n_edges: int
) -> SparseMean:
    """The largest edges of a mean, and what all edges add up to at each node."""
    sizes = np.abs(mean)
    n_kept = min(max(SPARSE_WIDTH * n_edges, MIN_SPARSE_EDGES), topology.n_edges)
    index = np.sort(np.argpartition(sizes.reshape(-1), -n_kept)[-n_kept:])
    return SparseMean(
        index=index.astype(np.int32),
        values=mean.reshape(-1)[index],
        forward_marginals=sizes.sum(1),
        backward_marginals=sizes.sum(0),
    )


def _values(result: BatchResult, fact_id: str) -> dict[str, float | None]:
    """Scalars of a fact; None where there is nothing to tell (gated, or no probe prompt)."""
    values: dict[str, float | None] = {}
    judged = result.faithfulness
    if judged is not None and fact_id in judged.fact_ids:
        row = judged.fact_ids.index(fact_id)
        for name, attribute in _EVALUATED.items():
            values[name] = float(getattr(judged, attribute)[row])
        if judged.is_gated[row]:
            values["faithfulness"] = None
    values["n_circuit_edges"] = result.n_circuit_edges.get(fact_id)
    probes = [row for row in result.probes if row["fact"] == fact_id]
    for name in ("prob", "logprob", "rank"):
        numbers = [float(row[name]) for row in probes]
        values[name] = math.fsum(numbers) / len(numbers) if numbers else None
    return values


def _failure(result: BatchResult, fact_id: str) -> tuple[str, str] | None:
    """The component whose number is not finite, and what is there; None where all is well."""
    if fact_id in result.failures:
        return "scores", result.failures[fact_id]
    scores = result.scores
    assert scores is not None, "a fact has scores or a failure"
    rows = _rows(scores, fact_id)
    bad = np.argwhere(~np.isfinite(scores.values[rows]))
    if len(bad):
        place, u, v = (int(i) for i in bad[0])
        prompt = place if scores.prompt_idx is None else int(scores.prompt_idx[rows[place]])
        value = scores.values[rows[place], u, v]
        return scores.topology.edge_name(u, v), f"the score on prompt {prompt} is {value}"
    for name, value in _values(result, fact_id).items():
        if value is not None and not math.isfinite(value):
            return name, f"the evaluation gave {value}"
    return None


def _rows(scores: EdgeScores, fact_id: str) -> np.ndarray:
    return np.flatnonzero(scores.fact_idx == scores.fact_ids.index(fact_id))
