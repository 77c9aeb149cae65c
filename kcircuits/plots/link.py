"""The link of turnover and forgetting: steps, strata, the exchange null, and edges.

Each function takes rows of ``study.link.link.Link``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from kcircuits.plots.theme import (
    GAINED,
    GRID,
    KEPT,
    LOST,
    MUTED,
    TEMPLATE,
    as_text,
    empty_figure,
    number,
)

Row = dict[str, Any]
N_BINS = 41
# Colour and symbol of what a step is followed by, and its place beside the step's tick.
_OUTCOMES = {"forgotten": (LOST, "diamond", 0.08), "retained": (GAINED, "circle", -0.08)}


def steps_figure(rows: Sequence[Row]) -> go.Figure:
    """Turnover of each step, of facts that are forgotten next and of those that are retained.

    Args:
        rows: ``from, to, outcome, fact_steps, entities, turnover`` with ``_low`` and ``_high``.
    """
    shown = [row for row in rows if row["turnover"] is not None]
    if not shown:
        return empty_figure("No fact is known at two epochs that another one follows")
    steps = list(dict.fromkeys((row["from"], row["to"]) for row in rows))
    figure = go.Figure(layout={"template": TEMPLATE, "height": 380})
    for outcome, (colour, symbol, shift) in _OUTCOMES.items():
        own = [row for row in shown if row["outcome"] == outcome]
        figure.add_scatter(
            x=[steps.index((row["from"], row["to"])) + shift for row in own],
            y=[row["turnover"] for row in own],
            error_y=_bars(own, "turnover", colour),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 10},
            name=f"{outcome} at the next epoch",
            customdata=[
                f"{as_text(row['from'])} → {as_text(row['to'])}, {outcome} next"
                f"<br>turnover τ {number(row['turnover'])}{_range(row, 'turnover')}"
                f"<br>{row['fact_steps']} facts about {row['entities']} entities"
                for row in own
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": MUTED, "width": 1})
    figure.update_xaxes(
        title_text="step",
        tickvals=list(range(len(steps))),
        ticktext=[f"{as_text(start)} → {as_text(stop)}" for start, stop in steps],
        range=[-0.5, len(steps) - 0.5],
        showgrid=False,
    )
    return figure.update_yaxes(title_text="turnover τ (0 none, 1 chance)")


def strata_figure(rows: Sequence[Row], label: str) -> go.Figure:
    """AUROC of turnover before forgetting, adjusted (dot) and not (ring), of strata and seeds.

    Args:
        rows: ``auroc`` and ``auroc_raw`` with ``_low`` and ``_high``, ``forgotten``, ``at_risk``.
        label: Name of the field that names the rows.
    """
    shown = [row for row in rows if row["auroc"] is not None]
    if not shown:
        return empty_figure("Forgotten and retained facts never meet in one step")
    names = [as_text(row[label]) for row in shown]
    figure = go.Figure(layout={"template": TEMPLATE, "height": 150 + 46 * len(shown)})
    for field, said, symbol, colour in (
        ("auroc_raw", "within steps", "circle-open", KEPT),
        ("auroc", "adjusted", "circle", GAINED),
    ):
        own = [
            (row, name) for row, name in zip(shown, names, strict=True) if row[field] is not None
        ]
        figure.add_scatter(
            x=[row[field] for row, _ in own],
            y=[name for _, name in own],
            error_x=_bars([row for row, _ in own], field, colour),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2}},
            name=said,
            customdata=[
                f"{name}: AUROC {said} {number(row[field])}{_range(row, field)}"
                f"<br>{row['forgotten']} forgotten of {row['at_risk']} fact-steps at risk"
                for row, name in own
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.add_vline(x=0.5, line={"color": MUTED, "width": 1})
    figure.update_xaxes(title_text="AUROC of turnover before forgetting (.5 is no link)")
    return figure.update_yaxes(type="category", autorange="reversed", gridcolor=GRID)


def null_table(null: Float[np.ndarray, " permutation"], z: float) -> list[Row]:
    """How often exchanged trajectories give which statistic: rows ``low, high, count``."""
    if not len(null) or not np.isfinite([*null, z]).all():
        return []
    reach = 1.05 * max(float(np.abs(null).max()), abs(z), 1.0)
    counts, ends = np.histogram(null, bins=N_BINS, range=(-reach, reach))
    return [
        {"low": low, "high": high, "count": count}
        for low, high, count in zip(
            ends[:-1].tolist(), ends[1:].tolist(), counts.tolist(), strict=True
        )
    ]


def null_figure(table: Sequence[Row], z: float, p: float) -> go.Figure:
    """Draws ``null_table`` with the observed statistic and its p."""
    if not table:
        return empty_figure("There is nothing to test")
    figure = go.Figure(layout={"template": TEMPLATE, "height": 320, "bargap": 0.04})
    figure.add_bar(
        x=[(row["low"] + row["high"]) / 2 for row in table],
        y=[row["count"] for row in table],
        width=[row["high"] - row["low"] for row in table],
        marker={"color": KEPT},
        name="trajectories exchanged",
        hovertemplate="z near %{x:.2f}: %{y} exchanges<extra></extra>",
    )
    top = max(row["count"] for row in table)
    figure.add_scatter(
        x=[z, z],
        y=[0, top],
        mode="lines",
        line={"color": LOST, "width": 3},
        name=f"observed: z {number(z)}, p {number(p, 4)}",
        hovertemplate=f"observed z {number(z)}<extra></extra>",
    )
    figure.update_xaxes(title_text="z: turnover of facts about to be forgotten (right: more)")
    return figure.update_yaxes(title_text="exchanges")


def edges_figure(rows: Sequence[Row], name: str) -> go.Figure:
    """Shares of consolidated (dot) and of transient facts (diamond) that have each item.

    Args:
        rows: ``share_consolidated, share_transient, difference, p, q``, and the item's name.
        name: Field of the item's name: ``edge`` or ``node``.
    """
    if not rows:
        return empty_figure(f"No {name} was tested")
    labels = [as_text(row[name]) for row in rows]
    figure = go.Figure(layout={"template": TEMPLATE, "height": 130 + 24 * len(rows)})
    figure.add_scatter(
        x=[x for row in rows for x in (row["share_transient"], row["share_consolidated"], None)],
        y=[y for label in labels for y in (label, label, None)],
        mode="lines",
        line={"color": KEPT, "width": 2},
        hoverinfo="skip",
        showlegend=False,
    )
    for field, said, symbol, colour in (
        ("share_transient", "transient", "diamond", LOST),
        ("share_consolidated", "consolidated", "circle", GAINED),
    ):
        figure.add_scatter(
            x=[row[field] for row in rows],
            y=labels,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 10},
            name=said,
            customdata=[
                f"{label}: {number(row[field])} of {said} facts"
                f"<br>p {number(row['p'], 4)}, q {number(row['q'], 3)}"
                for row, label in zip(rows, labels, strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.update_xaxes(title_text=f"share of facts whose circuit has the {name} when acquired")
    return figure.update_yaxes(type="category", autorange="reversed", title_text=name)


def _bars(rows: Sequence[Row], field: str, colour: str) -> dict[str, Any]:
    def reach(row: Row, end: str) -> float:
        bound = row[field + end]
        return 0.0 if bound is None else abs(bound - row[field])

    return {
        "type": "data",
        "symmetric": False,
        "array": [reach(row, "_high") for row in rows],
        "arrayminus": [reach(row, "_low") for row in rows],
        "color": colour,
        "thickness": 2,
    }


def _range(row: Row, field: str) -> str:
    low, high = row[f"{field}_low"], row[f"{field}_high"]
    return (
        " (no interval: too few entities)" if low is None else f" ({number(low)} to {number(high)})"
    )
