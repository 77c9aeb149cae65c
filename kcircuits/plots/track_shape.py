"""The shape of circuits over epochs as a figure: entropy and depth."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kcircuits.plots.lines import add_band, line_style
from kcircuits.plots.theme import (
    KEPT,
    MUTED,
    TEMPLATE,
    as_text,
    empty_figure,
    number,
)

Row = dict[str, Any]
_PANELS = {"entropy": "entropy (nats)", "depth": "depth (mean sender layer)"}


def shape_table(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Lines of entropy and depth by stratum: ``epoch, measure, value, low, high, noise, known``."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(row["stratum"], []).extend(
            {
                "epoch": row["epoch"],
                "measure": name,
                "value": row[name],
                "low": row[f"{name}_low"],
                "high": row[f"{name}_high"],
                "noise": row[f"{name}_noise"],
                "known": row["known"],
            }
            for name in _PANELS
        )
    return lines


def shape_figure(rows: Sequence[Row], depth_of_all: float | None = None) -> go.Figure:
    """Entropy and depth of circuits over epochs, one line a stratum, with 95% bands.

    Hovering tells by how much one fact's value differs between halves of its prompts.

    Args:
        rows: Of ``Track.rows``.
        depth_of_all: Mean sender layer over all edges of the model, drawn as a line.
    """
    lines = shape_table(rows)
    if not any(point["value"] is not None for points in lines.values() for point in points):
        return empty_figure("No fact is known at any epoch")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for panel, (name, title) in enumerate(_PANELS.items(), start=1):
        for i, (stratum, points) in enumerate(lines.items()):
            shown = [p for p in points if p["measure"] == name and p["value"] is not None]
            _add_line(figure, shown, i, as_text(stratum), panel)
        figure.update_yaxes(title_text=title, row=panel, col=1)
    if depth_of_all is not None:
        figure.add_hline(
            y=depth_of_all, row=2, col=1, line={"color": KEPT, "width": 1, "dash": "dot"},  # pyright: ignore[reportArgumentType]
            annotation={"text": "all edges of the model", "font": {"color": MUTED, "size": 11}},
        )  # fmt: skip
    # In training order, whichever stratum has the first value.
    epochs = list(dict.fromkeys(as_text(row["epoch"]) for row in rows))
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=epochs)
    figure.update_xaxes(title_text="epoch", row=2, col=1)
    return figure.update_layout(template=TEMPLATE, height=520, margin={"t": 40})


def _add_line(figure: go.Figure, points: Sequence[Row], i: int, label: str, panel: int) -> None:
    band = go.Figure()
    add_band(band, [{**point, "epoch": as_text(point["epoch"])} for point in points], i)
    for trace in band.data:
        figure.add_trace(trace, row=panel, col=1)
    figure.add_scatter(
        row=panel,
        col=1,
        x=[as_text(point["epoch"]) for point in points],
        y=[point["value"] for point in points],
        name=label,
        legendgroup=str(i),
        showlegend=panel == 1,
        customdata=[_shape_hover(label, point) for point in points],
        hovertemplate="%{customdata}<extra></extra>",
        **line_style(i),
    )


def _shape_hover(label: str, point: Row) -> str:
    interval = f" [{number(point['low'], 3)}, {number(point['high'], 3)}]"
    return (
        f"{label}, {as_text(point['epoch'])}: {point['measure']} {number(point['value'], 3)}"
        f"{interval if point['low'] is not None else ''}<br>halves of one fact's prompts differ by "
        f"{number(point['noise'], 3)}<br>mean over {point['known']} facts known"
    )
