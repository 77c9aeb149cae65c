"""Overlap of circuits between all pairs of epochs, as a heat map.

Off the diagonal: the cross-half Jaccard of two epochs. On the diagonal: the same of one epoch
with itself, which is the noise ceiling: two halves of a fact's prompts at unchanged weights.
Chance, the floor, stands in the colour bar's title and in every hover text.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kcircuits.analysis.overlap.all_pairs import EpochOverlap
from kcircuits.plots.theme import HEAT, LOST, TEMPLATE, as_text, empty_figure, number

Row = dict[str, Any]


def overlap_table(epochs: Sequence[str], overlap: EpochOverlap) -> list[Row]:
    """One row per pair of epochs.

    Returns:
        Rows ``from, to, jaccard, turnover, is_ceiling, chance, facts``; None for NaN.
    """
    return [
        {
            "from": start,
            "to": stop,
            "jaccard": _value(overlap.jaccard[i, j]),
            "turnover": _value(overlap.turnover[i, j]),
            "is_ceiling": i == j,
            "chance": _value(overlap.chance[i, j]),
            "facts": int(overlap.n_facts[i, j]),
        }
        for i, start in enumerate(epochs)
        for j, stop in enumerate(epochs)
    ]


def overlap_figure(table: list[Row]) -> go.Figure:
    """Draws the rows of ``overlap_table``, first epoch at the top left."""
    if not table:
        return empty_figure("No pair of epochs to compare")
    epochs = list(dict.fromkeys(row["from"] for row in table))
    n = len(epochs)
    grid = [table[i * n : (i + 1) * n] for i in range(n)]
    z = [[row["jaccard"] for row in line] for line in grid]
    top = max((row["jaccard"] for row in table if row["jaccard"] is not None), default=1.0)
    labels = [as_text(epoch) for epoch in epochs]
    figure = go.Figure(layout=_layout(n))
    figure.add_heatmap(
        x=labels,
        y=labels,
        z=z,
        zmin=0,
        zmax=top,
        colorscale=HEAT,
        xgap=2,
        ygap=2,
        text=[[number(value) for value in line] for line in z],
        texttemplate="%{text}",
        customdata=[[_hover(row) for row in line] for line in grid],
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={
            "title": {"text": f"Jaccard (chance {number(chance_of(table), 3)})", "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
            "len": 1,
        },
    )
    # Frames mark the diagonal as another kind of number.
    for i in range(n):
        box = {"x0": i - 0.5, "x1": i + 0.5, "y0": i - 0.5, "y1": i + 0.5}
        figure.add_shape(type="rect", **box, line={"color": LOST, "width": 2})
    return figure


def chance_of(table: list[Row]) -> float | None:
    """The largest chance of all pairs: the floor that stands beside the figure."""
    return max((row["chance"] for row in table if row["chance"] is not None), default=None)


def _hover(row: Row) -> str:
    jaccard, chance = number(row["jaccard"], 3), number(row["chance"], 3)
    tail = f"<br>chance {chance}, mean over {row['facts']} facts known at both"
    if row["is_ceiling"]:
        return f"{as_text(row['from'])}: noise ceiling {jaccard}{tail}"
    return (
        f"{as_text(row['from'])} → {as_text(row['to'])}: Jaccard {jaccard}"
        f"<br>turnover τ {number(row['turnover'])} (0 none, 1 chance){tail}"
    )


def _layout(n_epochs: int) -> dict[str, Any]:
    axis = {"type": "category", "showgrid": False, "title": {"text": "epoch"}}
    return {
        "template": TEMPLATE,
        "height": min(640, 140 + 46 * max(n_epochs, 3)),
        "margin": {"t": 12},
        "xaxis": axis,
        "yaxis": {**axis, "autorange": "reversed"},
    }


def _value(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
