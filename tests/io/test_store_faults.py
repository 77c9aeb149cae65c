"""Every fault of a store's files is found and named; none becomes a number."""

import errno
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kcircuits.core.cell import Cell
from kcircuits.errors import FileAccessError, StoreCorruptError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.jsonl import append_rows, read_rows
from kcircuits.io.run_record import read_run_record
from kcircuits.io.sealed import sealed
from kcircuits.io.store import Store, repair_store

MakeCell = Callable[[str], Cell]
BATCH = "0" * 64


@pytest.fixture
def filled(tmp_path: Path, make_cell: MakeCell) -> Path:
    Store(tmp_path).commit(BATCH, [make_cell("a"), make_cell("b")])
    return tmp_path


def shard_of(store: Path) -> Path:
    return store / "shards" / f"{BATCH}.safetensors"


def read_all(path: Path) -> list[Cell]:
    store = Store(path)
    return [store.read(row.key, dense=True) for row in store.cells()]


def test_every_bit_flip_in_a_shard_is_detected(filled: Path) -> None:
    data = shard_of(filled).read_bytes()
    rng = random.Random(0)
    n_header = int.from_bytes(data[:8], "little")
    places = {*range(80), n_header + 7, n_header + 8, len(data) - 1}
    places |= {rng.randrange(len(data)) for _ in range(300)}
    for place in sorted(places):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        shard_of(filled).write_bytes(flipped)
        assert len(Store(filled).verify()) == 1, place
        with pytest.raises(StoreCorruptError) as caught:
            read_all(filled)
        assert caught.value.file == str(shard_of(filled))
        assert "status --repair" in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, -1, -100])
def test_truncated_shard_is_detected(filled: Path, kept: int) -> None:
    shard_of(filled).write_bytes(shard_of(filled).read_bytes()[:kept])
    with pytest.raises(StoreCorruptError):
        read_all(filled)


def test_padded_shard_is_detected(filled: Path) -> None:
    shard_of(filled).write_bytes(shard_of(filled).read_bytes() + b"\0")
    with pytest.raises(StoreCorruptError, match="were committed"):
        read_all(filled)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff" * 64, bytes(8), b"\2" + bytes(7) + b"{}"]
)
def test_foreign_shard_is_detected(filled: Path, content: bytes) -> None:
    (filled / "shards" / "foreign.safetensors").write_bytes(content)
    with pytest.raises(StoreCorruptError, match=r"foreign\.safetensors"):
        Store(filled)


def test_shard_under_another_name_is_detected(filled: Path) -> None:
    shard_of(filled).rename(filled / "shards" / f"{'1' * 64}.safetensors")
    with pytest.raises(StoreCorruptError, match="not that of its name"):
        Store(filled)


def test_other_files_in_the_folder_are_left_alone(filled: Path) -> None:
    (filled / "shards" / ".DS_Store").write_bytes(b"x")
    assert len(read_all(filled)) == 2


def test_bit_flips_in_the_index_cost_nothing(filled: Path) -> None:
    rows, index = Store(filled).cells(), (filled / "index.json").read_bytes()
    rng = random.Random(1)
    for place in [0, len(index) - 1, *(rng.randrange(len(index)) for _ in range(60))]:
        flipped = bytearray(index)
        flipped[place] ^= 1 << rng.randrange(8)
        (filled / "index.json").write_bytes(flipped)
        assert Store(filled).cells() == rows
    with Store(filled).writing():
        pass
    assert (filled / "index.json").read_bytes() == index


def test_deleted_shard_leaves_its_cells_due(filled: Path, make_cell: MakeCell) -> None:
    shard_of(filled).unlink()
    assert Store(filled).cells() == []
    Store(filled).commit(BATCH, [make_cell("a")])
    assert len(read_all(filled)) == 1


def test_repair_removes_only_what_is_corrupt(filled: Path, make_cell: MakeCell) -> None:
    Store(filled).commit("1" * 64, [make_cell("c")])
    data = bytearray(shard_of(filled).read_bytes())
    data[50] ^= 4
    shard_of(filled).write_bytes(data)
    (filled / "index.json").unlink()
    assert repair_store(filled) == [shard_of(filled).name]
    assert [cell.fact_id for cell in read_all(filled)] == ["c"]


@pytest.mark.parametrize(
    ("call", "code", "remedy"),
    [("write", errno.ENOSPC, "disk is full"), ("fsync", errno.EIO, "hardware error")],
)
def test_disk_fault_gives_the_commit_up(
    filled: Path, make_cell: MakeCell, monkeypatch, call: str, code: int, remedy: str
) -> None:
    before = {p.name for p in filled.rglob("*")}
    store = Store(filled)

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with store.writing():
        monkeypatch.setattr(os, call, refuse)
        with pytest.raises(FileAccessError, match=remedy) as caught:
            store.commit("1" * 64, [make_cell("c")])
        monkeypatch.undo()
    assert caught.value.exit_code == 7
    assert {p.name for p in filled.rglob("*")} == before
    assert len(read_all(filled)) == 2


def test_short_writes_are_completed(tmp_path: Path, monkeypatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, bytes(data[:3])))
    write_atomic(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_killed_writers_leftovers_are_cleared(filled: Path) -> None:
    left = filled / "shards" / ".writing-abc-xyz"
    left.write_bytes(b"half")
    Store(filled)
    assert left.exists()  # a reader may run beside the writer
    with Store(filled).writing():
        assert not left.exists()


def test_committed_nan_is_refused(tmp_path: Path, make_cell: MakeCell) -> None:
    cell = make_cell("a")
    with pytest.raises(ValueError, match="JSON compliant"):
        Store(tmp_path).commit(BATCH, [replace(cell, values={"metric": float("nan")})])
    with pytest.raises(ValueError, match="FailedCell"):
        Store(tmp_path).commit(BATCH, [replace(cell, prompt_scores=cell.prompt_scores * np.nan)])
    assert Store(tmp_path).cells() == []


def test_jsonl_drops_a_torn_line_and_goes_on(tmp_path: Path, caplog) -> None:
    file = tmp_path / "rows.jsonl"
    append_rows(file, [{"a": 1}, {"a": None}])
    file.write_bytes(file.read_bytes() + b'{"a": 2')
    assert read_rows(file) == [{"a": 1}, {"a": None}]
    assert "line 3 was cut off" in caplog.text
    append_rows(file, [{"a": 3}])
    assert [row["a"] for row in read_rows(file)] == [1, None, 3]
    with pytest.raises(ValueError, match="JSON compliant"):
        append_rows(file, [{"a": float("inf")}])


def test_jsonl_names_a_broken_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n[2]\n{"a": 3}\n')
    with pytest.raises(StoreCorruptError, match=r"rows\.jsonl:2"):
        read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "row",
    ['{"b": 1}', '{"a": "x"}', '{"a": true}', '{"a": null}', '{"a": NaN}', "[" * 100_000],
)
def test_jsonl_names_a_row_that_readers_cannot_use(tmp_path: Path, row: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"a": 1.5}}\n{{"a": 2}}\n{row}\n')
    with pytest.raises(StoreCorruptError, match=r"rows\.jsonl:3"):
        read_rows(file, {"a": (float,)})


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="name the file itself"):
        write_atomic(tmp_path, "text")


@pytest.mark.parametrize("content", [[], {}, {"schema": "kcircuits.run-record/1"}, "text"])
def test_a_sealed_record_of_another_shape_is_told(tmp_path: Path, content: Any) -> None:
    (tmp_path / "run.yaml").write_bytes(sealed(content))
    with pytest.raises(StoreCorruptError, match="another version"):
        read_run_record(tmp_path)


@pytest.mark.parametrize(
    "content",
    [[], {}, {"schema": "kcircuits.index/1"}, {"schema": "kcircuits.index/1", "batches": []}],
)
def test_an_index_of_another_shape_is_rebuilt(tmp_path: Path, make_cell, content: Any) -> None:
    cell = make_cell("one")
    Store(tmp_path).commit(BATCH, [cell])
    (tmp_path / "index.json").write_bytes(sealed(content))
    assert cell.key in Store(tmp_path)


def test_jsonl_disk_fault_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "rows.jsonl"
    append_rows(file, [{"a": 1}])
    before = file.read_bytes()

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(FileAccessError):
        append_rows(file, [{"a": 2}])
    assert file.read_bytes() == before
