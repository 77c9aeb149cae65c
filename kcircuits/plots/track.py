"""Circuits over epochs as figures: births and deaths, survival, layers, settling.

Each takes rows of ``study.track.track.Track`` and draws them; what
swapped epoch labels give, or what halves of the prompts differ by, stands beside every number.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kcircuits.plots.lines import add_band, line_style
from kcircuits.plots.theme import (
    GAINED,
    HEAT,
    INK,
    KEPT,
    LOST,
    TEMPLATE,
    as_text,
    empty_figure,
    number,
)

Row = dict[str, Any]
# Place of a line's colour and symbol, see ``plots.lines``.
_OBSERVED, _SWAPPED = 0, 6


def change_figure(rows: Sequence[Row], noun: str) -> go.Figure:
    """Births above and deaths below the line at each step, beside those of swapped labels.

    Args:
        rows: Of ``Track.rows``, of one stratum.
        noun: What is counted: ``edges`` or ``nodes``.
    """
    shown = [row for row in rows if row["births"] is not None]
    if not shown:
        return empty_figure("No fact is known at two epochs in a row")
    figure = go.Figure(layout={"template": TEMPLATE, "height": 380, "barmode": "overlay"})
    for name, colour, pattern, sign in (("births", GAINED, "/", 1), ("deaths", LOST, "x", -1)):
        _add_bars(figure, shown, name, noun, sign, colour, pattern)
    figure.update_xaxes(title_text="step to epoch", type="category", showgrid=False)
    return figure.update_yaxes(
        title_text=f"{noun} born, and died (below 0), per fact", zeroline=True, zerolinecolor=KEPT
    )


def _add_bars(
    figure: go.Figure,
    shown: Sequence[Row],
    name: str,
    noun: str,
    sign: int,
    colour: str,
    pattern: str,
) -> None:
    epochs = [as_text(row["epoch"]) for row in shown]
    figure.add_bar(
        x=epochs,
        y=[sign * row[name] for row in shown],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [_reach(row, name, "high" if sign > 0 else "low") for row in shown],
            "arrayminus": [_reach(row, name, "low" if sign > 0 else "high") for row in shown],
            "color": INK,
            "thickness": 1.5,
        },
        name=name,
        width=0.6,
        marker={
            "color": colour,
            "pattern": {"shape": pattern, "fillmode": "overlay", "fgcolor": "#FFFFFF"},
        },
        customdata=[
            f"{number(row[name], 1)} {noun} a fact, swapped labels "
            f"{number(row[f'{name}_swapped'], 1)}<br>mean over {row['compared']} facts"
            for row in shown
        ],
        hovertemplate=f"{name} at %{{x}}<br>%{{customdata}}<extra></extra>",
    )
    figure.add_scatter(
        x=epochs,
        y=[sign * row[f"{name}_swapped"] for row in shown],
        mode="markers",
        marker={"symbol": "line-ew-open", "size": 34, "color": INK, "line": {"width": 3}},
        name="swapped labels",
        legendgroup="swapped",
        showlegend=sign > 0,
        hoverinfo="skip",
    )


def _reach(row: Row, name: str, end: str) -> float | None:
    bound = row[f"{name}_{end}"]
    return None if bound is None else abs(bound - row[name])


def lifetime_figure(rows: Sequence[Row], noun: str) -> go.Figure:
    """Share of what is born that is still there k epochs later, and under swapped labels.

    Args:
        rows: Of ``Track.life_table``, of one stratum.
        noun: What lives: ``edges`` or ``nodes``.
    """
    if not any(row["labels"] == "observed" for row in rows):
        return empty_figure(f"No {noun} were born early enough to be looked for again")
    figure = go.Figure(layout={"template": TEMPLATE, "height": 400})
    for labels, i in (("observed", _OBSERVED), ("swapped", _SWAPPED)):
        table = [row for row in rows if row["labels"] == labels]
        if not table:
            continue
        points = [
            {"k": 0, "survival": 1.0, "low": 1.0, "high": 1.0, "at_risk": table[0]["at_risk"]}
        ]
        points += [
            {**row, "low": row["survival_low"], "high": row["survival_high"]} for row in table
        ]
        add_band(figure, points, i, x="k", shape="hv")
        style = line_style(i)
        style["line"] = {
            **style["line"], "shape": "hv", "dash": "solid" if labels == "observed" else "dash"
        }  # fmt: skip
        name = "as they are" if labels == "observed" else "epoch labels swapped"
        figure.add_scatter(
            x=[point["k"] for point in points],
            y=[point["survival"] for point in points],
            name=name,
            legendgroup=str(i),
            customdata=[point["at_risk"] for point in points],
            hovertemplate=f"{name}: %{{y:.3f}} of the {noun} are there after %{{x}} epochs "
            "(n = %{customdata} spells)<extra></extra>",
            **style,
        )
    figure.update_xaxes(title_text="measured epochs since born", rangemode="tozero", dtick=1)
    return figure.update_yaxes(title_text="still there (share)", range=[-0.03, 1.05])


def layers_figure(rows: Sequence[Row]) -> go.Figure:
    """Activation ratio of edges by sender layer and epoch, as a heat map; the input at the bottom.

    Colours are logarithmic: the last layer has few edges, and most of them are in circuits. A
    ratio of 0 stays blank.

    Args:
        rows: Of ``Track.layers``, of one stratum.
    """
    shown = [row for row in rows if row["ratio"] is not None]
    if not shown:
        return empty_figure("No fact is known at any epoch")
    epochs = list(dict.fromkeys(row["epoch"] for row in shown))
    layers = sorted({row["layer"] for row in shown})
    at = {(row["layer"], row["epoch"]): row for row in shown}
    grid = [[at[layer, epoch] for epoch in epochs] for layer in layers]
    figure = go.Figure(layout={"template": TEMPLATE, "height": 160 + 14 * len(layers)})
    figure.add_heatmap(
        x=[as_text(epoch) for epoch in epochs],
        y=["input" if layer < 0 else str(layer) for layer in layers],
        z=[[math.log10(row["ratio"]) if row["ratio"] else None for row in line] for line in grid],
        colorscale=HEAT,
        xgap=1,
        ygap=1,
        customdata=[[_layer_hover(row) for row in line] for line in grid],
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={
            "title": {"text": "share of the layer's edges"},
            "tickvals": [-4, -3, -2, -1, 0],
            "ticktext": ["0.01%", "0.1%", "1%", "10%", "100%"],
        },
    )
    figure.update_xaxes(title_text="epoch", type="category", showgrid=False)
    return figure.update_yaxes(title_text="layer of the sender", type="category", showgrid=False)


def _layer_hover(row: Row) -> str:
    ratio, noise = (number(100 * row[name], 3) for name in ("ratio", "ratio_noise"))
    low, high = (None if row[n] is None else 100 * row[n] for n in ("ratio_low", "ratio_high"))
    where = "the input" if row["layer"] < 0 else f"layer {row['layer']}"
    return (
        f"{where}, {as_text(row['epoch'])}: {ratio}% of its edges "
        f"[{number(low, 3)}, {number(high, 3)}]<br>halves of one fact's prompts differ by {noise}"
        f"<br>mean over {row['facts']} facts known"
    )


def settling_figure(rows: Sequence[Row]) -> go.Figure:
    """Turnover by steps since acquisition, with facts known before and never known beside.

    Args:
        rows: Of ``Track.settling``.
    """
    shown = [row for row in rows if row["turnover"] is not None]
    if not shown:
        return empty_figure("No step has a turnover: too few facts, or circuits do not replicate")
    figure = go.Figure(layout={"template": TEMPLATE, "height": 400})
    for i, group in enumerate(dict.fromkeys(row["group"] for row in rows)):
        points = [
            {**row, "low": row["turnover_low"], "high": row["turnover_high"]}
            for row in shown
            if row["group"] == group
        ]
        add_band(figure, points, i, x="step")
        figure.add_scatter(
            x=[point["step"] for point in points],
            y=[point["turnover"] for point in points],
            name=group,
            legendgroup=str(i),
            customdata=[
                f"{group}, step {point['step']}: turnover {number(point['turnover'], 3)} "
                f"[{number(point['low'], 3)}, {number(point['high'], 3)}]"
                f"<br>{point['facts']} facts"
                for point in points
            ],
            hovertemplate="%{customdata}<extra></extra>",
            **line_style(i),
        )
    figure.add_hline(y=0, line={"color": KEPT, "width": 1})
    figure.update_xaxes(title_text="steps since acquired (or since the first epoch)", dtick=1)
    return figure.update_yaxes(title_text="turnover τ (0 none, 1 chance)")


def by_stratum(rows: Sequence[Row], n_shown: int) -> Mapping[str, list[Row]]:
    """Rows by their stratum, the first ``n_shown`` of them."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["stratum"], []).append(row)
    return dict(list(groups.items())[:n_shown])
