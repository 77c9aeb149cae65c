"""Knowledge dynamics as figures: curves, heat map of facts, survival, flows, loss and knowledge.

Each takes rows of ``study.dynamics.dynamics.Dynamics`` and draws them; a run has one colour and one
symbol in every figure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kcircuits.plots.lines import add_band, line_style
from kcircuits.plots.theme import (
    GAINED,
    GRID,
    HEAT,
    KEPT,
    LOST,
    MUTED,
    TEMPLATE,
    as_text,
    empty_figure,
)

Row = dict[str, Any]
_PANELS = {
    "knowledge": "knowledge (share)",
    "loss": "loss (nats per token)",
    "ood": "OOD accuracy (share)",
}


def curves_figure(lines: Mapping[str, Sequence[Row]]) -> go.Figure:
    """Knowledge, loss and OOD accuracy over epochs, one panel each that any run has.

    Args:
        lines: Rows ``epoch, knowledge, low, high, loss, ood`` of each run, by its label.
    """
    there = [
        name
        for name in _PANELS
        if any(row[name] is not None for rows in lines.values() for row in rows)
    ]
    if not there:
        return empty_figure("There are no numbers over epochs")
    figure = make_subplots(rows=len(there), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for i, (label, rows) in enumerate(lines.items()):
        for panel, name in enumerate(there, start=1):
            shown = [row for row in rows if row[name] is not None]
            if name == "knowledge":
                add_band(figure, shown, i)
            figure.add_scatter(
                row=panel,
                col=1,
                x=[row["epoch"] for row in shown],
                y=[row[name] for row in shown],
                name=as_text(label),
                legendgroup=str(i),
                showlegend=panel == 1,
                customdata=[[as_text(label), _interval(row, name)] for row in shown],
                hovertemplate="%{customdata[0]}, epoch %{x}<br>%{y:.3f}%{customdata[1]}"
                "<extra></extra>",
                **line_style(i),
            )
    for panel, name in enumerate(there, start=1):
        figure.update_yaxes(title_text=_PANELS[name], rangemode="tozero", row=panel, col=1)
    figure.update_xaxes(title_text="epoch", row=len(there), col=1)
    _zoom(figure, [rows[-1]["epoch"] for rows in lines.values()])
    return _laid_out(figure, 110 + 210 * len(there), n_names=len(lines))


def facts_figure(rows: Sequence[Row], epochs: Sequence[float], unit: str) -> go.Figure:
    """Facts (or entities) x epochs, known ones filled, in the order in which they were acquired.

    Args:
        rows: Rows with ``unit``, ``known`` (0 or 1 per epoch), ``acquired_at``, ``final``.
        epochs: Of the columns.
        unit: ``fact`` or ``entity``.
    """
    if not rows:
        return empty_figure("There are no facts to show")
    never = float("inf")

    def place(row: Row) -> tuple[float, int, str]:
        at = row["acquired_at"]
        return (never if at is None else at, -sum(row["known"]), str(row[unit]))

    ordered = sorted(rows, key=place)
    names = [as_text(row[unit]) for row in ordered]
    said = [["known" if value else "not known" for value in row["known"]] for row in ordered]
    hover = [[[name, word] for word in words] for name, words in zip(names, said, strict=True)]
    figure = go.Figure(layout={"template": TEMPLATE})
    figure.add_heatmap(
        z=[row["known"] for row in ordered],
        x=[f"{epoch:g}" for epoch in epochs],
        y=list(range(len(ordered))),
        zmin=0,
        zmax=1,
        colorscale=HEAT,
        showscale=False,
        xgap=1,
        ygap=1 if len(ordered) <= 150 else 0,
        customdata=hover,
        hovertemplate="%{customdata[0]}, epoch %{x}<br>%{customdata[1]}<extra></extra>",
    )
    figure.update_xaxes(title_text="epoch", type="category", showgrid=False)
    figure.update_yaxes(
        title_text=f"{unit}, by epoch of acquisition", autorange="reversed", showticklabels=False,
        showgrid=False,
    )  # fmt: skip
    return figure.update_layout(height=min(900, 160 + 6 * len(ordered)), margin={"t": 16})


def survival_figure(lines: Mapping[str, Sequence[Row]]) -> go.Figure:
    """Share of windows of knowledge that outlast k epochs, with 95% bands over entities.

    Args:
        lines: Rows ``k, at_risk, survival, low, high`` by label.
    """
    shown = {label: rows for label, rows in lines.items() if rows}
    if not shown:
        return empty_figure("No fact was acquired early enough to be forgotten")
    figure = go.Figure(layout={"template": TEMPLATE})
    for i, label in enumerate(lines):
        if label not in shown:
            continue
        rows = shown[label]
        start = {"k": 0, "survival": 1.0, "low": 1.0, "high": 1.0, "at_risk": rows[0]["at_risk"]}
        points = [start, *rows]
        add_band(figure, [p for p in points if p["low"] is not None], i, x="k", shape="hv")
        style = line_style(i)
        style["line"] = {**style["line"], "shape": "hv"}
        figure.add_scatter(
            x=[point["k"] for point in points],
            y=[point["survival"] for point in points],
            name=as_text(label),
            customdata=[[as_text(label), point["at_risk"]] for point in points],
            hovertemplate="%{customdata[0]}<br>%{y:.3f} still known after %{x} epochs "
            "(n = %{customdata[1]} windows)<extra></extra>",
            **style,
        )
    figure.update_xaxes(title_text="measured epochs since acquired", rangemode="tozero")
    figure.update_yaxes(title_text="still known (share)", range=[-0.03, 1.05])
    return _laid_out(figure, 400, n_names=len(shown))


def flows_figure(rows: Sequence[Row], unit: str) -> go.Figure:
    """Units acquired and retained above, forgotten below the line, at each epoch.

    Args:
        rows: Rows ``epoch, acquired, retained, forgotten``.
        unit: ``entities`` or ``facts``.
    """
    shown = [row for row in rows if row["retained"] is not None]
    if not shown:
        return empty_figure("There is only one epoch: nothing to compare")
    figure = go.Figure(layout={"template": TEMPLATE, "barmode": "relative"})
    # Colour has a second carrier: hatching tells gained and lost apart without it.
    kinds = (("retained", KEPT, "", 1), ("acquired", GAINED, "/", 1), ("forgotten", LOST, "x", -1))
    for name, colour, pattern, sign in kinds:
        figure.add_bar(
            x=[f"{row['epoch']:g}" for row in shown],
            y=[sign * row[name] for row in shown],
            name=name,
            marker={
                "color": colour,
                "pattern": {"shape": pattern, "fillmode": "overlay", "fgcolor": "#FFFFFF"},
            },
            customdata=[[row[name]] for row in shown],
            hovertemplate=f"epoch %{{x}}<br>%{{customdata[0]}} {unit} {name}<extra></extra>",
        )
    figure.update_xaxes(title_text="epoch", type="category")
    figure.update_yaxes(title_text=f"{unit} (count)", zeroline=True, zerolinecolor=KEPT)
    return _laid_out(figure, 400, n_names=1)


def loss_figure(lines: Mapping[str, Sequence[Row]]) -> go.Figure:
    """Knowledge against loss, epochs joined in order and the last one named.

    Args:
        lines: Rows ``epoch, knowledge, loss`` by label.
    """
    shown = {
        label: kept
        for label, rows in lines.items()
        if (kept := [r for r in rows if r["loss"] is not None and r["knowledge"] is not None])
    }
    if not shown:
        return empty_figure("No run has a training loss (train.jsonl)")
    figure = go.Figure(layout={"template": TEMPLATE})
    for i, label in enumerate(lines):
        if label not in shown:
            continue
        rows = shown[label]
        ends = {0, len(rows) - 1}
        style = line_style(i)
        figure.add_scatter(
            x=[row["loss"] for row in rows],
            y=[row["knowledge"] for row in rows],
            name=as_text(label),
            text=[f"epoch {r['epoch']:g}" if n in ends else "" for n, r in enumerate(rows)],
            textposition="top center",
            customdata=[[as_text(label), row["epoch"]] for row in rows],
            hovertemplate="%{customdata[0]}, epoch %{customdata[1]}<br>loss %{x:.3f}, "
            "knowledge %{y:.3f}<extra></extra>",
            **{**style, "mode": "lines+markers+text"},
        )
    figure.update_xaxes(
        title_text="loss (nats per token), falling to the right", autorange="reversed"
    )
    figure.update_yaxes(title_text=_PANELS["knowledge"], rangemode="tozero", gridcolor=GRID)
    return _laid_out(figure, 440, n_names=len(shown))


def _zoom(figure: go.Figure, ends: Sequence[float]) -> None:
    """Begins with the epochs that most runs have, where one is much longer, and says so."""
    trained = sorted(end for end in ends if end > 0)
    if not trained or trained[-1] <= 3 * trained[len(trained) // 2]:
        return
    usual = trained[len(trained) // 2]
    figure.update_xaxes(range=[-0.03 * usual, 1.03 * usual])
    text = f"runs go on to epoch {trained[-1]:g}: double-click to see all"
    figure.add_annotation(
        text=text, xref="paper", yref="paper", x=1, y=1, xanchor="right", yanchor="top",
        showarrow=False, font={"color": MUTED, "size": 12},
    )  # fmt: skip


def _interval(row: Row, name: str) -> str:
    if name != "knowledge" or row["low"] is None:
        return ""
    return f" [{row['low']:.3f}, {row['high']:.3f}]"


def _laid_out(figure: go.Figure, height: int, *, n_names: int) -> go.Figure:
    """Room above for the legend, whose names take about six to a line."""
    above = 30 + 22 * (1 + n_names // 6)
    return figure.update_layout(
        template=TEMPLATE,
        height=height + above,
        margin={"t": above},
        hovermode="closest",
        legend={"traceorder": "normal"},
    )
