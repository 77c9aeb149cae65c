"""The scores that a run keeps of an epoch, as one array for all facts."""

from collections.abc import Sequence

import numpy as np

from kcircuits.core.cell import Cell
from kcircuits.core.scores import EdgeScores
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.study.alignment import check_comparable
from kcircuits.study.run import Run


def stored_scores(
    run: Run, epoch: str, fact_ids: Sequence[str] | None = None, *, n_edges: int | None = None
) -> EdgeScores:
    """Mean scores of every fact.

    Args:
        run: The run.
        epoch: A reference to the checkpoint.
        fact_ids: Which facts, in this order; default all but those whose cell failed.
        n_edges: Only the largest scores are asked for: of a graph too large to keep all, the
            others are given as 0.

    Raises:
        UsageError: There is no such epoch or fact.
        IncomparableError: Cells are missing, or failed, or hold fewer scores than are asked for.
        StoreCorruptError: What was read is not what was committed.
    """
    if fact_ids is not None and len(set(fact_ids)) < len(fact_ids):
        raise UsageError("a fact is named twice", field="fact", hint="name each fact once")
    cells = run.cells(epoch, fact_ids, dense=True)
    if not cells:
        raise IncomparableError(f"no fact has numbers at {epoch}", hint="see `kcircuits status`")
    check_comparable(cells)
    names = tuple(cell.fact_id for cell in cells)
    return EdgeScores(
        values=np.stack([_matrix(cell, n_edges) for cell in cells]),
        topology=cells[0].topology,
        fact_ids=names,
        fact_idx=np.arange(len(names)),
        provenance=cells[0].provenance,
    )


def _matrix(cell: Cell, n_edges: int | None) -> np.ndarray:
    """Scores of all edges, or of as many as are asked for."""
    if cell.mean is not None:
        return cell.mean
    kept = cell.sparse_mean
    if kept is None or n_edges is None or n_edges > len(kept.index):
        there = 0 if kept is None else len(kept.index)
        asked = "all edges" if n_edges is None else f"{n_edges:,} edges"
        raise IncomparableError(
            f"of a graph of {cell.topology.n_edges:,} edges a run keeps only the largest scores of "
            f"each fact, here {there:,}; this needs those of {asked}",
            hint="ask for fewer edges, or score these facts with kc.attribute",
        )
    matrix = np.zeros(cell.topology.edge_mask.size, dtype=kept.values.dtype)
    matrix[kept.index] = kept.values
    return matrix.reshape(cell.topology.edge_mask.shape)
