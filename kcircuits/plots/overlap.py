"""Overlap of circuits between all pairs of epochs as heat maps, and turnover over the steps.

Heat maps, off the diagonal: the cross-half Jaccard (or the turnover) of two epochs. On the
diagonal: the Jaccard of one epoch with itself, which is the noise ceiling: two halves of a fact's
prompts at unchanged weights. Chance, the floor, stands in the colour bar's title and in every hover
text. The input are rows of ``kcircuits overlap --json``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kcircuits.plots.diff import VERDICTS
from kcircuits.plots.theme import (
    DASHES,
    HEAT,
    KEPT,
    LOST,
    SERIES,
    SYMBOLS,
    TEMPLATE,
    as_text,
    empty_figure,
    number,
)

Row = dict[str, Any]
_FIELDS = (
    "jaccard", "jaccard_low", "jaccard_high", "ceiling", "turnover", "turnover_low",
    "turnover_high", "chance", "facts",
)  # fmt: skip


def overlap_table(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row per ordered pair of epochs, from the rows of one stratum.

    Args:
        rows: Of ``EpochOverlap.rows``: each pair once, and each epoch with itself.

    Returns:
        Rows ``from, to, is_ceiling`` and overlap, ceiling, chance, turnover and intervals, line by
        line.
    """
    epochs = list(dict.fromkeys(row["from"] for row in rows))
    by_pair = {(row["from"], row["to"]): row for row in rows}
    return [
        {
            "from": start,
            "to": stop,
            "is_ceiling": start == stop,
            **{name: row[name] for name in _FIELDS},
        }
        for start in epochs
        for stop in epochs
        for row in [by_pair.get((start, stop)) or by_pair[stop, start]]
    ]


def overlap_figure(table: list[Row]) -> go.Figure:
    """Draws the Jaccard of ``overlap_table``, first epoch at the top left."""
    if not table:
        return empty_figure("No pair of epochs to compare")
    top = max((row["jaccard"] for row in table if row["jaccard"] is not None), default=1.0)
    title = f"Jaccard (chance {number(chance_of(table), 3)})"
    return _heat_map(table, "jaccard", title, (0, top))


def turnover_figure(table: list[Row]) -> go.Figure:
    """Draws the turnover of ``overlap_table``; the diagonal is 0."""
    if not table:
        return empty_figure("No pair of epochs to compare")
    found = [row["turnover"] for row in table if row["turnover"] is not None]
    shown = (min([0.0, *found]), max([0.1, *found]))
    return _heat_map(table, "turnover", "turnover τ (0 none, 1 chance)", shown)


def steps_figure(rows: Sequence[Mapping[str, Any]], *, against: str) -> go.Figure:
    """Draws the turnover of steps with its interval, one line per stratum.

    Args:
        rows: Of ``EpochSteps.rows``.
        against: What each epoch is compared with: ``previous``, ``first`` or ``last``.
    """
    if not rows:
        return empty_figure("No step to compare")
    end = "from" if against == "last" else "to"
    epochs = list(dict.fromkeys(as_text(row[end]) for row in rows))
    figure = go.Figure(layout=_steps_layout(epochs, against))
    figure.add_hline(y=0, line={"color": KEPT, "width": 1})
    for i, stratum in enumerate(dict.fromkeys(row["stratum"] for row in rows)):
        own = [row for row in rows if row["stratum"] == stratum]
        place = i % len(SERIES)
        symbol = SYMBOLS[place]
        figure.add_scatter(
            x=[as_text(row[end]) for row in own],
            y=[row["turnover"] for row in own],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [_reach(row, "turnover_high") for row in own],
                "arrayminus": [_reach(row, "turnover_low") for row in own],
                "thickness": 1.5,
            },
            mode="lines+markers",
            line={"color": SERIES[place], "dash": DASHES[place], "width": 2},
            marker={
                "size": 10,
                "symbol": [
                    symbol if row["verdict"] == "changed" else f"{symbol}-open" for row in own
                ],
            },
            name=as_text(stratum),
            customdata=[_step_hover(row) for row in own],
            hovertemplate="%{customdata}<extra></extra>",
        )
    return figure


def chance_of(table: Sequence[Mapping[str, Any]]) -> float | None:
    """The largest chance of all pairs: the floor that stands beside the figure."""
    return max((row["chance"] for row in table if row["chance"] is not None), default=None)


def _heat_map(table: list[Row], field: str, title: str, shown: tuple[float, float]) -> go.Figure:
    epochs = list(dict.fromkeys(row["from"] for row in table))
    n = len(epochs)
    grid = [table[i * n : (i + 1) * n] for i in range(n)]
    labels = [as_text(epoch) for epoch in epochs]
    figure = go.Figure(layout=_layout(n))
    figure.add_heatmap(
        x=labels,
        y=labels,
        z=[[row[field] for row in line] for line in grid],
        zmin=shown[0],
        zmax=shown[1],
        colorscale=HEAT,
        xgap=2,
        ygap=2,
        text=[[number(row[field]) for row in line] for line in grid],
        texttemplate="%{text}",
        customdata=[[_hover(row) for row in line] for line in grid],
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={"title": {"text": title}, "len": 1},
    )
    # Frames mark the diagonal as another kind of number.
    for i in range(n):
        box = {"x0": i - 0.5, "x1": i + 0.5, "y0": i - 0.5, "y1": i + 0.5}
        figure.add_shape(type="rect", **box, line={"color": LOST, "width": 2})
    return figure


def _hover(row: Row) -> str:
    chance = number(row["chance"], 3)
    tail = f"<br>chance {chance}, mean over {row['facts']} facts known at both"
    jaccard = f"{number(row['jaccard'], 3)}{_ends(row, 'jaccard', 3)}"
    if row["is_ceiling"]:
        return f"{as_text(row['from'])}: noise ceiling {jaccard}{tail}"
    return (
        f"{as_text(row['from'])} → {as_text(row['to'])}: Jaccard {jaccard}, "
        f"ceiling {number(row['ceiling'], 3)}"
        f"<br>turnover τ {number(row['turnover'])}{_ends(row, 'turnover', 2)} "
        f"(0 none, 1 chance){tail}"
    )


def _step_hover(row: Mapping[str, Any]) -> str:
    return (
        f"{as_text(row['from'])} → {as_text(row['to'])}, {as_text(row['stratum'])} "
        f"({row['facts']} facts)<br>turnover τ {number(row['turnover'])}"
        f"{_ends(row, 'turnover', 2)}: {VERDICTS[row['verdict']]}"
        f"<br>Jaccard {number(row['jaccard'], 3)}, ceiling {number(row['ceiling'], 3)}, "
        f"chance {number(row['chance'], 3)}"
    )


def _ends(row: Mapping[str, Any], name: str, digits: int) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None else f" ({number(low, digits)} to {number(high, digits)})"


def _reach(row: Mapping[str, Any], bound: str) -> float | None:
    if row["turnover"] is None or row[bound] is None:
        return None
    return abs(row[bound] - row["turnover"])


def _steps_layout(epochs: list[str], against: str) -> dict[str, Any]:
    return {
        "template": TEMPLATE,
        "height": 360,
        "hovermode": "closest",
        "showlegend": True,
        "xaxis": {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": epochs,
            "title": {"text": f"epoch, against {'the ' * (against != 'previous')}{against}"},
        },
        "yaxis": {"title": {"text": "turnover τ (0 none, 1 chance)"}},
    }


def _layout(n_epochs: int) -> dict[str, Any]:
    axis = {"type": "category", "showgrid": False, "title": {"text": "epoch"}}
    return {
        "template": TEMPLATE,
        "height": min(640, 140 + 46 * max(n_epochs, 3)),
        "margin": {"t": 12},
        "xaxis": axis,
        "yaxis": {**axis, "autorange": "reversed"},
    }
