"""Circuits of the same facts by several methods beside each other, where a run has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from kcircuits.analysis.overlap.corrected import chance_jaccard
from kcircuits.core.cell import Cell
from kcircuits.core.circuit import prune_dangling
from kcircuits.core.facts import Fact
from kcircuits.core.selection import top_edge_mask
from kcircuits.plots.circuit import N_DRAWN, circuit_table
from kcircuits.plots.page import Block, beside_block, table_block
from kcircuits.plots.theme import number
from kcircuits.study.meaning import meaning_of
from kcircuits.study.results import Results, cell_value
from kcircuits.study.run import Run


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Cells of one epoch by several methods.

    Attributes:
        epoch: Id of the checkpoint.
        methods: Labels of the methods; the run's own comes first.
        facts: Facts that the run and at least one other method have.
        cells: ``[fact][method]``; None where a method has none.
    """

    epoch: str
    methods: tuple[str, ...]
    facts: tuple[Fact, ...]
    cells: tuple[tuple[Cell | None, ...], ...]


def read_beside(results: Results) -> Beside | None:
    """The cells of the last epoch that another method has too; None where there is none.

    Raises:
        StoreCorruptError: What was read is not what was committed.
    """
    run = results.run
    for place, epoch in reversed(list(enumerate(results.epochs))):
        own = {fact.id: line[place] for fact, line in zip(run.facts, results.grid, strict=True)}
        found: list[tuple[Run, dict[str, Cell]]] = []
        for other in run.beside:
            cells = _cells_at(other, run, epoch)
            if any(own.get(fact_id) for fact_id in cells):
                found.append((other, cells))
        if found:
            facts = [f for f in run.facts if own[f.id] and any(f.id in c for _, c in found)]
            return Beside(
                epoch=epoch,
                methods=_labels([run, *(other for other, _ in found)]),
                facts=tuple(facts),
                cells=tuple(
                    (own[fact.id], *(cells.get(fact.id) for _, cells in found)) for fact in facts
                ),
            )
    return None


def circuit_edges(cell: Cell) -> Int[np.ndarray, " edge"]:
    """Flat indices of a cell's circuit at its budget, without dangling nodes."""
    topology = cell.topology
    scores = np.zeros(topology.edge_mask.size)
    scores[cell.candidates] = cell.prompt_scores.mean(0)
    matrix = scores.reshape(1, topology.n_forward, topology.n_backward)
    chosen, _ = top_edge_mask(matrix, topology, cell.n_edges)
    return np.flatnonzero(prune_dangling(chosen, topology))


def beside_blocks(beside: Beside) -> list[Block]:
    """The circuits of each fact beside each other, and their numbers as a table."""
    circuits = [[cell and circuit_edges(cell) for cell in line] for line in beside.cells]
    return [_drawn(beside, circuits), _told(beside, circuits)]


def _drawn(beside: Beside, circuits: "Sequence[Sequence[Any]]") -> Block:
    drawn: list[list[dict[str, Any] | None]] = []
    for line, edges_by_method in zip(beside.cells, circuits, strict=True):
        row: list[dict[str, Any] | None] = []
        for i, (cell, edges) in enumerate(zip(line, edges_by_method, strict=True)):
            if cell is None:
                row.append(None)
                continue
            others = [o for j, o in enumerate(edges_by_method) if j != i and o is not None]
            shared = set(np.intersect1d(edges, np.concatenate(others)).tolist()) if others else ()
            row.append(_panel(cell, edges, shared, beside.epoch))
        drawn.append(row)
    first = next(cell for line in beside.cells for cell in line if cell)
    cells_by_method = zip(*beside.cells, strict=True)
    meanings = [meaning_of(next(c for c in column if c).provenance) for column in cells_by_method]
    gates = " ".join(
        f"The number at an edge of {name} is the {meaning.name}; it has no sign."
        for name, meaning in zip(beside.methods, meanings, strict=True)
        if meaning.helps is None
    )
    caption = (
        f"The same fact at {beside.epoch}, its circuit found in more than one way. Blue arcs are "
        "in another of the circuits shown too, ochre ones only here; wider and darker means "
        "stronger. Edges that lead nowhere are left out. Faithfulness and Hit@10 are those on "
        f"prompts that no circuit was found on. {gates}"
    )
    return beside_block(
        "beside",
        "One fact, several methods",
        first.topology,
        [
            {"id": f.id, "label": f"{f.id} · {f.subject} – {f.relation} → {f.object}"}
            for f in beside.facts
        ],
        dict(zip(beside.methods, meanings, strict=True)),
        beside.epoch,
        drawn,
        caption.strip(),
    )


def _panel(
    cell: Cell, edges: Int[np.ndarray, " edge"], shared: "set[int] | tuple[()]", epoch: str
) -> dict[str, Any]:
    mean = cell.prompt_scores.mean(0)
    chosen = np.isin(cell.candidates, edges)
    return {
        "table": circuit_table(
            cell.candidates[chosen],
            mean[chosen],
            cell.topology,
            fact=cell.fact_id,
            epoch=epoch,
            n_edges=N_DRAWN,
            shared=shared,
        ),
        "n_selected": len(edges),
        "stats": [
            ("edges", f"{len(edges):,}"),
            ("faithfulness", number(cell_value(cell, "faithfulness"))),
            ("Hit@10", number(cell_value(cell, "hit_at_10"))),
        ],
    }


def _told(beside: Beside, circuits: "Sequence[Sequence[Any]]") -> Block:
    own = beside.methods[0]
    columns = [
        {"label": "fact", "kind": "fact"},
        {"label": "method", "kind": "text"},
        {"label": "edges", "kind": "number"},
        {"label": "without dangling", "kind": "number"},
        {"label": "faithfulness", "kind": "number", "digits": 2},
        {"label": "Hit@10", "kind": "number", "digits": 2},
        {"label": "target rank", "kind": "number", "digits": 1},
        {"label": f"Jaccard with {own}", "kind": "number", "digits": 2},
        {"label": "chance", "kind": "number", "digits": 3},
    ]
    rows: list[list[Any]] = []
    for fact, line, edges_by_method in zip(beside.facts, beside.cells, circuits, strict=True):
        for i, (cell, edges) in enumerate(zip(line, edges_by_method, strict=True)):
            if cell is None:
                continue
            judged = [cell_value(cell, n) for n in ("faithfulness", "hit_at_10", "target_rank")]
            counts = [fact.id, beside.methods[i], cell.n_edges, len(edges)]
            overlap = _overlap(edges, edges_by_method[0], cell) if i else (None, None)
            rows.append([*counts, *judged, *overlap])
    caption = (
        f"The same circuits in numbers, at {beside.epoch}: edges that were asked for, edges left "
        "without dangling nodes, and how well the circuit does by itself on prompts that it was "
        "not found on (faithfulness 1: all that the model does; a dash where the model's "
        "preference is too weak to judge). Chance: the Jaccard of two random circuits of these "
        "sizes."
    )
    return table_block("methods", "Methods in numbers", columns, rows, caption)


def _overlap(
    one: Int[np.ndarray, " edge"], other: Int[np.ndarray, " edge"], cell: Cell
) -> tuple[float | None, float | None]:
    """Jaccard of two circuits, and that of two random ones of their sizes."""
    if not len(one) or not len(other):
        return None, None
    share = len(np.intersect1d(one, other)) / len(np.union1d(one, other))
    return share, chance_jaccard(len(one), len(other), cell.topology.n_edges)


def _cells_at(other: Run, run: Run, epoch: str) -> dict[str, Cell]:
    """The other request's cells of the same checkpoint and facts, by fact."""
    if other.request.topology is None or epoch not in other.epochs:
        return {}
    if other.checkpoint(epoch).content_hash != run.checkpoint(epoch).content_hash:
        return {}
    hashes = {record.id: record.hash for record in run.request.facts}
    rows = other.rows(epoch).items()
    done = [name for name, row in rows if not row.is_failed and hashes.get(name) == row.fact_hash]
    return {cell.fact_id: cell for cell in other.cells(epoch, done)}


def _labels(runs: Sequence[Run]) -> tuple[str, ...]:
    """Names of the methods, with the budget where one occurs twice."""
    names = [run.method for run in runs]
    return tuple(
        name if names.count(name) == 1 else f"{name}, {run.n_edges:,} edges ({run.request.id[:4]})"
        for name, run in zip(names, runs, strict=True)
    )
