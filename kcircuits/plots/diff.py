"""Change between two epochs: overlap between ceiling and chance, turnover, changed edges.

The input is the document that ``kcircuits diff --json`` prints.
"""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kcircuits.core.score_meaning import ScoreMeaning
from kcircuits.plots.theme import (
    GAINED,
    GAINED_DASH,
    KEPT,
    LOST,
    LOST_DASH,
    SERIES,
    TEMPLATE,
    as_text,
    empty_figure,
    number,
)

Row = dict[str, Any]
N_EDGES = 20
TURNOVER = SERIES[4]
VERDICTS = {"changed": "changed", "no-change": "no change", "undetermined": "cannot tell"}


def diff_table(document: Mapping[str, Any]) -> list[Row]:
    """The strata of a diff, in their order: the rows of the document as they are."""
    return [dict(row) for row in document["rows"]]


def edge_table(document: Mapping[str, Any], *, n_edges: int = N_EDGES) -> list[Row]:
    """The edges that changed most, largest |to - from| first.

    Returns:
        Rows ``fact, edge, from, to, status`` as in the document: mean scores, see
        ``ScoreMeaning``; status is ``gained``, ``lost`` or ``kept``.
    """
    rows = [dict(edge) for edge in document["edges"]]
    rows.sort(key=lambda row: (-abs(row["to"] - row["from"]), row["fact"], row["edge"]))
    return rows[:n_edges]


def diff_figure(table: list[Row]) -> go.Figure:
    """Draws ``diff_table``: above the Jaccard between chance and ceiling, below the turnover."""
    if not table:
        return empty_figure("No fact can be compared between these epochs")
    figure = make_subplots(rows=2, cols=1, vertical_spacing=0.3 / (1 + len(table) / 4))
    labels = [f"{as_text(row['stratum'])} ({row['facts']})" for row in table]
    for row, label in zip(table, labels, strict=True):
        figure.add_scatter(
            row=1,
            col=1,
            x=[row["chance"], row["ceiling"]],
            y=[label, label],
            mode="lines",
            line={"color": KEPT, "width": 6},
            opacity=0.45,
            hoverinfo="skip",
            showlegend=False,
        )
    for field, symbol, colour in (
        ("chance", "x-thin-open", KEPT),
        ("ceiling", "line-ns-open", KEPT),
        ("jaccard", "circle", GAINED),
    ):
        figure.add_scatter(
            row=1,
            col=1,
            x=[row[field] for row in table],
            y=labels,
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 24 if field == "ceiling" else 12,  # to be seen behind the dot
                "color": colour,
                "line": {"width": 2, "color": colour},
            },
            name={"ceiling": "noise ceiling", "jaccard": "Jaccard"}.get(field, field),
            hovertemplate=f"{field} %{{x:.3f}}<extra></extra>",
        )
    _add_turnover(figure, table, labels)
    figure.update_layout(template=TEMPLATE, height=220 + 72 * len(table), hovermode="closest")
    figure.update_yaxes(range=[len(table) - 0.5, -0.5], title={"text": "stratum (facts)"})
    figure.update_yaxes(type="category")
    figure.update_xaxes(title={"text": "Jaccard of circuits (0 to 1)"}, row=1, col=1)
    top = max((row[field] or 0.0 for row in table for field in ("jaccard", "ceiling")), default=1.0)
    figure.update_xaxes(range=[-0.03 * top, 1.05 * top], row=1, col=1)
    bounds = [row[f] for row in table for f in ("turnover_low", "turnover_high", "turnover")]
    shown = [-0.1, 0.5, *(bound for bound in bounds if bound is not None)]
    figure.update_xaxes(range=[min(shown) - 0.02, max(shown) + 0.02], row=2, col=1)
    return figure.update_xaxes(title={"text": "turnover τ (0 none, 1 chance)"}, row=2, col=1)


def _add_turnover(figure: go.Figure, table: list[Row], labels: list[str]) -> None:
    def reach(row: Row, bound: str) -> float | None:
        if row["turnover"] is None or row[bound] is None:
            return None
        return abs(row[bound] - row["turnover"])

    figure.add_scatter(
        row=2,
        col=1,
        x=[row["turnover"] for row in table],
        y=labels,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [reach(row, "turnover_high") for row in table],
            "arrayminus": [reach(row, "turnover_low") for row in table],
            "color": TURNOVER,
            "thickness": 2,
        },
        mode="markers",
        marker={"symbol": "diamond", "size": 10, "color": TURNOVER},
        name="turnover with interval",
        customdata=[
            f"τ {number(row['turnover'])} ({number(row['turnover_low'])} to "
            f"{number(row['turnover_high'])}): {VERDICTS.get(row['verdict'], 'cannot tell')}"
            for row in table
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.add_vline(x=0, line={"color": KEPT, "width": 1}, row=2, col=1)  # pyright: ignore[reportArgumentType]


def edge_figure(table: list[Row], *, start: str, stop: str, meaning: ScoreMeaning) -> go.Figure:
    """Draws ``edge_table`` as dumbbells: a ring at the first epoch, a dot at the second."""
    if not table:
        return empty_figure("No edge changed between these epochs")
    n_facts = len({row["fact"] for row in table})
    labels = [
        as_text(row["edge"]) + (f"  {as_text(row['fact'])}" if n_facts > 1 else "") for row in table
    ]
    figure = go.Figure(layout=_edge_layout(labels, meaning))
    for status, colour, dash in (
        ("gained", GAINED, GAINED_DASH),
        ("lost", LOST, LOST_DASH),
        ("kept", KEPT, "solid"),
    ):
        rows = [(row, y) for row, y in zip(table, labels, strict=True) if row["status"] == status]
        if not rows:
            continue
        figure.add_scatter(
            x=[x for row, _ in rows for x in (row["from"], row["to"], None)],
            y=[y for _, label in rows for y in (label, label, None)],
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            marker={
                "symbol": ["circle-open", "circle", "circle"] * len(rows),
                "size": 9,
                "color": colour,
            },
            name=status,
            customdata=[
                f"{label}<br>{meaning.name} {number(row['from'], 3)} at {as_text(start)} → "
                f"{number(row['to'], 3)} at {as_text(stop)}"
                for row, label in rows
                for _ in range(3)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    return figure


def _edge_layout(labels: list[str], meaning: ScoreMeaning) -> dict[str, Any]:
    return {
        "template": TEMPLATE,
        "height": 110 + 24 * len(labels),
        "hovermode": "closest",
        "showlegend": True,
        "xaxis": {
            "title": {"text": meaning.axis},
            "zeroline": True,
        },
        "yaxis": {
            "title": {"text": "edge"},
            "type": "category",
            "categoryorder": "array",
            "categoryarray": labels,
            "autorange": "reversed",
            "showgrid": False,
        },
    }
