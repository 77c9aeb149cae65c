"""Columns of a long file are what the row reader reads, and faults are named by line."""

import json
import random
from pathlib import Path

import pytest

from kcircuits.errors import StoreCorruptError
from kcircuits.io import columns as module
from kcircuits.io.columns import read_columns
from kcircuits.io.jsonl import read_rows

KINDS = {"a": (int,), "b": (float, type(None))}
MAY = {"c": (str,)}


def make_lines(seed: int, n_rows: int) -> list[str]:
    rng = random.Random(seed)
    rows = []
    for i in range(n_rows):
        row: dict[str, object] = {"a": i, "b": rng.choice([None, 1, 0.5]), "more": [1, {"x": "é"}]}
        if rng.random() < 0.7:
            row["c"] = rng.choice(["x", '{"a": 1}', "line\nbreak", None])
        rows.append(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n")
    return rows


@pytest.mark.parametrize("seed", range(8))
def test_columns_equal_the_row_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(module, "_PART", 1 + 97 * seed)  # many parts
    file = tmp_path / "f.jsonl"
    file.write_text("".join(make_lines(seed, 40)), encoding="utf-8")
    found, rows = read_columns(file, KINDS, MAY), read_rows(file, KINDS)
    assert found == {name: [row.get(name) for row in rows] for name in ("a", "b", "c")}
    assert len(found["a"]) == 40


def test_absent_and_empty_files_have_no_rows(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for name in ("absent", "empty"):
        assert read_columns(tmp_path / name, KINDS, MAY) == {"a": [], "b": [], "c": []}


def test_a_line_cut_off_by_a_crash_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text("".join(make_lines(0, 3)) + '{"a": 3, "b')
    assert read_columns(file, KINDS, MAY)["a"] == [0, 1, 2]
    assert "line 4 was cut off" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1}', "field 'b' is missing"),
        ('{"a": "1", "b": 1}', "field 'a' is '1'"),
        ('{"a": true, "b": 1}', "field 'a' is 'True'"),
        ('{"a": 1, "b": 1, "c": 5}', "field 'c' is '5'"),
        ('{"a": 1, "b": NaN}', "not a JSON object"),
        ('{"a": 1, "b": 1}, {"a": 1, "b": 1}', "not a JSON object"),
        ('{"a": 1, "b":\n1}', "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("", "not a JSON object"),
    ],
)
def test_faults_are_named_by_line(tmp_path: Path, line: str, message: str) -> None:
    good = make_lines(1, 4)
    file = tmp_path / "f.jsonl"
    file.write_text("".join(good[:2]) + line + "\n" + "".join(good[2:]))
    with pytest.raises(StoreCorruptError, match=message) as caught:
        read_columns(file, KINDS, MAY)
    assert caught.value.line == 3
