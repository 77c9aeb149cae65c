"""Facts with their cells, each checked as it comes to compare with those before."""

from collections.abc import Iterable, Iterator, Sequence

from kcircuits.core.cell import Cell
from kcircuits.errors import IncomparableError
from kcircuits.study.alignment import check_comparable
from kcircuits.study.fact_cells import FactCells


class CheckedFacts:
    """A stream of facts whose cells have common ground; remembers what that is.

    Args:
        facts: Facts with at least one cell each, read once.
        epochs: Names of the epochs of their cells.
    """

    def __init__(self, facts: Iterable[FactCells], epochs: Sequence[str]) -> None:
        self._facts = facts
        self._epochs = tuple(epochs)
        self._hashes: dict[int, str] = {}
        self._first: Cell | None = None

    def __iter__(self) -> Iterator[FactCells]:
        """The facts.

        Raises:
            IncomparableError: Naming what differs, and both values.
        """
        for one in self._facts:
            cells = [cell for cell in one.cells if cell is not None]
            self._first = self._first or cells[0]
            check_comparable([self._first, *cells])
            for place, cell in zip(one.present, cells, strict=True):
                known = self._hashes.setdefault(place, cell.checkpoint)
                if known != cell.checkpoint:
                    raise IncomparableError(
                        f"epoch {self._epochs[place]!r} has cells of two checkpoints "
                        f"({known[:12]} and {cell.checkpoint[:12]}); expected one",
                        field="epoch",
                        hint=f"compute it first: kcircuits run --epochs {self._epochs[place]}",
                    )
            yield one

    @property
    def first(self) -> Cell:
        """The first cell: its graph, method and budget are those of all.

        Raises:
            IncomparableError: There was no cell.
        """
        if self._first is None:
            raise IncomparableError(
                f"no fact has a result at {', '.join(self._epochs)}",
                field="facts",
                hint=f"compute some: kcircuits run --epochs {','.join(self._epochs)}",
            )
        return self._first

    def hashes(self) -> tuple[str | None, ...]:
        """Content hash of each epoch's checkpoint; None where no fact has a cell."""
        return tuple(self._hashes.get(place) for place in range(len(self._epochs)))
