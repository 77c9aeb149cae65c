"""The cells of a run, one fact after the other with all its epochs: what follows facts over time.

Reading goes fact by fact, so memory holds a few facts at a time however many a run has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.study.run import Run


@dataclass(frozen=True, kw_only=True)
class FactCells:
    """One fact at every epoch.

    Attributes:
        fact: The fact.
        cells: Its cell at each epoch; None where it is missing or failed.
    """

    fact: Fact
    cells: tuple[Cell | None, ...]

    @property
    def present(self) -> list[int]:
        """Places of the epochs at which there is a cell."""
        return [place for place, cell in enumerate(self.cells) if cell is not None]

    @property
    def is_known(self) -> Bool[np.ndarray, " epoch"]:
        """Whether the fact is known at each epoch; not where there is no cell."""
        return np.array([cell is not None and cell.is_known for cell in self.cells])


def resolve_epochs(run: Run, refs: Sequence[str] | None = None) -> tuple[str, ...]:
    """Ids of the epochs that have a cell, in training order.

    Args:
        run: The run.
        refs: References to the epochs wanted; default all.

    Raises:
        UsageError: There is no such epoch.
        IncomparableError: None of them has a cell, or one that was named has none.
    """
    wanted = None if refs is None else {run.checkpoint(ref).id for ref in refs}
    found = [
        epoch
        for epoch in run.epochs
        if (wanted is None or epoch in wanted)
        and any(not row.is_failed for row in run.rows(epoch).values())
    ]
    empty = sorted((wanted or set()) - set(found))
    if not found or empty:
        what = f"epoch {empty[0]} of run {run.name} has" if empty else f"run {run.name} has"
        raise IncomparableError(
            f"{what} no finished cell yet", field="epoch", hint="compute some with `kcircuits run`"
        )
    return tuple(found)


def stream_facts(
    run: Run, epochs: Sequence[str], fact_ids: Sequence[str] | None = None, *, dense: bool = False
) -> Iterator[FactCells]:
    """Each fact with its cells at the epochs; facts without any cell are left out.

    Args:
        run: The run.
        epochs: Ids of epochs, see ``resolve_epochs``.
        fact_ids: Which facts, in this order; default all.
        dense: With the mean scores over all edges, which take much longer to read.

    Raises:
        UsageError: There is no such fact.
        StoreCorruptError: What was read is not what was committed.
    """
    by_id = {fact.id: fact for fact in run.facts}
    wanted = run.fact_ids if fact_ids is None else tuple(fact_ids)
    for fact_id in wanted:
        if fact_id not in by_id:
            raise UsageError(
                f"fact {fact_id!r} is not in this run",
                field="fact",
                hint="see `kcircuits ls facts`",
            )
    rows = [run.rows(epoch) for epoch in epochs]
    for fact_id in wanted:
        found = [at.get(fact_id) for at in rows]
        cells = tuple(
            None if row is None or row.is_failed else run.store.read(row.key, dense=dense)
            for row in found
        )
        if any(cell is not None for cell in cells):
            yield FactCells(fact=by_id[fact_id], cells=cells)
