"""Cells of one fact at several epochs on common ground.

Scores of two epochs are compared only if the same method, with the same parameters, budget and
numerics, scored the same prompts of the same fact on the same graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.corrected import Items, Level, edge_items, node_items
from kcircuits.core.cell import Cell
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError


@dataclass(frozen=True, kw_only=True)
class AlignedScores:
    """One fact's prompt scores at several epochs on the union of their candidate edges.

    Attributes:
        candidates: Flat edge indices in the order of edge names, which breaks ties.
        values: 0 where an edge is no candidate at that epoch.
        is_candidate: Whether it is.
    """

    candidates: Int[np.ndarray, " candidate"]
    values: Float[np.ndarray, "epoch prompt candidate"]
    is_candidate: Bool[np.ndarray, "epoch candidate"]

    def items(self, topology: Topology) -> Mapping[Level, Items]:
        """What circuits on these candidates are compared by."""
        return {
            "edge": edge_items(topology, self.candidates),
            "node": node_items(topology, self.candidates),
        }


def align_cells(cells: Sequence[Cell], topology: Topology) -> AlignedScores:
    """Puts one fact's cells, one per epoch, on the union of their candidates.

    Args:
        cells: The cells.
        topology: Theirs; one object for all facts, so that its names are worked out once.
    """
    position, flat = _name_order(topology)
    positions = [position[cell.candidates] for cell in cells]
    union = np.unique(np.concatenate(positions))
    n_prompts = len(cells[0].prompt_scores)
    values = np.zeros((len(cells), n_prompts, len(union)), dtype=np.float32)
    is_candidate = np.zeros((len(cells), len(union)), dtype=bool)
    for epoch, (cell, own) in enumerate(zip(cells, positions, strict=True)):
        column = np.searchsorted(union, own)
        values[epoch][:, column] = cell.prompt_scores
        is_candidate[epoch, column] = True
    return AlignedScores(candidates=flat[union], values=values, is_candidate=is_candidate)


def check_comparable(cells: Sequence[Cell]) -> None:
    """Refuses cells that have no common ground.

    Args:
        cells: Cells of any facts and epochs.

    Raises:
        IncomparableError: Naming what differs, and both values.
    """
    first = cells[0]
    seen: dict[str, Cell] = {}
    for cell in cells:
        fact = seen.setdefault(cell.fact_id, cell)
        pairs = {
            "topology": (_graph(first), _graph(cell)),
            "method": (first.provenance.method, cell.provenance.method),
            "parameters": (dict(first.provenance.params), dict(cell.provenance.params)),
            "dtype": (first.provenance.dtype, cell.provenance.dtype),
            "numerics version": (first.provenance.numerics, cell.provenance.numerics),
            "budget": (first.n_edges, cell.n_edges),
            "content": (fact.fact_hash[:12], cell.fact_hash[:12]),
            "discovery prompts": (fact.prompt_idx.tolist(), cell.prompt_idx.tolist()),
        }
        for what, (here, there) in pairs.items():
            if here != there:
                raise IncomparableError(
                    f"fact {cell.fact_id!r}: {what} is {here} in one cell and {there} in another; "
                    "only equal ones compare",
                    field=what,
                    hint="compute both epochs in one run: kcircuits run",
                )


def check_one_checkpoint(cells: Sequence[Cell], epoch: str) -> str:
    """The content hash of the checkpoint that all cells of an epoch were computed on.

    Raises:
        IncomparableError: There is no cell, or the cells are of more than one checkpoint.
    """
    hashes = sorted({cell.checkpoint for cell in cells})
    if len(hashes) != 1:
        found = ", ".join(name[:12] for name in hashes) or "none"
        raise IncomparableError(
            f"epoch {epoch!r} has cells of {len(hashes)} checkpoints ({found}); expected one",
            field="epoch",
            hint=f"compute it first: kcircuits run --epochs {epoch}",
        )
    return hashes[0]


def _graph(cell: Cell) -> str:
    """A topology in words: its fields, not its thousands of names."""
    kind = " parallel" if cell.topology.is_parallel else ""
    return f"{cell.topology.n_layers} layers x {cell.topology.n_heads} heads{kind}"


@lru_cache(maxsize=4)
def _name_order(
    topology: Topology,
) -> tuple[Int[np.ndarray, " flat"], Int[np.ndarray, " flat"]]:
    """The position of each flat index in the order of edge names, and the inverse.

    Edges sort by their sender with the arrow (``a1.h1->`` comes before ``a1.h10->``), then by
    their receiver.
    """
    senders = np.argsort([f"{name}->" for name in topology.forward_names])
    receivers = np.argsort(topology.backward_names)
    flat = (senders[:, None] * topology.n_backward + receivers).ravel()
    position = np.empty_like(flat)
    position[flat] = np.arange(len(flat))
    return position, flat
