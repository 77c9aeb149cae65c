"""All cells of a run side by side, and what the report works out from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.core.score_meaning import ScoreMeaning
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError
from kcircuits.study.fact_cells import FactCells
from kcircuits.study.meaning import meaning_of
from kcircuits.study.overlap.epoch_overlap import EpochOverlap
from kcircuits.study.overlap.read import overlap_facts
from kcircuits.study.run import Run

Row = dict[str, Any]
ALL_TOGETHER = "all together"
# More series than this cannot be told apart in one panel.
MAX_STRATA = 7


@dataclass(frozen=True, kw_only=True)
class Results:
    """What the blocks show.

    Attributes:
        run: The run.
        epochs: Ids of the checkpoints that have results.
        grid: Cells ``[fact][epoch]``; None where one is missing or failed.
        topology: The graph.
        n_edges: The budget.
    """

    run: Run
    epochs: tuple[str, ...]
    grid: Sequence[Sequence[Cell | None]]
    topology: Topology
    n_edges: int

    @property
    def meaning(self) -> ScoreMeaning:
        """What the scores say."""
        return meaning_of(self.cells[0].provenance)

    @property
    def cells(self) -> list[Cell]:
        """All that are there."""
        return [cell for line in self.grid for cell in line if cell]


def read_results(run: Run) -> Results:
    """All cells that are done; a sweep that is not finished gives its part.

    Raises:
        IncomparableError: The run has no result yet.
        StoreCorruptError: What was read is not what was committed.
    """
    columns: dict[str, dict[str, Cell]] = {}
    for epoch in run.epochs:
        done = [fact_id for fact_id, row in run.rows(epoch).items() if not row.is_failed]
        if done:
            columns[epoch] = {cell.fact_id: cell for cell in run.cells(epoch, done)}
    if not columns:
        raise IncomparableError(
            f"run {run.name} has no result yet", hint="compute some with `kcircuits run`"
        )
    grid = [[column.get(fact_id) for column in columns.values()] for fact_id in run.fact_ids]
    return Results(
        run=run, epochs=tuple(columns), grid=grid, topology=run.topology, n_edges=run.n_edges
    )


def epoch_overlap(results: Results) -> EpochOverlap:
    """Overlap between all pairs of epochs; a missing cell counts as a fact not known there."""
    facts = [
        FactCells(fact=fact, cells=tuple(line))
        for fact, line in zip(results.run.facts, results.grid, strict=True)
        if any(line)
    ]
    return overlap_facts(lambda: facts, epochs=results.epochs, fraction=results.run.fraction)


def facts_by_stratum(facts: Sequence[Fact]) -> dict[str, dict[str, str]]:
    """Stratum of each fact by the keys that tell facts apart, and all facts as one."""
    keys = dict.fromkeys(key for fact in facts for key in fact.strata)
    by_key = {key: {f.id: f.strata.get(key, "none") for f in facts} for key in keys}
    useful = {k: v for k, v in by_key.items() if 2 <= len(set(v.values())) <= MAX_STRATA}
    return {**useful, ALL_TOGETHER: {fact.id: "all facts" for fact in facts}}


def step_rows(results: Results, overlap: EpochOverlap) -> list[Row]:
    """The steps between consecutive epochs: of all facts, then by the first stratum."""
    if len(results.epochs) < 2:
        return []
    key = next(iter(facts_by_stratum(results.run.facts)))
    steps = overlap.previous
    strata = [] if key == ALL_TOGETHER else steps.grouped(key).rows
    return [
        row
        for step in steps.steps
        for row in (*steps.rows, *strata)
        if (row["from"], row["to"]) == step.epochs
    ]


def cell_value(cell: Cell | None, name: str) -> float | None:
    """One of a cell's scalars; None where there is no cell or no number."""
    value = cell.values.get(name) if cell else None
    return None if value is None or math.isnan(value) else float(value)
