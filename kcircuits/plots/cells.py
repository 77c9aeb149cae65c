"""Cells of the tables of pages: a number with its interval, a verdict with its reason."""

from collections.abc import Mapping
from typing import Any

from kcircuits.plots.theme import number

Cell = dict[str, Any]


def interval_text(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """A number with its interval, by ``NAME_low`` and ``NAME_high``, where it has one."""
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None or low is None or high is None:
        return number(value, digits)
    return f"{number(value, digits)} ({number(low, digits)} to {number(high, digits)})"


def interval_cell(row: Mapping[str, Any], name: str, digits: int = 2) -> Cell | None:
    """The number as a cell, its interval on a line below; None where there is none."""
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return None
    cell = {"v": value, "t": number(value, digits)}
    if low is not None and high is not None:
        cell["note"] = f"{number(low, digits)} to {number(high, digits)}"
    return cell


def verdict_cell(
    row: Mapping[str, Any], words: Mapping[str, str], marked: str = "changed"
) -> Cell | None:
    """The verdict of a row in our words, its reason below; None where there is none.

    Args:
        row: Has ``verdict`` and ``reason``.
        words: What each verdict is called.
        marked: The verdict that stands out.
    """
    verdict = row["verdict"]
    if verdict is None:
        return None
    return {
        "v": verdict,
        "t": words[verdict],
        "note": row["reason"],
        "is_marked": verdict == marked,
    }
