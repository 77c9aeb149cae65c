"""A study of circuits as figures: differences beside their noise, settling, all facts together."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kcircuits.plots.theme import (
    DASHES,
    KEPT,
    MUTED,
    SERIES,
    SYMBOLS,
    TEMPLATE,
    as_text,
    empty_figure,
)

Row = dict[str, Any]
_PARTS = {
    "apparent": "same prompts: 1 − Jaccard",
    "differs": "other prompts: 1 − k_st",
    "noise": "of it noise: 1 − ceiling",
}


def noise_figure(rows: Sequence[Row]) -> go.Figure:
    """What differs from each epoch to the next, and how much of it halves of one epoch differ by.

    Args:
        rows: Rows ``from, to, apparent, differs, noise, noise_share, noise_share_low,
            noise_share_high, steps``.
    """
    shown = [row for row in rows if row["differs"] is not None]
    if not shown:
        return empty_figure("No fact has circuits at two epochs")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    steps = [f"{as_text(row['from'])} → {as_text(row['to'])}" for row in shown]
    counts = [row["steps"] for row in shown]
    for i, (name, label) in enumerate(_PARTS.items()):
        figure.add_scatter(
            row=1,
            col=1,
            x=steps,
            y=[row[name] for row in shown],
            name=label,
            mode="lines+markers",
            line={"color": KEPT if name == "noise" else SERIES[i], "dash": DASHES[i]},
            marker={"symbol": SYMBOLS[i], "size": 8},
            customdata=counts,
            hovertemplate="%{x}<br>%{y:.3f}, %{customdata} facts<extra></extra>",
        )
    figure.add_scatter(
        row=2,
        col=1,
        x=steps,
        y=[row["noise_share"] for row in shown],
        error_y=_reach(shown, "noise_share"),
        name="share of noise",
        mode="markers",
        marker={"color": SERIES[2], "symbol": SYMBOLS[2], "size": 9},
        customdata=counts,
        hovertemplate="%{x}<br>%{y:.3f}, %{customdata} facts<extra></extra>",
    )
    figure.add_hline(y=1, row=2, col=1, line={"color": MUTED, "width": 1})  # type: ignore[arg-type]
    figure.update_yaxes(title_text="difference", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="share of noise", rangemode="tozero", row=2, col=1)
    return figure.update_layout(template=TEMPLATE, height=520)


def settling_figure(rows: Sequence[Row]) -> go.Figure:
    """Turnover, births and deaths by steps since a fact was acquired.

    Args:
        rows: Rows of ``Track.settling``.
    """
    shown = [row for row in rows if row["group"] != "never known"]
    if not shown:
        return empty_figure("No fact is known at two epochs in a row")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for i, group in enumerate(dict.fromkeys(row["group"] for row in shown)):
        mine = [row for row in shown if row["group"] == group]
        style = {"color": SERIES[i], "dash": DASHES[i]}
        for panel, name in ((1, "turnover"), (2, "births")):
            figure.add_scatter(
                row=panel,
                col=1,
                x=[row["step"] for row in mine],
                y=[row[name] for row in mine],
                error_y=_reach(mine, name),
                name=as_text(group),
                legendgroup=group,
                showlegend=panel == 1,
                mode="lines+markers",
                line=style,
                marker={"symbol": SYMBOLS[i], "size": 8},
                customdata=[row["facts"] for row in mine],
                hovertemplate="%{x} steps after: %{y:.3f}, %{customdata} facts<extra></extra>",
            )
    figure.add_hline(y=0, row=1, col=1, line={"color": MUTED, "width": 1})  # type: ignore[arg-type]
    figure.update_xaxes(title_text="steps since the fact was first known", dtick=1, row=2, col=1)
    figure.update_yaxes(title_text="turnover τ", row=1, col=1)
    figure.update_yaxes(title_text="edges born per fact", rangemode="tozero", row=2, col=1)
    return figure.update_layout(template=TEMPLATE, height=520)


def dataset_figure(rows: Sequence[Row]) -> go.Figure:
    """One circuit for all facts: Jaccard with the first epoch, and turnover beyond noise.

    Args:
        rows: Rows of one budget, each against the first epoch: ``seed, to, jaccard, turnover`` with
            its interval.
    """
    if not rows:
        return empty_figure("There are no epochs to compare")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for i, seed in enumerate(dict.fromkeys(row["seed"] for row in rows)):
        mine = [row for row in rows if row["seed"] == seed]
        for panel, name in ((1, "jaccard"), (2, "turnover")):
            figure.add_scatter(
                row=panel,
                col=1,
                x=[as_text(row["to"]) for row in mine],
                y=[row[name] for row in mine],
                error_y=_reach(mine, name) if name == "turnover" else None,
                name=f"training seed {as_text(seed)}",
                legendgroup=seed,
                showlegend=panel == 1,
                mode="lines+markers",
                line={"color": SERIES[i % len(SERIES)], "dash": DASHES[i % len(DASHES)]},
                marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
                hovertemplate="%{x}: %{y:.3f}<extra></extra>",
            )
    figure.update_yaxes(title_text="Jaccard with the first", range=[0, 1], row=1, col=1)
    figure.update_yaxes(title_text="turnover τ", rangemode="tozero", row=2, col=1)
    return figure.update_layout(template=TEMPLATE, height=480)


def _reach(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """Error bars; none where there is no interval."""

    def ends(low: str, high: str) -> list[float]:
        pairs = [(row[low], row[high]) for row in rows]
        return [0.0 if a is None or b is None else b - a for a, b in pairs]

    return {
        "array": ends(name, f"{name}_high"),
        "arrayminus": ends(f"{name}_low", name),
        "thickness": 1,
        "width": 3,
    }
