"""Strategies beside each other: curves with bands over seeds, and dots with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kcircuits.plots.theme import GRID, MUTED, SERIES, SYMBOLS, TEMPLATE, as_text, empty_figure

Row = dict[str, Any]
_PER_ROW = 34  # pixels


def dots_figure(rows: Sequence[Row], axis: str, *, zero: bool = True) -> go.Figure:
    """One line per name: a dot with its interval, for each group a colour and a symbol.

    Args:
        rows: Rows ``name, group, mean, low, high``; those without a mean are left out.
        axis: What the numbers are, with their unit.
        zero: Whether a line marks 0.
    """
    shown = [row for row in rows if row["mean"] is not None]
    if not shown:
        return empty_figure("There are no numbers")
    names = list(dict.fromkeys(row["name"] for row in shown))
    groups = list(dict.fromkeys(row["group"] for row in shown))
    figure = go.Figure(layout={"template": TEMPLATE})
    for i, group in enumerate(groups):
        mine = [row for row in shown if row["group"] == group]
        # Groups of one name lie beside each other around its line.
        shift = 0.6 * ((i + 0.5) / len(groups) - 0.5)
        figure.add_scatter(
            x=[row["mean"] for row in mine],
            y=[names.index(row["name"]) + shift for row in mine],
            error_x={
                "array": [_reach(row["high"], row["mean"]) for row in mine],
                "arrayminus": [_reach(row["mean"], row["low"]) for row in mine],
                "thickness": 1,
                "width": 3,
            },
            mode="markers",
            name=as_text(group),
            marker={
                "color": SERIES[i % len(SERIES)],
                "symbol": SYMBOLS[i % len(SYMBOLS)],
                "size": 9,
            },
            customdata=[[as_text(row["name"]), as_text(group), _interval(row)] for row in mine],
            hovertemplate="%{customdata[0]}, %{customdata[1]}<br>%{x:.3f}%{customdata[2]}"
            "<extra></extra>",
        )
    if zero:
        figure.add_vline(x=0, line={"color": MUTED, "width": 1})
    figure.update_xaxes(title_text=axis, gridcolor=GRID)
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=[as_text(name) for name in names],
        range=[len(names) - 0.4, -0.6], showgrid=False, zeroline=False,
    )  # fmt: skip
    height = 130 + len(names) * max(_PER_ROW, 14 * len(groups))
    return figure.update_layout(height=height, showlegend=len(groups) > 1, hovermode="closest")


def _reach(a: float | None, b: float | None) -> float:
    return 0.0 if a is None or b is None else a - b


def _interval(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
