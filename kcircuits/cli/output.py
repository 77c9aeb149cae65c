"""What the command line prints: text that is safe on a terminal, tables, JSON, errors.

Data goes to stdout; warnings, errors and progress go to stderr.
"""

import argparse
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from kcircuits.errors import KCircuitsError
from kcircuits.io.atomic import write_atomic

# Control, format (all direction overrides are), surrogate, line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
ItemT = TypeVar("ItemT")
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34"}


def printable(value: object) -> str:
    r"""Text with each control or direction character escaped: ``\x1b``, ``\u202e``."""
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in _UNPRINTABLE
        else char
        for char in str(value)
    )


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """Text in a style (bold, dim, red, ...); as it is when piped or with ``NO_COLOR``."""
    out = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not out.isatty():
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def print_json(schema: str, obj: Mapping[str, Any]) -> None:
    """Print one JSON object with its schema, e.g. ``kcircuits.diff/1``."""
    print(json.dumps({"schema": schema, **obj}, allow_nan=False, indent=2))


def present(
    args: argparse.Namespace,
    *,
    document: Callable[[], dict[str, Any]],
    text: Callable[[], None],
    page: Callable[[], str],
) -> None:
    """Shows a result: its page into ``--html FILE``, then its document (``--json``) or its text.

    Args:
        args: Of the verb.
        document: Makes the object to print, its ``schema`` included.
        text: Prints it for people.
        page: Makes the HTML.
    """
    if args.html is not None:
        write_atomic(args.html, page())
    if args.json:
        made = document()
        print_json(made.pop("schema"), made)
        return
    text()
    if args.html is not None:
        print(f"\nwrote {printable(args.html)}")


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns, numbers to the right; None becomes a dash."""
    body = [list(row) for row in rows]
    text = [[_cell(value) for value in row] for row in body]
    widths = [max(map(_width, column)) for column in zip(headers, *text, strict=True)]
    columns = [{type(row[i]) for row in body} - {type(None)} for i in range(len(headers))]
    numeric = [bool(types) and types <= {int, float} for types in columns]
    print(styled(_line(headers, widths, numeric), "bold"))
    for row in text:
        print(_line(row, widths, numeric))


def print_aligned(
    headers: Sequence[str], lines: Iterable[Sequence[str]], *, left: tuple[int, ...] = (0,)
) -> None:
    """Print columns of numbers that are texts already: to the right, but for those in ``left``.

    ``print_table`` prints four significant digits, which do not line up.
    """
    table = [list(headers), *map(list, lines)]
    widths = [max(_width(line[i]) for line in table) for i in range(len(headers))]
    is_right = [i not in left for i in range(len(headers))]
    for n, line in enumerate(table):
        text = "  " + _line(line, widths, is_right)
        print(styled(text, "dim") if n == 0 else text)


def number_text(value: float | None, form: str) -> str:
    """A number in a form such as ``.2f`` (then 0 has no sign) or ``+.2f``; None is a dash."""
    if value is None:
        return "-"
    text = f"{value:{form}}"
    return text if form.startswith("+") or float(text) else text.removeprefix("-")


def interval_text(row: Mapping[str, Any], name: str = "", form: str = ".2f") -> str:
    """``[low, high]`` of a field of a row, by its ``NAME_low`` and ``NAME_high``; or a dash."""
    low, high = (row[f"{name}_{end}".lstrip("_")] for end in ("low", "high"))
    if low is None or high is None:
        return "-"
    return f"[{number_text(low, form)}, {number_text(high, form)}]"


def progress(
    items: Iterable[ItemT], label: str, *, quiet: bool, total: int | None = None
) -> Iterable[ItemT]:
    """The items, with a bar on stderr that shows rate and time left.

    Args:
        items: What is worked on.
        label: What the bar is called.
        quiet: No bar.
        total: How many items there are, where they cannot say.
    """
    from tqdm import tqdm

    return tqdm(items, desc=label, file=sys.stderr, disable=quiet, total=total)


@contextmanager
def prompt_bar(label: str, *, quiet: bool) -> Iterator[Callable[..., None]]:
    """A bar on stderr over prompts, which begins with the first news: what is read shows none.

    Args:
        label: What the bar is called, before an epoch.
        quiet: No bar.

    Yields:
        Told prompts done, prompts in all, and the epoch where there are several.
    """
    from tqdm import tqdm

    bars: list[tqdm[Any]] = []

    def advance(n_done: int, n_all: int, epoch: str = "") -> None:
        if not bars:
            made = tqdm(unit="prompt", file=sys.stderr, disable=quiet, dynamic_ncols=True)
            bars.append(made)
        bars[0].total = n_all
        bars[0].set_description(f"{label} {printable(epoch)}".rstrip(), refresh=False)
        bars[0].update(n_done - bars[0].n)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.close()


def warn(message: str) -> None:
    """Print a warning on stderr."""
    print(f"{styled('warning:', 'yellow', sys.stderr)} {_lines(message)}", file=sys.stderr)


def print_error(error: KCircuitsError, *, as_json: bool) -> None:
    """Print an error: one JSON object on stdout, or text on stderr."""
    if as_json:
        print(json.dumps(error.to_json(), allow_nan=False, indent=2))
    else:
        print(f"{styled('error:', 'red', sys.stderr)} {_lines(str(error))}", file=sys.stderr)


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else printable(value)


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = [
        " " * (width - _width(cell)) + cell if right else cell + " " * (width - _width(cell))
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    """Columns on a terminal: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )
