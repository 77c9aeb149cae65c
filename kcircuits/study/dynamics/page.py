"""The page of ``kcircuits dynamics --html``: plots and tables of training runs."""

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from kcircuits.plots.dynamics import (
    curves_figure,
    facts_figure,
    flows_figure,
    loss_figure,
    survival_figure,
)
from kcircuits.plots.page import Block, figure_block, render_page, table_block
from kcircuits.plots.theme import number
from kcircuits.study.dynamics.dynamics import Dynamics

Row = dict[str, Any]
# More panels of a selector than this make a page that takes long to open.
MAX_PANELS = 24
_UNITS = {"entity": "entities", "fact": "facts"}


def dynamics_page(dynamics: Dynamics) -> str:
    """The dynamics as one self-contained HTML text."""
    names = _names(dynamics)
    blocks = [
        _curves(dynamics, names),
        _loss(dynamics, names),
        _flows(dynamics, names),
        _facts(dynamics, names),
        _survival(dynamics, names),
        _summary(dynamics, names),
    ]
    blocks += [_circuits(dynamics)] if dynamics.circuits else []
    title = ", ".join(dict.fromkeys(row["model"] or "training run" for row in dynamics.runs))
    details = [
        {
            "label": "Runs",
            "values": [
                {"t": name, "note": f"{row['facts']} facts, {len(row['epochs'])} epochs"}
                for name, row in zip(names.values(), dynamics.runs, strict=True)
            ],
        },
        {"label": "Facts by", "values": [{"t": dynamics.by or "all together"}]},
    ]
    return render_page(kind="Knowledge dynamics", title=title, details=details, blocks=blocks)


def _key(row: Row) -> tuple[Any, ...]:
    return row["model"], row["strategy"], row["seed"]


def _names(dynamics: Dynamics) -> dict[tuple[Any, ...], str]:
    """Labels of the runs: only what tells them apart, in order."""
    keys = [_key(row) for row in dynamics.runs]
    differs = [len(set(column)) > 1 for column in zip(*keys, strict=True)]
    labels: dict[tuple[Any, ...], str] = {}
    for key in keys:
        model, strategy, seed = key
        parts = (model, strategy, None if seed is None else f"seed {seed}")
        told = [part for part, shown in zip(parts, differs, strict=True) if shown and part]
        labels[key] = ", ".join(told) or strategy or model or "run"
    return labels


def _lines(dynamics: Dynamics, stratum: str, names: dict[tuple[Any, ...], str]) -> dict[str, Any]:
    """Rows of each run for the curves: the table's numbers and the intervals of knowledge."""
    means = {(_key(r), r["stratum"], r["epoch"]): r for r in dynamics.knowledge}
    lines: dict[str, list[Row]] = {}
    for row in dynamics.rows:
        if row["stratum"] == stratum:
            mean = means[_key(row), stratum, row["epoch"]]
            lines.setdefault(names[_key(row)], []).append(
                {
                    "epoch": row["epoch"],
                    "knowledge": mean["mean"],
                    "low": mean["low"],
                    "high": mean["high"],
                    "loss": row["loss"],
                    "ood": row["ood_avg"],
                }
            )
    return lines


def _by_stratum(
    dynamics: Dynamics, names: dict[tuple[Any, ...], str], draw: Callable[[Any], go.Figure]
) -> dict[str, go.Figure]:
    strata = list(dict.fromkeys(row["stratum"] for row in dynamics.rows))[:MAX_PANELS]
    return {stratum: draw(_lines(dynamics, stratum, names)) for stratum in strata}


def _curves(dynamics: Dynamics, names: dict[tuple[Any, ...], str]) -> Block:
    measure = {
        "known": "the share of facts known, a fact counting where more than half of its probes do",
        "recall": "the mean ROUGE-1 recall of the answers to open questions",
    }
    said = "; ".join(measure[m] for m in dict.fromkeys(row["knowledge"] for row in dynamics.runs))
    caption = (
        f"Top: {said}, with 95% bootstrap intervals over entities. Below, where the run has them: "
        "the training loss, and the mean accuracy out of domain. Epoch 0 is the untrained model."
    )
    figures = _by_stratum(dynamics, names, curves_figure)
    return figure_block("curves", "Knowledge, loss and skills", figures, caption, choice="Stratum")


def _loss(dynamics: Dynamics, names: dict[tuple[Any, ...], str]) -> Block:
    caption = (
        "Each point is an epoch; the loss falls to the right. Where a line runs flat or down, the "
        "loss goes on falling while the model knows no more, or less."
    )
    figures = _by_stratum(dynamics, names, loss_figure)
    return figure_block("loss", "Loss against knowledge", figures, caption, choice="Stratum")


def _flows(dynamics: Dynamics, names: dict[tuple[Any, ...], str]) -> Block:
    figures: dict[str, go.Figure] = {}
    for run in dynamics.runs:
        strata = dict.fromkeys(r["stratum"] for r in dynamics.rows if _key(r) == _key(run))
        for stratum in strata:
            rows = [r for r in dynamics.rows if (_key(r), r["stratum"]) == (_key(run), stratum)]
            label = _panel(names[_key(run)], stratum)
            if len(figures) < MAX_PANELS and len(rows) > 1:
                figures[label] = flows_figure(rows, _UNITS[run["unit"]])
    caption = (
        "What each epoch changed against the one measured before: acquired (not known before), "
        "retained, and, below the line, forgotten. Entities count where their mean recall on open "
        "questions is at least .6; facts where more than half of their probes are answered."
    )
    figures = figures or {"all": flows_figure([], "facts")}
    return figure_block("flows", "Acquired, retained, forgotten", figures, caption, choice="Run")


def _facts(dynamics: Dynamics, names: dict[tuple[Any, ...], str]) -> Block:
    figures: dict[str, go.Figure] = {}
    for run in dynamics.runs[:MAX_PANELS]:
        unit = run["unit"]
        rows = dynamics.entities if unit == "entity" else dynamics.facts
        own = [row for row in rows if _key(row) == _key(run)]
        figures[names[_key(run)]] = facts_figure(own, run["epochs"], unit)
    caption = (
        "One line per fact (or entity), bright where it is known, ordered by the epoch at which it "
        "is first known; gaps in a bright line are forgetting."
    )
    return figure_block("facts", "Fact by fact", figures, caption, choice="Run")


def _survival(dynamics: Dynamics, names: dict[tuple[Any, ...], str]) -> Block:
    strata = list(dict.fromkeys(row["stratum"] for row in dynamics.summary))[:MAX_PANELS]
    figures = {
        stratum: survival_figure(
            {
                names[_key(row)]: row["survival"]
                for row in dynamics.summary
                if row["stratum"] == stratum
            }
        )
        for stratum in strata
    }
    caption = (
        "Of the windows in which a fact is known, the share that outlasts so many epochs (discrete "
        "life table; windows cut off by the end of training count as long as they were seen, those "
        "known before training are left out), with 95% bootstrap intervals over entities."
    )
    return figure_block("survival", "How long knowledge lasts", figures, caption, choice="Stratum")


def _summary(dynamics: Dynamics, names: dict[tuple[Any, ...], str]) -> Block:
    columns = [
        {"label": "run", "kind": "text"},
        {"label": "facts", "kind": "number"},
        {"label": "learned", "kind": "number"},
        {"label": "forgot", "kind": "number"},
        {"label": "learned again", "kind": "number"},
        {"label": "consolidated", "kind": "number", "digits": 2},
        {"label": "non-monotonicity", "kind": "number", "digits": 2},
        {"label": "diverging", "kind": "number", "digits": 2},
        {"label": "regret", "kind": "number", "digits": 3},
    ]
    caption = (
        "Learned, forgot and learned again count events. Consolidated: the share of facts known "
        f"for the last {dynamics.k} epochs or more, among those that had the time. "
        "Diverging: the share of steps on which the loss falls and knowledge does not rise. "
        "Non-monotonicity: sum of drops over sum of changes of mean knowledge (near .5 for flat "
        "noise), and below it the same from either half of the probes. Regret: best knowledge "
        "minus knowledge at the lowest loss, biased upward."
    )
    rows = [_summary_cells(row, names) for row in dynamics.summary]
    return table_block("summary", "Summary", columns, rows, caption)


def _summary_cells(row: Row, names: dict[tuple[Any, ...], str]) -> Sequence[Any]:
    kept, bumps, found = row["consolidated"], row["nonmonotonicity"], row["divergence"] or {}
    halves = f"{number(bumps['half_a'])} and {number(bumps['half_b'])}"
    steps = f"{found['diverging_steps']} of {found['steps']} steps" if found else ""
    # Where no fact had the time to stay known for so long, nothing can be told, not 0.
    share = kept["facts"] / kept["evaluable"] if kept["evaluable"] else None
    of = f"{kept['facts']} of {kept['evaluable']}" if kept["evaluable"] else "cannot be told"
    return [
        _panel(names[_key(row)], row["stratum"]),
        row["facts"],
        row["learning_events"],
        row["forgetting_events"],
        row["relearning_events"],
        {"v": share, "t": number(share), "note": of},
        {"v": bumps["all"], "t": number(bumps["all"]), "note": halves},
        {"v": found.get("share"), "t": number(found.get("share")), "note": steps},
        found.get("regret"),
    ]


def _circuits(dynamics: Dynamics) -> Block:
    columns = [
        {"label": "strategy", "kind": "text"},
        {"label": "epoch", "kind": "number"},
        {"label": "circuit of", "kind": "text"},
        {"label": "Hit@10", "kind": "number", "digits": 4},
        {"label": "logit difference", "kind": "number", "digits": 3},
        {"label": "Hit@10 of the model", "kind": "number", "digits": 4},
    ]
    names = ("strategy", "epoch", "circuit", "hit_at_10", "logit_diff", "model_hit_at_10")
    rows = [[row[name] for name in names] for row in dynamics.circuits]
    caption = "Circuits that the source holds, each on the weights of the epoch in its row."
    return table_block("circuits", "Circuits", columns, rows, caption)


def _panel(name: str, stratum: str) -> str:
    return name if stratum == "all" else f"{name}: {stratum}"
