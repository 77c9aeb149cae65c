"""Reading and validating files that people write: bounded, regular, UTF-8, strict.

Whatever is wrong becomes one error of the given class with file, field and line.
"""

import difflib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from kcircuits.errors import InputError
from kcircuits.io.atomic import access_error

Location = tuple[str | int, ...]
SchemaT = TypeVar("SchemaT", bound="Schema")


class Schema(BaseModel):
    """A record of a file: no unknown fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def read_bounded(path: Path, *, limit: int, error: type[InputError], hint: str) -> bytes:
    """The bytes of a regular file.

    Args:
        path: The file.
        limit: Largest size in bytes.
        error: What to raise.
        hint: The remedy where there is no such file.

    Raises:
        InputError: No such file, not a regular file (a pipe would block), or too large.
        FileAccessError: The file cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise error(f"is {kind}, expected a file", file=path, hint="name the file itself")
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise error("no such file", file=path, hint=hint) from None
    except ValueError:  # a NUL in the path
        raise error("is no file name", file=shown(str(path)), hint=hint) from None
    except OSError as cause:
        raise access_error(cause, path, "read") from cause
    if len(content) > limit:
        raise error(
            f"is larger than {limit:,} bytes",
            file=path,
            hint="split it, or check that it is the file you mean",
        )
    return content


def decode(content: bytes, *, error: type[InputError], file: Path, first_line: int = 1) -> str:
    """UTF-8 text; InputError with the line of the first byte that is not."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise error(
            f"byte 0x{content[cause.start]:02x} is not UTF-8",
            file=file,
            line=first_line + content[: cause.start].count(b"\n"),
            hint="save the file as UTF-8",
        ) from None


def forbidden_character(text: str) -> str | None:
    """The name of the first character that no field may hold, if there is one."""
    for char in text:
        if char == "\0" or "\ud800" <= char <= "\udfff":
            return f"U+{ord(char):04X} ({'NUL' if char == chr(0) else 'a lone surrogate'})"
    return None


def validate(
    schema: type[SchemaT],
    data: Any,
    *,
    error: type[InputError],
    file: Path | None,
    line_of: Callable[[Location], int | None],
) -> SchemaT:
    """A record, or the first of its problems as one error.

    Args:
        schema: The record's fields.
        data: What the parser gave.
        error: What to raise.
        file: Named in the error.
        line_of: The line of a field, or of the nearest one around it.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as cause:
        problems = cause.errors(include_url=False)
        _raise_first(schema, problems, error=error, file=file, line_of=line_of)


def shown(value: object) -> str:
    """A value for a message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def field_name(location: Location) -> str:
    """``checkpoints[2].sha256`` of ``("checkpoints", 2, "sha256")``."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return name.removeprefix(".")


def _raise_first(
    schema: type[Schema],
    problems: Any,
    *,
    error: type[InputError],
    file: Path | None,
    line_of: Callable[[Location], int | None],
) -> NoReturn:
    # A misspelt field is the cause of a missing one, so it is told first.
    first = min(problems, key=lambda p: (p["type"] == "missing", line_of(p["loc"]) or 0))
    location: Location = first["loc"]
    message, hint = _explain(schema, first)
    if len(problems) > 1:
        message += f" (and {len(problems) - 1} more)"
    raise error(
        message, file=file, field=field_name(location) or None, line=line_of(location), hint=hint
    ) from None


def _explain(schema: type[Schema], problem: Any) -> tuple[str, str | None]:
    location, kind = problem["loc"], problem["type"]
    name = field_name(location)
    if kind == "missing":
        return f"required field {name!r} is missing", f"add {location[-1]}"
    if kind == "extra_forbidden":
        known = _fields_at(schema, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        fields = f"the fields are {', '.join(known)}"
        return f"unknown field {name!r}", f"did you mean {close[0]}? {fields}" if close else fields
    if kind in ("model_type", "dict_type"):
        return f"{name or 'the content'} is {shown(problem['input'])}, not a set of fields", None
    expectation = problem["msg"].replace("Input should", "should").replace("String", "text")
    message = f"{name or 'the content'} is {shown(problem['input'])}, {expectation}"
    return message, "put it in quotes to make it text" if kind == "string_type" else None


def _fields_at(schema: type[BaseModel], location: Location) -> list[str]:
    for part in location:
        if isinstance(part, str) and part in schema.model_fields:
            annotation = schema.model_fields[part].annotation
            inner = (annotation, *get_args(annotation))
            schema = next(
                (t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), schema
            )
    return list(schema.model_fields)
