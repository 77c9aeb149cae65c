"""Overlap of circuits between all pairs of epochs, as a heat map.

Off the diagonal: the cross-half Jaccard of two epochs. On the diagonal: the same of one epoch
with itself, which is the noise ceiling: two halves of a fact's prompts at unchanged weights.
Chance, the floor, stands in the colour bar's title and in every hover text.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from kcircuits.plots.theme import HEAT, LOST, TEMPLATE, as_text, empty_figure, number

Row = dict[str, Any]


def overlap_table(
    epochs: Sequence[str],
    jaccard: Float[np.ndarray, "epoch epoch"],
    turnover: Float[np.ndarray, "epoch epoch"],
    *,
    chance: float,
    n_facts: int,
) -> list[Row]:
    """One row per pair of epochs.

    Args:
        epochs: Names of both axes.
        jaccard: Cross-half Jaccard, mean over facts; the diagonal is the noise ceiling. NaN
            where there is none.
        turnover: Noise-corrected turnover tau: 0 no change, 1 chance; NaN where undefined.
        chance: Jaccard of two random circuits of the same size.
        n_facts: Facts that the means are over.

    Returns:
        Rows ``from, to, jaccard, turnover, is_ceiling, chance, facts``; None for NaN.
    """
    return [
        {
            "from": start,
            "to": stop,
            "jaccard": _value(jaccard[i, j]),
            "turnover": 0.0 if i == j else _value(turnover[i, j]),
            "is_ceiling": i == j,
            "chance": chance,
            "facts": n_facts,
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
    known = [value for line in z for value in line if value is not None]
    top, chance = max(known, default=1.0), table[0]["chance"]
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
            "title": {"text": f"Jaccard (chance {number(chance, 3)})", "side": "right"},
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


def _hover(row: Row) -> str:
    jaccard, chance = number(row["jaccard"], 3), number(row["chance"], 3)
    tail = f"<br>chance {chance}, mean over {row['facts']} facts"
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
