"""Methods side by side: faithfulness over circuit size, and faithfulness against time."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from kcircuits.plots.theme import DASHES, GRID, MUTED, SERIES, SYMBOLS, TEMPLATE, as_text

Row = dict[str, Any]
# What a panel of curves shows, by its label, with the title of its axis.
CURVES = {
    "F": ("faithfulness", "faithfulness F (mean over facts)"),
    "|1 − F|": ("distance", "|1 − F| (mean over facts)"),
}


def curve_figure(table: Sequence[Row], column: str, title: str) -> go.Figure:
    """One line per method over the logarithm of size.

    Args:
        table: Rows ``method, size, faithfulness, distance, n_edges``; size a share of all edges.
        column: What to draw.
        title: Of the vertical axis.
    """
    figure = go.Figure(layout={"template": TEMPLATE, "height": 460, "hovermode": "x unified"})
    for place, method in enumerate(dict.fromkeys(row["method"] for row in table)):
        rows = [row for row in table if row["method"] == method]
        figure.add_scatter(
            x=[100 * row["size"] for row in rows],
            y=[row[column] for row in rows],
            name=as_text(method),
            mode="lines+markers",
            line={"color": SERIES[place % len(SERIES)], "dash": DASHES[place // len(SERIES)]},
            marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 8},
            customdata=[[round(row["n_edges"])] for row in rows],
            hovertemplate="%{y:.3f} (%{customdata[0]} edges)",
        )
    figure.add_hline(y=1.0 if column == "faithfulness" else 0.0, line={"color": MUTED, "width": 1})
    figure.update_xaxes(
        type="log", title_text="edges chosen, % of all", ticksuffix=" %", gridcolor=GRID
    )
    return figure.update_yaxes(title_text=title, rangemode="tozero")


def time_figure(table: Sequence[Row], column: str, title: str) -> go.Figure:
    """One dot per method: what it costs and how far its circuits are from the model.

    Args:
        table: Rows ``method, cpu_seconds_per_fact`` and ``column`` with ``column_low`` and
            ``column_high``; rows where it is None are left out.
        column: What to draw.
        title: Of the vertical axis.
    """
    figure = go.Figure(layout={"template": TEMPLATE, "height": 420, "showlegend": True})
    for place, row in enumerate(row for row in table if row[column] is not None):
        value, low, high = (row[column + end] for end in ("", "_low", "_high"))
        figure.add_scatter(
            x=[row["cpu_seconds_per_fact"]],
            y=[value],
            error_y={"array": [high - value], "arrayminus": [value - low], "thickness": 1},
            mode="markers",
            name=as_text(row["method"]),
            marker={
                "color": SERIES[place % len(SERIES)],
                "symbol": SYMBOLS[place % len(SYMBOLS)],
                "size": 11,
            },
            hovertemplate="%{y:.3f} at %{x:.3g} CPU seconds a fact",
        )
    figure.update_xaxes(type="log", title_text="CPU seconds per fact")
    return figure.update_yaxes(title_text=title, rangemode="tozero")
