"""Lenses over epochs: the answer layer by layer, where its logit comes from, heads and their roles.

The inputs are rows of ``study.lenses.lenses.RunLenses``.
"""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kcircuits.analysis.roles import ROLES
from kcircuits.core.lenses import GROUPS
from kcircuits.plots.theme import (
    DASHES,
    HEAT,
    INK,
    KEPT,
    SERIES,
    SYMBOLS,
    TEMPLATE,
    as_text,
    empty_figure,
    number,
)

Row = dict[str, Any]
# What heads read, then what is no head's.
PARTS = (*GROUPS, "mlps", "embedding", "constant")
_COLOURS = dict(zip(PARTS, (*SERIES[:3], KEPT, *SERIES[3:6]), strict=True))
_PATTERNS = dict(zip(PARTS, ("", "/", "\\", "", "x", ".", "+"), strict=True))
# Probabilities below this look alike: a token that is as good as never said.
_FLOOR = 1e-6


def lens_figure(rows: Sequence[Row], *, quantity: str = "prob") -> go.Figure:
    """A heat map of the logit lens: epochs from left to right, layers from bottom to top.

    Args:
        rows: ``lens_rows`` of one stratum.
        quantity: ``prob`` or ``rank``, both on a logarithmic scale.
    """
    if not rows:
        return empty_figure("No epoch has lenses yet")
    epochs = list(dict.fromkeys(row["epoch"] for row in rows))
    n_depths = len(rows) // len(epochs)
    grid = [[rows[e * n_depths + d] for e in range(len(epochs))] for d in range(n_depths)]
    is_prob = quantity == "prob"

    def shade(row: Row) -> float:
        return math.log10(max(row["prob"], _FLOOR)) if is_prob else math.log10(row["rank"])

    ticks = list(range(-6, 1)) if is_prob else list(range(7))
    figure = go.Figure(layout=_lens_layout(n_depths))
    figure.add_heatmap(
        x=[as_text(epoch) for epoch in epochs],
        y=[line[0]["after"] for line in grid],
        z=[[shade(row) for row in line] for line in grid],
        colorscale=HEAT if is_prob else f"{HEAT}_r",
        zmin=ticks[0] if is_prob else 0,
        zmax=0 if is_prob else None,
        xgap=1,
        customdata=[[_lens_hover(row) for row in line] for line in grid],
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={
            "title": {"text": "probability" if is_prob else "rank (geometric mean)"},
            "tickvals": ticks,
            "ticktext": [f"{10.0**tick:g}" for tick in ticks],
        },
    )
    return figure


def parts_figure(rows: Sequence[Row]) -> go.Figure:
    """Stacked bars: what adds up to the answer's logit at each epoch.

    Args:
        rows: ``part_rows`` of one stratum.
    """
    if not rows:
        return empty_figure("No epoch has lenses yet")
    epochs = [as_text(row["epoch"]) for row in rows]
    figure = go.Figure(layout=_bars_layout(420, "epoch", "logits above the vocabulary's mean"))
    for part in PARTS:
        label = f"heads reading {part}" if part in GROUPS else part
        figure.add_bar(
            x=epochs,
            y=[row[part] for row in rows],
            name=label,
            marker={"color": _COLOURS[part], "pattern": {"shape": _PATTERNS[part]}},
            hovertemplate=f"{label} %{{y:+.2f}}<extra></extra>",
        )
    figure.add_scatter(
        x=epochs,
        y=[row["total"] for row in rows],
        mode="markers",
        marker={"symbol": "diamond-open", "size": 10, "color": INK, "line": {"width": 2}},
        name="all together",
        hovertemplate="all together %{y:+.2f}<extra></extra>",
    )
    return figure


def heads_figure(rows: Sequence[Row]) -> go.Figure:
    """Stacked bars of the strongest heads, by what they read; a dot with interval is the whole.

    Args:
        rows: ``head_rows`` of one epoch.
    """
    if not rows:
        return empty_figure("No head contributes")
    heads = [f"{row['head']}  {row['role'] or 'no role'}" for row in rows]
    layout = _bars_layout(130 + 26 * len(rows), "contribution (logits)", "head")
    layout["yaxis"] |= {"type": "category", "autorange": "reversed"}
    figure = go.Figure(layout=layout)
    for group in GROUPS:
        figure.add_bar(
            x=[row[group] for row in rows],
            y=heads,
            orientation="h",
            name=f"reading {group}",
            marker={"color": _COLOURS[group], "pattern": {"shape": _PATTERNS[group]}},
            hovertemplate=f"reading {group} %{{x:+.3f}}<extra></extra>",
        )
    figure.add_scatter(
        x=[row["contribution"] for row in rows],
        y=heads,
        error_x=_error_bars(rows, "contribution"),
        mode="markers",
        marker={"symbol": "diamond-open", "size": 9, "color": INK, "line": {"width": 2}},
        name="whole, with interval",
        customdata=[
            f"{label}: {number(row['contribution'])} ({number(row['low'])} to "
            f"{number(row['high'])})<br>target − foil {number(row['difference'])}<br>attention to "
            f"subject {number(row['attention_subject'])}, to relation "
            f"{number(row['attention_relation'])}"
            for row, label in zip(rows, heads, strict=True)
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )
    return figure


def role_map_figure(rows: Sequence[Row]) -> go.Figure:
    """Three heat maps, layer by head: in which share of the facts a head has each role.

    Args:
        rows: ``role_map_rows`` of one epoch.
    """
    if not rows:
        return empty_figure("No prompt has tokens of both subject and relation")
    n_heads = 1 + max(row["head"] for row in rows)
    lines = [rows[start : start + n_heads] for start in range(0, len(rows), n_heads)]
    figure = make_subplots(rows=1, cols=3, subplot_titles=ROLES, shared_yaxes=True)
    for column, role in enumerate(ROLES, start=1):
        figure.add_heatmap(
            row=1,
            col=column,
            x=list(range(n_heads)),
            y=list(range(len(lines))),
            z=[[row[role] for row in line] for line in lines],
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            customdata=[
                [
                    f"a{row['layer']}.h{row['head']}: {role} in {row[role]:.0%} of the facts"
                    f"<br>contribution {number(row['contribution'])} logits"
                    for row in line
                ]
                for line in lines
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.update_xaxes(title={"text": "head"}, showgrid=False)
    figure.update_yaxes(title={"text": "layer"}, showgrid=False, col=1)
    return figure.update_layout(
        template=TEMPLATE,
        height=140 + 13 * max(len(lines), 12),
        coloraxis={
            "colorscale": HEAT,
            "cmin": 0,
            "cmax": 1,
            "colorbar": {"title": {"text": "share of facts"}, "tickformat": ".0%"},
        },
    )


def roles_figure(rows: Sequence[Row]) -> go.Figure:
    """Heads per fact of each role over epochs, and how many of them replicate beside chance.

    Args:
        rows: ``role_rows`` of one stratum.
    """
    if not rows:
        return empty_figure("No prompt has tokens of both subject and relation")
    titles = ("heads per fact, by all prompts", "in both halves of the prompts (× chance)")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, shared_yaxes=True)
    for i, role in enumerate(ROLES):
        own = [row for row in rows if row["role"] == role]
        style = {
            "x": [as_text(row["epoch"]) for row in own],
            "mode": "lines+markers",
            "line": {"color": SERIES[i], "dash": DASHES[i], "width": 2},
            "marker": {"symbol": SYMBOLS[i], "size": 8, "color": SERIES[i]},
            "legendgroup": role,
        }
        figure.add_scatter(
            row=1,
            col=1,
            y=[row["heads"] for row in own],
            error_y=_error_bars(own, "heads"),
            name=role,
            hovertemplate=f"{role} %{{y:.2f}}<extra></extra>",
            **style,
        )
        figure.add_scatter(
            row=1,
            col=2,
            y=[row["replicated"] for row in own],
            name=role,
            showlegend=False,
            hovertemplate=f"{role}, replicated %{{y:.2f}}<extra></extra>",
            **style,
        )
        figure.add_scatter(
            row=1,
            col=2,
            x=style["x"],
            y=[row["chance"] for row in own],
            mode="markers",
            marker={"symbol": "x-thin", "size": 8, "line": {"width": 2, "color": SERIES[i]}},
            name=f"{role}, chance",
            showlegend=False,
            hovertemplate=f"{role}, chance %{{y:.2f}}<extra></extra>",
        )
    figure.update_xaxes(title={"text": "epoch"}, type="category")
    figure.update_yaxes(title={"text": "heads per fact"}, rangemode="tozero", col=1)
    return figure.update_layout(template=TEMPLATE, height=380, legend={"y": 1.1})


def _error_bars(rows: Sequence[Row], field: str) -> dict[str, Any]:
    def reach(row: Row, end: str) -> float | None:
        if row[end] is None or row[field] is None:
            return None
        return abs(row[end] - row[field])

    return {
        "type": "data",
        "symmetric": False,
        "array": [reach(row, "high") for row in rows],
        "arrayminus": [reach(row, "low") for row in rows],
        "thickness": 2,
        "width": 3,
    }


def _lens_hover(row: Row) -> str:
    return (
        f"{as_text(row['epoch'])}, {row['after']}: probability {row['prob']:.3g}, rank "
        f"{row['rank']:.1f}<br>log-probability {number(row['logprob'])} ({number(row['low'])} to "
        f"{number(row['high'])}) nats, {row['facts']} facts"
    )


def _lens_layout(n_depths: int) -> dict[str, Any]:
    return {
        "template": TEMPLATE,
        "height": 140 + 15 * max(n_depths, 12),
        "margin": {"t": 12},
        "xaxis": {"type": "category", "showgrid": False, "title": {"text": "epoch"}},
        "yaxis": {
            "type": "category",
            "showgrid": False,
            "title": {"text": "residual stream after"},
            "tickfont": {"size": 10},
        },
    }


def _bars_layout(height: int, x: str, y: str) -> dict[str, Any]:
    return {
        "template": TEMPLATE,
        "height": height,
        "barmode": "relative",
        "hovermode": "closest",
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
    }
