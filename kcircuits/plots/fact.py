"""One fact's edges over epochs as figures: when they are there, and their scores.

Each takes rows of ``study.track.inspection.Inspection.edges`` and draws them.
"""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from kcircuits.plots.lines import line_style
from kcircuits.plots.theme import GAINED, GRID, KEPT, TEMPLATE, as_text, empty_figure, number

Row = dict[str, Any]
_VALUES = {"there": 1.0, "half": 0.5, "gone": 0.0, None: None}
_MARKS = {"there": "●", "half": "◐", "gone": "", None: ""}
_WORDS = {
    "there": "in both halves",
    "half": "undecided: not in both, not in neither",
    "gone": "in neither half",
    None: "no result",
}


def presence_figure(rows: Sequence[Row], epochs: Sequence[str]) -> go.Figure:
    """One fact's edges over epochs: there (both halves), in one half only, or gone.

    Args:
        rows: Of ``Inspection.edges``: ``edge``, ``states`` (``there``, ``half``, ``gone`` or None
            per epoch) and ``scores``.
        epochs: Names of the epochs.
    """
    if not rows:
        return empty_figure("No edge of this fact replicates at any epoch")
    figure = go.Figure(layout={"template": TEMPLATE, "height": 130 + 18 * len(rows)})
    figure.add_heatmap(
        x=[as_text(epoch) for epoch in epochs],
        y=[as_text(row["edge"]) for row in rows],
        z=[[_VALUES[state] for state in row["states"]] for row in rows],
        zmin=0,
        zmax=1,
        colorscale=[[0, GRID], [0.5, "#9CC4DE"], [1, GAINED]],
        showscale=False,
        xgap=2,
        ygap=2,
        text=[[_MARKS[state] for state in row["states"]] for row in rows],
        texttemplate="%{text}",
        customdata=[
            [
                f"{as_text(row['edge'])}, {as_text(epoch)}: {_WORDS[state]}"
                f"<br>score {number(score, 4)}"
                for epoch, state, score in zip(epochs, row["states"], row["scores"], strict=True)
            ]
            for row in rows
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.update_xaxes(title_text="epoch", type="category", showgrid=False, side="top")
    return figure.update_yaxes(
        title_text="edge", type="category", autorange="reversed", showgrid=False
    )


def score_figure(rows: Sequence[Row], epochs: Sequence[str], axis: str) -> go.Figure:
    """Scores of one fact's edges over epochs, a line each; filled markers where it replicates.

    Args:
        rows: Of ``Inspection.edges``.
        epochs: Names of the epochs.
        axis: What scores are, with their unit.
    """
    if not rows:
        return empty_figure("No edge of this fact replicates at any epoch")
    figure = go.Figure(layout={"template": TEMPLATE, "height": 420})
    for i, row in enumerate(rows):
        style = line_style(i)
        symbol = style["marker"]["symbol"].removesuffix("-open")
        style["marker"] = {
            **style["marker"],
            "symbol": [symbol if s == "there" else f"{symbol}-open" for s in row["states"]],
        }
        label = as_text(row["edge"])
        figure.add_scatter(
            x=[as_text(epoch) for epoch in epochs],
            y=list(row["scores"]),
            name=label,
            customdata=[label] * len(epochs),
            hovertemplate="%{customdata}, %{x}: %{y:.4f}<extra></extra>",
            **style,
        )
    figure.add_hline(y=0, line={"color": KEPT, "width": 1})
    figure.update_xaxes(title_text="epoch", type="category")
    return figure.update_yaxes(title_text=axis)
