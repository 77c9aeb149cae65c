"""Rows of a JSONL or CSV file that somebody wrote, each with its line.

Space around a text is no part of it, in whatever kind of file: a subject that ends in a space would
be nobody in the documents, and an answer that begins with one would have two.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from kcircuits.errors import InputError
from kcircuits.io.input_file import decode, forbidden_character, read_bounded, shown

MAX_BYTES = 256 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row.

    Attributes:
        file: Where it stands.
        line: In the file, counted from 1; of a row over several lines, the first.
        fields: Its values, texts without space around them; empty cells of a CSV file are left out.
    """

    file: Path
    line: int
    fields: Mapping[str, Any]

    def text(self, field: str) -> str:
        """A field that has to be there as text; InputError where it is not, or is blank."""
        if field not in self.fields:
            known = ", ".join(self.fields)
            self.refuse(f"field {field!r} is missing", field, f"add {field}; the row has {known}")
        return self.checked(field, self.fields[field])

    def checked(self, field: str, value: Any) -> str:
        """A value as text; InputError where it is something else, or blank."""
        if not isinstance(value, str):
            self.refuse(f"{field} is {shown(value)}, not text", field, "write it in quotes")
        if not value:
            self.refuse(f"{field} is blank", field, "fill it in, or leave the row out")
        if character := forbidden_character(value):
            self.refuse(f"{field} holds {character}", field, "remove the character")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """A field that may be there as a list of texts; InputError where it is something else."""
        value = self.fields.get(field, [])
        if not isinstance(value, list):
            self.refuse(f"{field} is {shown(value)}, not a list", field, "write [...] in JSONL")
        return tuple(self.checked(f"{field}[{i}]", each) for i, each in enumerate(value))

    def allow(self, fields: Sequence[str]) -> None:
        """InputError where the row has a field with another name."""
        if unknown := [name for name in self.fields if name not in fields]:
            told = f"field {unknown[0]!r} is not known"
            self.refuse(told, unknown[0], f"the fields are {', '.join(fields)}")

    def refuse(self, message: str, field: str | None, hint: str) -> NoReturn:
        """InputError about this row."""
        raise InputError(message, file=self.file, line=self.line, field=field, hint=hint)


def read_table(path: str | Path) -> list[Row]:
    """The rows of a file, in order; at least one.

    Args:
        path: Ends in ``.jsonl``, ``.csv`` or ``.tsv``; a CSV file begins with the fields' names.

    Raises:
        InputError: The first line that breaks a rule, or a file of another kind.
        FileAccessError: The file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise InputError(
            f"a file of kind {path.suffix or 'none'!r} is not understood",
            file=path,
            hint=f"write one of {', '.join(_READERS)}",
        )
    content = read_bounded(path, limit=MAX_BYTES, error=InputError, hint="check the path")
    text = decode(content.removeprefix(b"\xef\xbb\xbf"), error=InputError, file=path)
    rows = list(_READERS[path.suffix.lower()](text, path))
    if not rows:
        raise InputError("holds no rows", file=path, hint="write one row at least")
    return rows


def _jsonl(text: str, path: Path) -> Iterator[Row]:
    for line, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        try:
            data = json.loads(raw, object_pairs_hook=_fields, parse_constant=_no_number)
        except (ValueError, RecursionError) as cause:
            reason = cause.msg if isinstance(cause, json.JSONDecodeError) else str(cause)
            raise InputError(
                f"is not JSON: {reason}", file=path, line=line, hint="write one object a line"
            ) from None
        if not isinstance(data, dict):
            raise InputError(
                f"is {shown(data)}, not an object", file=path, line=line, hint="write {...}"
            )
        yield Row(file=path, line=line, fields={n: _stripped(value) for n, value in data.items()})


def _separated(text: str, path: Path, delimiter: str) -> Iterator[Row]:
    content = io.StringIO(text, newline="")
    # Else the quotes of `a, "b"` would be part of the text.
    reader = csv.reader(content, delimiter=delimiter, skipinitialspace=True, strict=True)
    names: Sequence[str] | None = None
    line = 1
    try:
        for raw in reader:
            start, line = line, reader.line_num + 1
            cells = [cell.strip() for cell in raw]
            if not any(cells):
                continue
            if names is None:
                names = _names(cells, path, start)
                continue
            if len(cells) != len(names):
                raise InputError(
                    f"has {len(cells)} cells; the first line names {len(names)} fields",
                    file=path,
                    line=start,
                    hint="put texts that hold the separator into double quotes",
                )
            fields = {n: cell for n, cell in zip(names, cells, strict=True) if cell}
            yield Row(file=path, line=start, fields=fields)
    except csv.Error as cause:
        raise InputError(
            f"is no row of cells: {cause}",
            file=path,
            line=reader.line_num,
            hint="close the double quotes, and double those inside a text",
        ) from None


def _names(names: Sequence[str], path: Path, line: int) -> Sequence[str]:
    for name in names:
        if not name or names.count(name) > 1:
            told = f"{name!r} is named twice" if name else "a field has no name"
            raise InputError(told, file=path, line=line, hint="give every field a name of its own")
    return names


def _stripped(value: Any) -> Any:
    """A text, or the texts of a list, without space around them; other values as they are."""
    if isinstance(value, list):
        return [_stripped(each) for each in value]
    return value.strip() if isinstance(value, str) else value


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key is given twice")
    return fields


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a value of JSON")


_READERS: Mapping[str, Callable[[str, Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".csv": lambda text, path: _separated(text, path, ","),
    ".tsv": lambda text, path: _separated(text, path, "\t"),
}
