"""Rows in JSON Lines files that grow while a run goes on (probes, training loss, skills)."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kcircuits.errors import StoreCorruptError
from kcircuits.io.atomic import access_error, write_all

_log = logging.getLogger(__name__)


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a file, in order; none where the file is absent.

    A last line without its newline is what a killed writer leaves: it is left out and a warning is
    logged.

    Raises:
        StoreCorruptError: Any other line that is not a JSON object.
        FileAccessError: The file exists and cannot be read.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise access_error(error, path, "read") from error
    *lines, torn = data.split(b"\n")
    if torn:
        _log.warning("%s: line %d was cut off by a crash and is left out", path, len(lines) + 1)
    return [_parse(line, path, number) for number, line in enumerate(lines, start=1)]


def append_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends rows and waits until they are on disk.

    A line that an earlier crash cut off is removed first. One writer at a time.

    Args:
        path: The file; made with its folder if absent.
        rows: JSON objects; a NaN or infinity is an error of the caller, write None instead.

    Raises:
        FileAccessError: The operating system refused; the file is as before.
        ValueError: A number that JSON does not have.
    """
    path = Path(path)
    text = "".join(
        json.dumps(dict(row), allow_nan=False, ensure_ascii=False) + "\n" for row in rows
    )
    if not text:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            end = _end_of_last_line(file.fileno())
            os.ftruncate(file.fileno(), end)
            try:
                write_all(file.fileno(), text.encode())
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), end)
                raise
    except OSError as error:
        raise access_error(error, path, "write") from error


def _end_of_last_line(descriptor: int) -> int:
    """Length of the file up to and with its last newline."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65536)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise StoreCorruptError(
            "this line is not a JSON object",
            file=path,
            line=number,
            hint="delete that line, or the file and compute it again",
        )
    return row
