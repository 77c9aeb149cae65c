"""What the model knows over the epochs, by stratum, with the training loss below.

Small multiples that share the epoch axis, never two vertical axes in one panel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kcircuits.analysis.dynamics.series import PARAPHRASE
from kcircuits.plots.theme import DASHES, KEPT, SERIES, SYMBOLS, TEMPLATE, as_text, empty_figure

Row = dict[str, Any]


def knowledge_table(probes: Sequence[Row], strata: Mapping[str, str]) -> list[Row]:
    """Share of facts known and mean answer probability, per epoch and stratum.

    Args:
        probes: Rows with ``epoch, fact, kind?, known, prob``, one per probe prompt; those without
            an epoch, open questions and all but paraphrases are left out.
        strata: Stratum of each fact id; probes of other facts are left out.

    Returns:
        Rows ``epoch, stratum, facts, known, prob`` in the order of epochs and strata. A fact is
        known where more than half of these are; prob is a mean of fact means.
    """
    groups: dict[tuple[float, str], dict[str, list[Row]]] = {}
    for row in probes:
        is_cloze = row["prob"] is not None and row.get("kind", PARAPHRASE) == PARAPHRASE
        if is_cloze and row["fact"] in strata and row["epoch"] is not None:
            facts = groups.setdefault((row["epoch"], strata[row["fact"]]), {})
            facts.setdefault(row["fact"], []).append(row)
    return [
        {
            "epoch": epoch,
            "stratum": stratum,
            "facts": len(facts),
            "known": _mean(
                [_mean([bool(r["known"]) for r in rows]) > 0.5 for rows in facts.values()]
            ),
            "prob": _mean([_mean([r["prob"] for r in rows]) for rows in facts.values()]),
        }
        for (epoch, stratum), facts in sorted(groups.items())
    ]


def loss_table(train: Sequence[Row]) -> list[Row]:
    """Mean training loss of each epoch: rows ``epoch, loss`` in nats per token."""
    losses: dict[float, list[float]] = {}
    for row in train:
        if row.get("loss") is not None:
            losses.setdefault(row["epoch"], []).append(row["loss"])
    return [{"epoch": epoch, "loss": _mean(values)} for epoch, values in sorted(losses.items())]


def knowledge_figure(table: list[Row], losses: list[Row]) -> go.Figure:
    """Draws ``knowledge_table`` and ``loss_table``: one panel each for share, probability, loss."""
    if not table:
        return empty_figure("No probes in this run: run kcircuits lab probe, then report again")
    n_panels = 3 if losses else 2
    figure = make_subplots(rows=n_panels, cols=1, shared_xaxes=True, vertical_spacing=0.07)
    strata = list(dict.fromkeys(row["stratum"] for row in table))
    for i, stratum in enumerate(strata):
        rows = [row for row in table if row["stratum"] == stratum]
        for panel, field in enumerate(("known", "prob"), 1):
            figure.add_scatter(
                row=panel,
                col=1,
                x=[row["epoch"] for row in rows],
                y=[row[field] for row in rows],
                **_style(i),
                name=as_text(stratum),
                legendgroup=str(i),
                showlegend=panel == 1,
                customdata=[[as_text(stratum), row["facts"]] for row in rows],
                hovertemplate="%{customdata[0]}, epoch %{x}"
                "<br>%{y:.3f} (n = %{customdata[1]} facts)<extra></extra>",
            )
    if losses:
        figure.add_scatter(
            row=3,
            col=1,
            x=[row["epoch"] for row in losses],
            y=[row["loss"] for row in losses],
            mode="lines+markers",
            line={"color": KEPT, "width": 2},
            name="training loss",
            showlegend=False,
            hovertemplate="epoch %{x}<br>training loss %{y:.3f}<extra></extra>",
        )
    return _with_axes(figure, n_panels)


def _style(i: int) -> dict[str, Any]:
    colour = SERIES[i % len(SERIES)]
    return {
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2, "dash": DASHES[i % len(DASHES)]},
        "marker": {"color": colour, "size": 7, "symbol": SYMBOLS[i % len(SYMBOLS)]},
    }


def _with_axes(figure: go.Figure, n_panels: int) -> go.Figure:
    figure.update_layout(template=TEMPLATE, height=90 + 190 * n_panels, hovermode="closest")
    figure.update_layout(margin={"t": 56})
    titles = ("facts known (share)", "answer probability (mean)", "loss (nats per token)")
    for panel in range(1, n_panels + 1):
        figure.update_yaxes(title={"text": titles[panel - 1]}, row=panel, col=1)
    figure.update_yaxes(range=[-0.04, 1.04], row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=2, col=1)
    return figure.update_xaxes(title={"text": "epoch"}, row=n_panels, col=1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
