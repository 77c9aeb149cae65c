"""Transfer of circuits: heat maps over epochs and strata, lines of chosen circuits over epochs.

Rows of a heat map are where circuits come from, columns the weights (or facts) that they run on;
cells on the diagonal, where both are the same, are framed. Random circuits stand beside.
"""

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kcircuits.analysis.transfer.rows import is_apart
from kcircuits.plots.lines import add_band, line_style
from kcircuits.plots.theme import (
    GAINED,
    HEAT,
    KEPT,
    LOST,
    TEMPLATE,
    as_text,
    empty_figure,
    number,
)

Row = dict[str, Any]
WAY = "ratio of means"
# A loss has two sides: blue where the moved circuit is the better one, vermilion where it loses.
_TWO_SIDED = [[0.0, GAINED], [0.5, "#F7F7F4"], [1.0, LOST]]
_OWN, _RANDOM = "each fact's own", "random"
_NOTHING = "The model knows no fact at two of these epochs"


def transfer_figure(rows: Sequence[Row], *, way: str = WAY) -> go.Figure:
    """Faithfulness of each epoch's circuits on each epoch's weights; right, random circuits.

    Args:
        rows: Rows of ``Transfer.rows``.
        way: Which of the two ways to put facts together.
    """
    table = [row for row in rows if row["set"] == way]
    if not any(row["faithfulness"] is not None for row in table):
        return empty_figure(_NOTHING)
    has_random = any(row["random"] is not None for row in table)
    titles = ("circuits", "random circuits, layers matched")[: 1 + has_random]
    figure = make_subplots(
        rows=1, cols=len(titles), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03
    )
    for col, name in enumerate(("faithfulness", "random")[: len(titles)], start=1):
        _add_heat(figure, table, lambda row, name=name: row[name], col, scale=HEAT, span=(0, 1))
    _lay_out(figure, table, "circuits of", "on the weights of")
    figure.update_coloraxes(colorbar={"title": {"text": "faithfulness"}})
    return figure


def loss_figure(
    rows: Sequence[Row], name: str = "loss", *, way: str = WAY, unit: str = "on the weights of"
) -> go.Figure:
    """Faithfulness that moved circuits lack against each fact's own; * see ``is_apart``.

    Args:
        rows: Rows of ``Transfer.rows`` or, of one epoch, ``Transfer.strata``.
        name: ``loss`` or ``loss_both_ways``.
        way: Which of the two ways to put facts together.
        unit: What the columns are.
    """
    table = [row for row in rows if row["set"] == way]
    values = [abs(row[name]) for row in table if row[name] is not None]
    if not values:
        return empty_figure(_NOTHING)
    figure = make_subplots(rows=1, cols=1)
    top = max(0.1, *values)

    def label(row: Row) -> str:
        return number(row[name]) + "*" * is_apart(row, name)

    _add_heat(
        figure, table, lambda row: row[name], 1, scale=_TWO_SIDED, span=(-top, top), label=label
    )
    _lay_out(figure, table, "circuits of", unit)
    figure.update_coloraxes(colorbar={"title": {"text": "transfer loss"}})
    return figure


def lines_figure(rows: Sequence[Row], name: str = "faithfulness", *, way: str = WAY) -> go.Figure:
    """Before, first known, after and best circuits on the weights of every epoch, with bands.

    Args:
        rows: Rows of ``Transfer.lines``.
        name: ``faithfulness`` or ``loss``.
        way: Which of the two ways to put facts together.
    """
    table = [row for row in rows if row["set"] == way]
    if not any(row[name] is not None for row in table):
        return empty_figure(_NOTHING)
    epochs = list(dict.fromkeys(row["to"] for row in table))
    figure = go.Figure(layout={"template": TEMPLATE, "height": 440, "hovermode": "closest"})
    for i, line in enumerate(dict.fromkeys(row["line"] for row in table)):
        own = [row for row in table if row["line"] == line and row[name] is not None]
        ends = [
            {"x": as_text(row["to"]), "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
            for row in own
        ]
        add_band(figure, ends, i, x="x")
        figure.add_scatter(
            x=[as_text(row["to"]) for row in own],
            y=[row[name] for row in own],
            name=line,
            legendgroup=str(i),
            customdata=[f"{line}: {_hover(row)}" for row in own],
            hovertemplate="%{customdata}<extra></extra>",
            **line_style(i),
        )
    if name == "faithfulness":
        _add_reference(figure, table)
    figure.add_hline(y=0, line={"color": KEPT, "width": 1})
    title = {"faithfulness": "faithfulness (1: the model)", "loss": "transfer loss"}[name]
    figure.update_xaxes(
        title_text="on the weights of", type="category",
        categoryorder="array", categoryarray=[as_text(epoch) for epoch in epochs],
    )  # fmt: skip
    return figure.update_yaxes(title_text=title)


def strata_figure(rows: Sequence[Row], *, way: str = WAY) -> go.Figure:
    """Circuits of strata on the facts of strata at one epoch, with own and random ones below.

    Args:
        rows: Rows of ``Transfer.strata`` of one epoch.
        way: Which of the two ways to put facts together.
    """
    table = [row for row in rows if row["set"] == way]
    if not any(row["faithfulness"] is not None for row in table):
        return empty_figure("The model knows too few facts to make a circuit of a stratum")
    references: list[Row] = []
    for row in (row for row in table if row["from"] == row["to"]):
        for label, name in ((_OWN, "own"), (_RANDOM, "random")):
            ends = {key: row[f"{name}{key.removeprefix('faithfulness')}"] for key in _ENDS}
            references.append({**row, "from": label, **ends, "loss": None})
    figure = make_subplots(rows=1, cols=1)
    shown = [*table, *references]
    _add_heat(figure, shown, lambda row: row["faithfulness"], 1, scale=HEAT, span=(0, 1))
    _lay_out(figure, shown, "circuits of", "on facts of")
    figure.update_coloraxes(colorbar={"title": {"text": "faithfulness"}})
    return figure


_ENDS = ("faithfulness", "faithfulness_low", "faithfulness_high")


def _add_reference(figure: go.Figure, table: Sequence[Row]) -> None:
    """Own and random circuits of the facts of the line ``after``, as dotted grey lines."""
    rows = [row for row in table if row["line"] == "after"]
    for name, label, dash in (("own", "own, of that epoch", "dash"), ("random", "random", "dot")):
        shown = [row for row in rows if row[name] is not None]
        figure.add_scatter(
            x=[as_text(row["to"]) for row in shown],
            y=[row[name] for row in shown],
            mode="lines",
            line={"color": KEPT, "width": 2, "dash": dash},
            name=f"{label} (facts of ‘after’)",
            hovertemplate=f"{label}: %{{y:.2f}}<extra></extra>",
        )


def _add_heat(
    figure: go.Figure,
    table: Sequence[Row],
    value: Callable[[Row], float | None],
    col: int,
    *,
    scale: Any,
    span: tuple[float, float],
    label: Callable[[Row], str] | None = None,
) -> None:
    starts, stops = (list(dict.fromkeys(row[end] for row in table)) for end in ("from", "to"))
    at = {(row["from"], row["to"]): row for row in table}
    grid = [[at.get((start, stop)) for stop in stops] for start in starts]

    def told(row: Row | None) -> str:
        if row is None:
            return ""
        return label(row) if label else number(value(row))

    figure.add_heatmap(
        row=1,
        col=col,
        x=[as_text(stop) for stop in stops],
        y=[as_text(start) for start in starts],
        z=[[None if row is None else value(row) for row in line] for line in grid],
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
        text=[[told(row) for row in line] for line in grid],
        texttemplate="%{text}",
        customdata=[["" if row is None else _hover(row) for row in line] for line in grid],
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.update_layout(
        coloraxis={"colorscale": scale, "cmin": span[0], "cmax": span[1],
                   "colorbar": {"len": 1}},
    )  # fmt: skip
    for i, start in enumerate(starts):
        if start in stops:
            j = stops.index(start)
            box = {"x0": j - 0.5, "x1": j + 0.5, "y0": i - 0.5, "y1": i + 0.5}
            figure.add_shape(type="rect", **box, line={"color": LOST, "width": 2}, row=1, col=col)


def _lay_out(figure: go.Figure, table: Sequence[Row], down: str, across: str) -> None:
    n_rows = len(dict.fromkeys(row["from"] for row in table))
    figure.update_layout(
        template=TEMPLATE, height=min(760, 150 + 46 * max(n_rows, 3)), margin={"t": 30}
    )
    figure.update_xaxes(type="category", showgrid=False, title_text=across)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    figure.update_yaxes(title_text=down, col=1)


def _hover(row: Row) -> str:
    """All numbers of a row in words."""

    def interval(name: str) -> str:
        ends = (number(row[f"{name}_low"]), number(row[f"{name}_high"]))
        return f"{number(row[name])} ({ends[0]} to {ends[1]})"

    where = f"{as_text(row['from'])} → {as_text(row['to'])}: " if "from" in row else ""
    lines = [f"{where}faithfulness {interval('faithfulness')}"]
    if row["loss"] is not None:
        lines.append(f"loss against own circuits {interval('loss')}")
    lines += [
        f"own {number(row['own'])}, of half the prompts {number(row['half'])}, "
        f"random {number(row['random'])}",
        f"Hit@10 {number(row['hit_at_10'])}; {row['facts']} facts about {row['subjects']} "
        f"subjects, {row['gated']} not known at both",
    ]
    return "<br>".join(lines)
