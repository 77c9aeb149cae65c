"""Faithfulness of circuits: fact by fact beside random circuits, and over circuit sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kcircuits.plots.theme import GAINED, KEPT, LOST, TEMPLATE, as_text, empty_figure, number

Row = dict[str, Any]
BASELINE_SYMBOLS = ("x-thin", "line-ns", "diamond-open")


def faithfulness_figure(table: Sequence[Row], baselines: Mapping[str, str]) -> go.Figure:
    """One line per fact: its faithfulness with interval, and that of random circuits.

    Args:
        table: Rows ``fact, faithfulness, low, high`` and one number for each baseline; rows
            without a faithfulness are left out.
        baselines: Labels of the baselines by their field.
    """
    rows = [row for row in table if row["faithfulness"] is not None]
    if not rows:
        return empty_figure("The model knows no fact well enough to judge its circuit")
    labels = [as_text(row["fact"]) for row in rows]
    figure = go.Figure(layout=_facts_layout(labels))
    for (field, label), symbol in zip(baselines.items(), BASELINE_SYMBOLS, strict=False):
        figure.add_scatter(
            x=[row[field] for row in rows],
            y=labels,
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 9,
                "color": KEPT,
                "line": {"width": 2, "color": KEPT},
            },
            name=f"{label} (mean)",
            hovertemplate=f"{label}: %{{x:.2f}}<extra></extra>",
        )
    figure.add_scatter(
        x=[row["faithfulness"] for row in rows],
        y=labels,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [_reach(row, "high") for row in rows],
            "arrayminus": [_reach(row, "low") for row in rows],
            "color": GAINED,
            "thickness": 2,
            "width": 3,
        },
        mode="markers",
        marker={"size": 9, "color": GAINED},
        name="circuit, with interval over prompts",
        customdata=[
            f"{label}: faithfulness {number(row['faithfulness'])} "
            f"({number(row['low'])} to {number(row['high'])})"
            for row, label in zip(rows, labels, strict=True)
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )
    for value in (0, 1):
        figure.add_vline(x=value, line={"color": KEPT, "width": 1})
    return figure


def curve_figure(table: Sequence[Row], pooled: Mapping[str, Sequence[float | None]]) -> go.Figure:
    """Faithfulness over circuit size: a thin line per fact, thick lines for all facts together.

    Args:
        table: Rows ``fact, size, n_edges, faithfulness``; size is a share of all edges; rows
            without a faithfulness are left out.
        pooled: Faithfulness of all facts at each size in turn, by what it is.
    """
    rows = [row for row in table if row["faithfulness"] is not None]
    if not rows:
        return empty_figure("The model knows no fact well enough to judge its circuits")
    sizes = [100 * size for size in dict.fromkeys(row["size"] for row in rows)]
    figure = go.Figure(layout=_curve_layout(rows))
    for i, fact in enumerate(dict.fromkeys(row["fact"] for row in rows)):
        own = [row for row in rows if row["fact"] == fact]
        figure.add_scatter(
            x=sizes,
            y=[row["faithfulness"] for row in own],
            mode="lines",
            line={"color": KEPT, "width": 1},
            opacity=0.55,
            name="one fact each",
            legendgroup="facts",
            showlegend=i == 0,
            customdata=[[as_text(fact), row["n_edges"]] for row in own],
            hovertemplate="%{customdata[0]}: %{y:.2f} with %{customdata[1]} edges<extra></extra>",
        )
    for (label, values), colour, dash in zip(
        pooled.items(), (GAINED, LOST), ("solid", "dash"), strict=False
    ):
        figure.add_scatter(
            x=sizes,
            y=list(values),
            mode="lines+markers",
            line={"color": colour, "width": 3, "dash": dash},
            marker={"size": 7, "color": colour},
            name=label,
            hovertemplate=f"{label}: %{{y:.3f}} at %{{x:g}}% of the edges<extra></extra>",
        )
    figure.add_hline(y=1, line={"color": KEPT, "width": 1})
    return figure


def _reach(row: Row, end: str) -> float | None:
    return None if row[end] is None else abs(row[end] - row["faithfulness"])


def _facts_layout(labels: list[str]) -> dict[str, Any]:
    return {
        "template": TEMPLATE,
        "height": 130 + 24 * len(labels),
        "hovermode": "closest",
        "xaxis": {"title": {"text": "faithfulness (1: the model)"}, "zeroline": False},
        "yaxis": {
            "title": {"text": "fact"},
            "type": "category",
            "categoryorder": "array",
            "categoryarray": labels,
            "autorange": "reversed",
        },
    }


def _curve_layout(rows: Sequence[Row]) -> dict[str, Any]:
    values = [row["faithfulness"] for row in rows]
    # A circuit without edges that matter can be far off; the eye needs the range around 0 to 1.
    low, high = max(min(*values, 0.0), -1.0), min(max(*values, 1.0), 2.0)
    return {
        "template": TEMPLATE,
        "height": 440,
        "hovermode": "closest",
        "xaxis": {
            "title": {"text": "edges chosen (% of all)"},
            "type": "log",
            "tickvals": [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100],
        },
        "yaxis": {
            "title": {"text": "faithfulness (1: the model)"},
            "range": [low - 0.05, high + 0.05],
        },
    }
