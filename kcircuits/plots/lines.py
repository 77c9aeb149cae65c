"""Lines with bands of uncertainty; the i-th line has one colour, dash and symbol everywhere."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from kcircuits.plots.theme import DASHES, SERIES, SYMBOLS

Row = dict[str, Any]


def add_band(
    figure: go.Figure, rows: Sequence[Row], i: int, *, x: str = "epoch", shape: str = "linear"
) -> None:
    """Fills between ``low`` and ``high`` of the rows in the colour of the i-th line.

    Args:
        figure: Where to.
        rows: Rows with ``low``, ``high`` and the field ``x``; those without an end are left out.
        i: Place of the line.
        x: Field of the x axis.
        shape: Of the lines between points.
    """
    shown = [row for row in rows if row["low"] is not None and row["high"] is not None]
    if not shown:
        return
    colour = SERIES[i % len(SERIES)]
    at = [row[x] for row in shown]
    for name, fill in (("low", None), ("high", "tonexty")):
        figure.add_scatter(
            x=at,
            y=[row[name] for row in shown],
            mode="lines",
            line={"width": 0, "shape": shape},
            fill=fill,
            fillcolor=_faint(colour),
            hoverinfo="skip",
            showlegend=False,
            legendgroup=str(i),
        )


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"


def line_style(i: int) -> Row:
    """Colour, dash and symbol of the i-th line."""
    colour, turn = SERIES[i % len(SERIES)], i // len(SERIES)
    return {
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2, "dash": DASHES[turn % len(DASHES)]},
        "marker": {
            "color": colour,
            "size": 7,
            "symbol": SYMBOLS[i % len(SYMBOLS)] + "-open" * (turn % 2),
        },
    }
