"""Overlap between facts at one epoch, and of the same facts between runs or methods.

Each figure takes the document that ``kcircuits overlap --facts-at`` or ``--with`` prints.
"""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kcircuits.plots.theme import (
    HEAT,
    KEPT,
    SERIES,
    SYMBOLS,
    TEMPLATE,
    as_text,
    empty_figure,
    number,
)

Row = dict[str, Any]
NAMED_UP_TO = 60  # facts whose names can be read along an axis
GAPS_UP_TO = 150
MAX_SIZE = 900


def facts_table(document: Mapping[str, Any]) -> list[Row]:
    """One row per pair of facts, in the order of the tree.

    Returns:
        Rows ``fact, other, shared, stratum, other_stratum, cluster, other_cluster``; ``shared`` is
        1 for a fact with itself and None where there is no number.
    """
    facts = {row["fact"]: row for row in document["facts"]}
    place = {row["fact"]: i for i, row in enumerate(document["facts"])}
    return [
        {
            "fact": one,
            "other": other,
            "shared": document["shared"][place[one]][place[other]],
            "stratum": facts[one]["stratum"],
            "other_stratum": facts[other]["stratum"],
            "cluster": facts[one]["cluster"],
            "other_cluster": facts[other]["cluster"],
        }
        for one in document["order"]
        for other in document["order"]
    ]


def facts_figure(table: list[Row], *, by: str) -> go.Figure:
    """Draws ``facts_table`` as a heat map with a strip of strata above it.

    Args:
        table: The rows.
        by: What the strata are.
    """
    names = list(dict.fromkeys(row["fact"] for row in table))
    n = len(names)
    if n < 2:
        return empty_figure("There are no two facts to compare")
    lines = [table[i * n : (i + 1) * n] for i in range(n)]
    figure = make_subplots(
        rows=2, cols=1, row_heights=[0.04, 0.96], vertical_spacing=0.01, shared_xaxes=True
    )
    _add_strip(figure, [line[0] for line in lines])
    values = [[row["shared"] for row in line] for line in lines]
    off = [row["shared"] for row in table if row["shared"] is not None and not _is_own(row)]
    figure.add_heatmap(
        row=2,
        col=1,
        x=list(range(n)),
        y=list(range(n)),
        z=values,
        zmin=min([1.0, *off]),
        zmax=max([1.0, *off]),
        colorscale=HEAT,
        xgap=1 if n <= GAPS_UP_TO else 0,
        ygap=1 if n <= GAPS_UP_TO else 0,
        customdata=[[_pair_text(row) for row in line] for line in lines],
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={"title": {"text": "shared (0 chance, 1 as one fact)"}},
    )
    size = min(MAX_SIZE, 240 + 18 * n)
    figure.update_layout(template=TEMPLATE, height=size, showlegend=True)
    labels = {"tickvals": list(range(n)), "ticktext": [as_text(name, 28) for name in names]}
    shown = labels if n <= NAMED_UP_TO else {"showticklabels": False}
    figure.update_xaxes(showgrid=False, showticklabels=False, row=1, col=1)
    figure.update_xaxes(
        title_text="fact, like circuits side by side", showgrid=False, row=2, col=1, **shown
    )
    figure.update_yaxes(visible=False, row=1, col=1)
    return figure.update_yaxes(
        title_text=f"fact (strip: {as_text(by)})", autorange="reversed", showgrid=False, row=2,
        col=1, **shown,
    )  # fmt: skip


def runs_table(document: Mapping[str, Any]) -> list[Row]:
    """The rows of the document as they are: one per epoch and stratum."""
    return [dict(row) for row in document["rows"]]


def runs_figure(table: list[Row]) -> go.Figure:
    """Draws ``runs_table``: Jaccard, turnover, and how much more facts share with themselves.

    One line per stratum; the first panel shows the ceiling as a bar and chance as a dotted line.
    """
    if not any(row["facts"] for row in table):
        return empty_figure("No fact is known in both")
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    strata = list(dict.fromkeys(row["stratum"] for row in table))
    for i, stratum in enumerate(strata):
        rows = [row for row in table if row["stratum"] == stratum]
        style = {"color": SERIES[i % len(SERIES)], "symbol": SYMBOLS[i % len(SYMBOLS)]}
        _add_jaccard(figure, rows, style, is_first=i == 0)
        for panel, field in ((2, "turnover"), (3, "own_more")):
            _add_interval(figure, panel, rows, field, style)
    figure.update_layout(template=TEMPLATE, height=720, hovermode="closest")
    titles = ("Jaccard of circuits", "turnover τ (0 none, 1 chance)", "more with itself (shared)")
    for panel, title in enumerate(titles, start=1):
        figure.update_yaxes(title_text=title, rangemode="tozero", row=panel, col=1)
    return figure.update_xaxes(title_text="epoch", type="category", row=3, col=1)


def _add_strip(figure: go.Figure, rows: list[Row]) -> None:
    """The stratum of each fact, one colour each, as bars without gaps; a legend names them."""
    strata = sorted({row["stratum"] for row in rows})
    for i, stratum in enumerate(strata):
        places = [x for x, row in enumerate(rows) if row["stratum"] == stratum]
        figure.add_bar(
            row=1,
            col=1,
            x=places,
            y=[1] * len(places),
            width=1,
            name=as_text(stratum),
            marker={
                "color": SERIES[i % len(SERIES)],
                "line": {"width": 0},
                "pattern": {"shape": ("", "/", ".", "x")[i // len(SERIES) % 4]},
            },
            customdata=[f"{as_text(rows[x]['fact'])}<br>{as_text(stratum)}" for x in places],
            hovertemplate="%{customdata}<extra></extra>",
        )


def _add_jaccard(
    figure: go.Figure, rows: list[Row], style: Mapping[str, str], *, is_first: bool
) -> None:
    label, colour = as_text(rows[0]["stratum"]), style["color"]
    ceiling = {"symbol": "line-ew-open", "size": 16, "color": colour, "line": {"width": 3}}
    drawn: dict[str, dict[str, Any]] = {
        "jaccard": {"mode": "lines+markers", "marker": {**style, "size": 8}, "name": label},
        "ceiling": {"mode": "markers", "marker": ceiling, "name": "noise ceiling"},
        "chance": {"mode": "lines", "line": {"color": KEPT, "dash": "dot"}, "name": "chance"},
    }
    for field, look in drawn.items():
        is_line = field == "jaccard"
        figure.add_scatter(
            row=1,
            col=1,
            x=[row["epoch"] for row in rows],
            y=[row[field] for row in rows],
            legendgroup=label if is_line else field,
            showlegend=is_line or is_first,
            customdata=[_run_text(row) for row in rows],
            hovertemplate="%{customdata}<extra></extra>",
            **look,
        )


def _add_interval(
    figure: go.Figure, panel: int, rows: list[Row], field: str, style: Mapping[str, str]
) -> None:
    """A number with its interval over epochs."""

    def reach(row: Row, bound: str) -> float | None:
        value, end = row[field], row[f"{field}_{bound}"]
        return None if value is None or end is None else abs(end - value)

    figure.add_scatter(
        row=panel,
        col=1,
        x=[row["epoch"] for row in rows],
        y=[row[field] for row in rows],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [reach(row, "high") for row in rows],
            "arrayminus": [reach(row, "low") for row in rows],
            "thickness": 2,
        },
        mode="lines+markers",
        marker={**style, "size": 8},
        name=as_text(rows[0]["stratum"]),
        legendgroup=as_text(rows[0]["stratum"]),
        showlegend=False,
        customdata=[_run_text(row) for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _run_text(row: Row) -> str:
    def with_interval(field: str) -> str:
        low, high = number(row[f"{field}_low"]), number(row[f"{field}_high"])
        return f"{number(row[field])} ({low} to {high})"

    return (
        f"{as_text(row['epoch'])}, {as_text(row['stratum'])}, {row['facts']} facts<br>"
        f"Jaccard {number(row['jaccard'], 3)}, ceiling {number(row['ceiling'], 3)}, "
        f"chance {number(row['chance'], 3)}<br>turnover {with_interval('turnover')}<br>"
        f"{as_text(row['reason'], 90)}<br>with itself {number(row['own'])}, with other facts of "
        f"its relation {number(row['others'])}<br>more {with_interval('own_more')}, "
        f"p {number(row['own_p'], 3)}"
    )


def _is_own(row: Row) -> bool:
    return row["fact"] == row["other"]


def _pair_text(row: Row) -> str:
    ends = [
        f"{as_text(row[name])} ({as_text(row[stratum])}"
        + (f", group {row[cluster]})" if row[cluster] is not None else ")")
        for name, stratum, cluster in (
            ("fact", "stratum", "cluster"),
            ("other", "other_stratum", "other_cluster"),
        )
    ]
    return f"{ends[0]}<br>{ends[1]}<br>shared {number(row['shared'])}"
