"""The results store keeps what it is given, and tells what it has."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from kcircuits.core.cell import Cell, FailedCell, SparseMean
from kcircuits.errors import StoreBusyError, UsageError
from kcircuits.io.store import Store

MakeCell = Callable[[str], Cell]


def assert_same(left: Cell, right: Cell) -> None:
    for name, value in vars(left).items():
        other = getattr(right, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other)
        else:
            assert other == value, name


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_store_reads_what_was_committed(tmp_path: Path, make_cell: MakeCell) -> None:
    cells = [make_cell("a"), make_cell("b")]
    Store(tmp_path).commit("0" * 64, cells, plan={"chunk": 2})
    store = Store(tmp_path)
    assert [row.fact_id for row in store.cells()] == ["a", "b"]
    assert store.cells()[0].values == {"metric": 0.1 + 0.2, "faithfulness": None}
    for cell in cells:
        assert_same(cell, store.read(cell.key, dense=True))
        assert_same(replace(cell, mean=None), store.read(cell.key))


def test_store_keeps_sparse_means(tmp_path: Path, make_cell: MakeCell) -> None:
    sparse = SparseMean(
        index=np.array([1, 5]),
        values=np.array([0.5, -2], dtype=np.float32),
        forward_marginals=np.ones(7, dtype=np.float32),
        backward_marginals=np.ones(15, dtype=np.float32),
    )
    cell = replace(make_cell("a"), mean=None, sparse_mean=sparse)
    Store(tmp_path).commit("0" * 64, [cell])
    found = Store(tmp_path).read(cell.key, dense=True)
    assert found.mean is None
    assert found.sparse_mean is not None
    np.testing.assert_array_equal(found.sparse_mean.index, sparse.index)
    assert Store(tmp_path).read(cell.key).sparse_mean is None


def test_failed_cells_hold_a_place_and_no_numbers(tmp_path: Path, make_cell: MakeCell) -> None:
    names = {"key": "k", "checkpoint": "c", "fact_id": "f", "fact_hash": "h"}
    failed = FailedCell(**names, component="m1->logits", message="NaN on prompt 3")
    Store(tmp_path).commit("0" * 64, [make_cell("a"), failed])
    row = Store(tmp_path).row("k")
    assert row is not None
    assert (row.is_failed, row.message) == (True, "m1->logits: NaN on prompt 3")
    assert dict(row.values) == {}
    with pytest.raises(UsageError, match="NaN on prompt 3"):
        Store(tmp_path).read("k")


def test_store_bytes_do_not_depend_on_the_order_of_commits(
    tmp_path: Path, make_cell: MakeCell
) -> None:
    batches = {"1" * 64: [make_cell("a")], "2" * 64: [make_cell("b")]}
    for name, order in (("forth", list(batches)), ("back", list(batches)[::-1])):
        for batch in order:
            Store(tmp_path / name).commit(batch, batches[batch])
    assert files(tmp_path / "forth") == files(tmp_path / "back")


def test_committing_a_batch_again_changes_nothing(tmp_path: Path, make_cell: MakeCell) -> None:
    store = Store(tmp_path)
    store.commit("0" * 64, [make_cell("a")])
    before = files(tmp_path)
    store.commit("0" * 64, [make_cell("b")])
    assert files(tmp_path) == before


def test_a_key_of_two_batches_reads_from_the_first(tmp_path: Path, make_cell: MakeCell) -> None:
    cell = make_cell("a")
    store = Store(tmp_path)
    store.commit("2" * 64, [replace(cell, n_edges=3)])
    store.commit("1" * 64, [cell])
    assert store.read(cell.key).n_edges == Store(tmp_path).read(cell.key).n_edges == 2


def test_shards_are_plain_safetensors(tmp_path: Path, make_cell: MakeCell) -> None:
    cell = make_cell("a")
    Store(tmp_path).commit("0" * 64, [cell])
    tensors = load_file(tmp_path / "shards" / f"{'0' * 64}.safetensors")
    np.testing.assert_array_equal(tensors["0.prompt_scores"], cell.prompt_scores)


def test_reading_candidates_leaves_the_mean_alone(tmp_path: Path, make_cell: MakeCell) -> None:
    cell = make_cell("a")
    Store(tmp_path).commit("0" * 64, [cell])
    file = tmp_path / "shards" / f"{'0' * 64}.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # the last byte is the mean's
    file.write_bytes(data)
    assert_same(replace(cell, mean=None), Store(tmp_path).read(cell.key))


def test_index_is_rebuilt_from_the_shards(tmp_path: Path, make_cell: MakeCell) -> None:
    for batch in "12":
        Store(tmp_path).commit(batch * 64, [make_cell(batch)])
    rows, index = Store(tmp_path).cells(), (tmp_path / "index.json").read_bytes()
    (tmp_path / "index.json").unlink()
    assert Store(tmp_path).cells() == rows
    Store(tmp_path).rebuild_index()
    assert (tmp_path / "index.json").read_bytes() == index


# Holds the lock of a store until its input ends.
HOLD = """
import sys
from pathlib import Path
from kcircuits.io.store import Store

with Store(Path(sys.argv[1])).writing():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_writer_is_turned_away_and_readers_are_not(
    tmp_path: Path, make_cell: MakeCell
) -> None:
    Store(tmp_path).commit("0" * 64, [make_cell("a")])
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert len(Store(tmp_path).cells()) == 1
        with pytest.raises(StoreBusyError, match="another process") as caught:
            Store(tmp_path).commit("1" * 64, [make_cell("b")])
        assert caught.value.exit_code == 6
        holder.stdin.close()
        with Store(tmp_path).writing(wait_s=30):
            pass
    assert holder.returncode == 0
