"""Cells as records and tensors of a shard, and back."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from kcircuits.core.candidates import flat_edges
from kcircuits.core.cell import Cell, FailedCell, SparseMean
from kcircuits.core.provenance import Provenance
from kcircuits.core.topology import Topology
from kcircuits.io.shard import Shard

_SMALL = ("candidates", "prompt_idx", "prompt_scores")
_SPARSE = tuple(field.name for field in fields(SparseMean))


def cell_record(cell: Cell | FailedCell) -> dict[str, Any]:
    """The JSON part of a cell."""
    if isinstance(cell, FailedCell):
        return {"status": "failed", **asdict(cell)}
    return {
        "status": "done",
        "key": cell.key,
        "checkpoint": cell.checkpoint,
        "fact_id": cell.fact_id,
        "fact_hash": cell.fact_hash,
        "is_known": cell.is_known,
        "values": dict(cell.values),
        "n_edges": cell.n_edges,
        "topology": asdict(cell.topology),
        "provenance": {**_plain(cell.provenance), "params": dict(cell.provenance.params)},
        "mean": "dense" if cell.mean is not None else "sparse" if cell.sparse_mean else "none",
    }


def cell_tensors(cells: Mapping[int, Cell]) -> dict[str, np.ndarray]:
    """The arrays of a shard's cells by name, the small ones of all cells before any mean."""
    tensors: dict[str, np.ndarray] = {}
    for row, cell in cells.items():
        for name in _SMALL:
            tensors[f"{row}.{name}"] = _stored(getattr(cell, name))
    for row, cell in cells.items():
        if cell.mean is not None:
            mean = cell.mean.reshape(-1)[flat_edges(cell.topology)]
            tensors[f"{row}.mean"] = _stored(mean)
        elif cell.sparse_mean is not None:
            for name in _SPARSE:
                tensors[f"{row}.{name}"] = _stored(getattr(cell.sparse_mean, name))
    return tensors


def read_cell(shard: Shard, row: int, *, dense: bool) -> Cell:
    """One cell of a shard; its mean only with ``dense``.

    Raises:
        StoreCorruptError: What was read is not what was committed.
    """
    record = shard.record["cells"][row]
    topology = Topology(**record["topology"])
    means = {"dense": ("mean",), "sparse": _SPARSE, "none": ()}[record["mean"]] if dense else ()
    names = (*_SMALL, *means)
    arrays = dict(zip(names, shard.read([f"{row}.{name}" for name in names]), strict=True))
    return Cell(
        key=record["key"],
        checkpoint=record["checkpoint"],
        fact_id=record["fact_id"],
        fact_hash=record["fact_hash"],
        provenance=Provenance(**record["provenance"]),
        topology=topology,
        n_edges=record["n_edges"],
        is_known=record["is_known"],
        values=record["values"],
        candidates=arrays["candidates"],
        prompt_idx=arrays["prompt_idx"],
        prompt_scores=arrays["prompt_scores"],
        mean=_dense(arrays["mean"], topology) if "mean" in arrays else None,
        sparse_mean=SparseMean(**{n: arrays[n] for n in _SPARSE}) if "index" in arrays else None,
    )


def _dense(edges: np.ndarray, topology: Topology) -> np.ndarray:
    matrix = np.zeros(topology.n_forward * topology.n_backward, dtype=edges.dtype)
    matrix[flat_edges(topology)] = edges
    return matrix.reshape(topology.n_forward, topology.n_backward)


def _stored(array: np.ndarray) -> np.ndarray:
    stored = array.astype("<i4" if array.dtype.kind in "iu" else "<f4")
    if not np.isfinite(stored).all():
        raise ValueError("a cell with NaN or infinity must be committed as a FailedCell")
    return stored


def _plain(provenance: Provenance) -> dict[str, Any]:
    return {field.name: getattr(provenance, field.name) for field in fields(provenance)}
