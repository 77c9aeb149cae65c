"""Rows in JSON Lines files that grow while a run goes on (probes, training loss, skills)."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from kcircuits.errors import StoreCorruptError
from kcircuits.io.atomic import access_error, write_all

_log = logging.getLogger(__name__)


# What readers of a field count on; ``float`` also means a whole number.
Kinds = Mapping[str, tuple[type, ...]]


def read_rows(path: str | Path, kinds: Kinds | None = None) -> list[dict[str, Any]]:
    """The rows of a file, in order; none where the file is absent.

    A last line without its newline is what a killed writer leaves: it is left out and a warning is
    logged.

    Args:
        path: The file.
        kinds: Fields that every row must have, with the types that their values may have.

    Raises:
        StoreCorruptError: Any other line that is not a JSON object with those fields.
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
    rows = [_parse(line, path, number) for number, line in enumerate(lines, start=1)]
    for number, row in enumerate(rows, start=1):
        for name, types in (kinds or {}).items():
            if name not in row or not _is(row[name], types):
                value = f"is {str(row[name])[:40]!r}" if name in row else "is missing"
                raise _spoiled(f"field {name!r} {value}", path, number, field=name)
    return rows


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
        row = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise _spoiled("this line is not a JSON object", path, number)
    return row


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is(value: Any, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, (*types, int) if float in types else types)


def _spoiled(message: str, path: Path, line: int, *, field: str | None = None) -> StoreCorruptError:
    hint = "delete that line, or the file and compute it again"
    return StoreCorruptError(message, file=path, line=line, field=field, hint=hint)
