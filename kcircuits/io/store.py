"""The results store: what a sweep has computed, safe against kills, full disks and flipped bits.

A store is a folder: ``shards/`` holds one immutable file per batch of cells, ``index.json`` says
which cell lies where, ``lock`` lets one process write. The index is a cache of the shards' headers:
wherever it does not fit the files that are there, it is rebuilt. The order of a commit (shard,
then index) makes any kill harmless.

Readers need no lock, verify what they read and nothing else, and import no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcircuits.core.cell import Cell, FailedCell
from kcircuits.errors import FileAccessError, StoreCorruptError, UsageError
from kcircuits.io.atomic import access_error, clear_leftovers, write_atomic
from kcircuits.io.cells import cell_record, cell_tensors, read_cell
from kcircuits.io.lock import writer_lock
from kcircuits.io.sealed import read_sealed, sealed
from kcircuits.io.shard import SUFFIX, Shard, check_shard, encode_shard

_INDEX_SCHEMA = "kcircuits.index/1"


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """What the index says about a cell, without its arrays.

    Attributes:
        key: The cell's key.
        batch: The batch (and shard) that holds it.
        row: Its place there.
        checkpoint: Content hash of the checkpoint.
        fact_id: Name of the fact.
        fact_hash: Content hash of the fact.
        is_failed: The cell has no numbers; ``message`` says why.
        is_known: As in ``Cell``; False where failed.
        values: As in ``Cell``; empty where failed.
        message: Component and reason of a failure.
    """

    key: str
    batch: str
    row: int
    checkpoint: str
    fact_id: str
    fact_hash: str
    is_failed: bool
    is_known: bool
    values: Mapping[str, float | None]
    message: str | None


class Store:
    """The cells of a run folder.

    A key that more than one batch has computed (batches of another size or other facts) keeps all
    its cells; readers get the one whose batch id sorts first.

    Args:
        path: The store's folder; it need not exist until the first commit.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._is_locked = False
        self._shards: dict[str, Shard] = {}
        self._rows: dict[str, list[CellRow]] = {}
        self._cells: dict[str, CellRow] = {}
        self._load()

    @property
    def batches(self) -> frozenset[str]:
        """Ids of the batches that are committed."""
        return frozenset(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._cells

    def cells(self) -> list[CellRow]:
        """What is known of all cells, without reading their arrays."""
        return list(self._cells.values())

    def row(self, key: str) -> CellRow | None:
        """What is known of one cell; None where it is not there."""
        return self._cells.get(key)

    def read(self, key: str, *, dense: bool = False) -> Cell:
        """One cell.

        Args:
            key: The cell's key.
            dense: Also the mean over all edges, which is much larger than the rest.

        Raises:
            UsageError: There is no such cell, or it has failed.
            StoreCorruptError: What was read is not what was committed.
            FileAccessError: The disk refused.
        """
        row = self._cells.get(key)
        if row is None or row.is_failed:
            problem = f"failed: {row.message}" if row else "is not in the store"
            raise UsageError(
                f"cell {key[:12]} {problem}", hint="`kcircuits status` lists the cells"
            )
        return read_cell(self._shard(row.batch), row.row, dense=dense)

    @contextmanager
    def writing(self, *, wait_s: float = 0.0) -> Iterator[None]:
        """Holds the writer's lock, and clears away what a killed writer left.

        Raises:
            StoreBusyError: Another process writes.
            FileAccessError: The disk refused.
        """
        with writer_lock(self.path / "lock", wait_s=wait_s):
            clear_leftovers(self.path)
            clear_leftovers(self._folder)
            self._load()
            self._is_locked = True
            try:
                self._write_index()
                yield
            finally:
                self._is_locked = False

    def commit(
        self,
        batch_id: str,
        cells: Sequence[Cell | FailedCell],
        *,
        plan: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds the cells of one batch, all or none.

        Args:
            batch_id: Hash of the batch's plan; committing it again changes nothing.
            cells: The batch's cells in order.
            plan: How they were computed together (padding, chunk), for the record.

        Raises:
            StoreBusyError: Another process writes.
            FileAccessError: The disk refused; the store is as before.
        """
        if not self._is_locked:
            with self.writing():
                return self.commit(batch_id, cells, plan=plan)
        if batch_id in self._rows:
            return None
        record = {
            "batch": batch_id,
            "plan": dict(plan or {}),
            "cells": [cell_record(cell) for cell in cells],
        }
        done = {i: cell for i, cell in enumerate(cells) if isinstance(cell, Cell)}
        write_atomic(self._folder / f"{batch_id}{SUFFIX}", encode_shard(record, cell_tensors(done)))
        self._rows[batch_id] = _rows_of(batch_id, record)
        self._index_cells()
        return self._write_index()

    def verify(self) -> list[StoreCorruptError]:
        """Reads every byte of every shard; what does not verify, as errors not raised."""
        return corrupt_shards(self._folder)

    def rebuild_index(self) -> None:
        """Writes the index anew from the shards' headers.

        Raises:
            StoreBusyError: Another process writes.
            StoreCorruptError: A shard does not verify.
        """
        with writer_lock(self.path / "lock"):
            self._index_file.unlink(missing_ok=True)
            self._load()
            self._write_index()

    @property
    def _folder(self) -> Path:
        return self.path / "shards"

    @property
    def _index_file(self) -> Path:
        return self.path / "index.json"

    def _files(self) -> list[Path]:
        try:
            return sorted(self._folder.glob(f"*{SUFFIX}"))
        except OSError as error:
            raise access_error(error, self._folder, "read") from error

    def _load(self) -> None:
        """Reads the index, then the headers of those shards that it does not know."""
        known = self._indexed()
        self._shards, self._rows = {}, {}
        for file in self._files():
            batch = file.name.removesuffix(SUFFIX)
            if batch in known:
                self._rows[batch] = known[batch]
            else:
                self._rows[batch] = _rows_of(batch, self._shard(batch).record)
        self._index_cells()

    def _indexed(self) -> dict[str, list[CellRow]]:
        try:
            content = read_sealed(self._index_file, hint="", missing=FileNotFoundError)
            if content["schema"] != _INDEX_SCHEMA:
                return {}
            rows = content["batches"].items()
            return {batch: [CellRow(**row) for row in listed] for batch, listed in rows}
        except (FileNotFoundError, StoreCorruptError, AttributeError, KeyError, TypeError):
            return {}  # gone, spoiled, or of another version

    def _index_cells(self) -> None:
        self._cells = {}
        for batch in sorted(self._rows):
            for row in self._rows[batch]:
                self._cells.setdefault(row.key, row)

    def _write_index(self) -> None:
        batches = {batch: [vars(row) for row in rows] for batch, rows in self._rows.items()}
        data = sealed({"schema": _INDEX_SCHEMA, "batches": batches})
        write_atomic(self._index_file, data)

    def _shard(self, batch: str) -> Shard:
        if batch not in self._shards:
            file = self._folder / f"{batch}{SUFFIX}"
            if not file.exists():
                raise FileAccessError("this file has gone since the store was opened", file=file)
            self._shards[batch] = check_shard(file)
        return self._shards[batch]


def corrupt_shards(folder: Path) -> list[StoreCorruptError]:
    """Reads every byte of every shard in a folder; what does not verify, as errors."""
    problems: list[StoreCorruptError] = []
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            shard = check_shard(file)
            shard.read(list(shard.tensors))
        except StoreCorruptError as error:
            problems.append(error)
    return problems


def repair_store(path: Path) -> list[str]:
    """Removes the shards that do not verify, so that their cells are due again.

    Returns:
        Names of the files that were removed.

    Raises:
        StoreBusyError: Another process writes.
        FileAccessError: The disk refused.
    """
    with writer_lock(path / "lock"):
        bad = [Path(error.file or "") for error in corrupt_shards(path / "shards")]
        for file in (*bad, path / "index.json"):
            file.unlink(missing_ok=True)
    Store(path).rebuild_index()
    return [file.name for file in bad]


def _rows_of(batch: str, record: Mapping[str, Any]) -> list[CellRow]:
    rows: list[CellRow] = []
    for place, cell in enumerate(record["cells"]):
        is_failed = cell["status"] == "failed"
        rows.append(
            CellRow(
                **{name: cell[name] for name in ("key", "checkpoint", "fact_id", "fact_hash")},
                batch=batch,
                row=place,
                is_failed=is_failed,
                is_known=not is_failed and cell["is_known"],
                values={} if is_failed else cell["values"],
                message=f"{cell['component']}: {cell['message']}" if is_failed else None,
            )
        )
    return rows
