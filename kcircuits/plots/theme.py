"""Colours, template and text rules that all figures share.

The colours are those of Okabe and Ito (2008), which stay apart under the common colour
deficiencies; every meaning also has a second carrier (dash, symbol, position or text).
"""

import html
import math
from typing import Any

import plotly.graph_objects as go

GAINED, LOST, KEPT = "#0072B2", "#D55E00", "#8A8F98"
GAINED_DASH, LOST_DASH = "solid", "dash"
# Sign of a score: other hues than gained and lost, which mean another thing.
HELPS, HURTS = "#009E73", "#B0529A"
# An edge of one circuit only, and one that another circuit shown has too.
OWN, SHARED = "#B8860B", "#0072B2"
HEAT = "Cividis"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#B0529A", "#B8860B", "#56B4E9", "#5C636B")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
INK, MUTED, GRID = "#1C1F23", "#5C636B", "#E4E4DE"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_AXIS = {
    "automargin": True,
    "gridcolor": GRID,
    "linecolor": GRID,
    "zerolinecolor": GRID,
    "ticks": "",
    "title": {"font": {"size": 13}, "standoff": 10},
}
# The suffix keeps the tick labels off the title.
_BAR = {"thickness": 12, "outlinewidth": 0, "ticksuffix": " ", "title": {"side": "right"}}
TEMPLATE = go.layout.Template(
    data={"heatmap": [{"colorbar": _BAR}]},
    layout={
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": list(SERIES),
        "margin": {"l": 8, "r": 8, "t": 40, "b": 8},
        "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "coloraxis": {"colorbar": _BAR},
    },
)


def as_text(value: Any, limit: int = 48) -> str:
    """A foreign string as plotly text: plotly reads ``<b>``, ``&lt;`` and ``$x$`` as markup.

    It belongs into names, tick labels and ``customdata``, never into a hover *template*.
    """
    text = " ".join(str(value).split())
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return html.escape(short, quote=False).replace("$", "&#36;")


def number(value: float | None, digits: int = 2) -> str:
    """A number for a label; an en dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def empty_figure(message: str) -> go.Figure:
    """A figure that says in (our own) words why there is nothing to draw."""
    figure = go.Figure(layout={"template": TEMPLATE, "height": 120})
    figure.add_annotation(text=message, showarrow=False, font={"color": MUTED, "size": 13})
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)
