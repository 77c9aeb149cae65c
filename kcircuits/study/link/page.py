"""The page of ``kcircuits link --html``."""

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from kcircuits.analysis.link.verdict import WORDS
from kcircuits.plots.cells import interval_cell
from kcircuits.plots.link import edges_figure, null_figure, null_table, steps_figure, strata_figure
from kcircuits.plots.page import Block, cards_block, figure_block, render_page, table_block
from kcircuits.plots.theme import number
from kcircuits.study.link.link import Link
from kcircuits.study.link.tables import StratumTest

Row = dict[str, Any]
N_ITEMS = 30


def link_page(link: Link) -> str:
    """The link as one self-contained HTML text."""
    blocks = [
        _cards(link),
        _steps(link),
        _strata(link),
        _null(link),
        _same_step(link),
        _items_figure(link),
        _items(link, "edge"),
        _items(link, "node"),
    ]
    title = "Turnover and forgetting"
    return render_page(kind="Link to knowledge", title=title, details=_details(link), blocks=blocks)


def _details(link: Link) -> list[Row]:
    def about(row: Row) -> Row:
        note = f"{row['facts']} facts, {len(row['epochs'])} epochs, {row['method']}"
        return {"t": _run_name(row), "note": note}

    within = ", ".join(link.within) or "nothing: all entities are alike"
    return [
        {"label": "Runs", "values": [about(row) for row in link.runs]},
        {"label": "Facts by", "values": [{"t": link.by or "all together"}]},
        {"label": "Exchanged within", "values": [{"t": within}]},
        {"label": "Exchanges drawn", "values": [{"t": f"{link.n_permutations:,}"}]},
    ]


def _run_name(row: Row) -> str:
    seed = None if row["seed"] is None else f"seed {row['seed']}"
    return ", ".join(str(part) for part in (row["strategy"] or row["run"], seed) if part)


def _name(link: Link, row: Row) -> str:
    """What tells a row from others: the strategy where there are several, the stratum."""
    parts = [row["model"], row["strategy"]] if len(link.groups) > 1 else []
    parts += [row["stratum"]] if row.get("stratum", "all") != "all" or not parts else []
    return ", ".join(str(part) for part in parts if part)


def _cards(link: Link) -> Block:
    cards = [
        {
            "label": f"AUROC before forgetting, {_name(link, row)}",
            "value": number(row["auroc"]),
            "note": f"{WORDS[row['verdict']]}: {row['reason']}",
        }
        for row in link.rows[:4]
    ]
    for found in link.distinctions[:2]:
        row = found.row()
        note = row["reason"] or (
            f"of {row['tested']} tested, at a false discovery rate of 5%, between "
            f"{row['consolidated']} consolidated and {row['transient']} transient facts"
        )
        value = "–" if row["found"] is None else str(row["found"])
        cards.append({"label": f"{row['level']}s that distinguish", "value": value, "note": note})
    caption = (
        "Does the circuit of a fact change before the fact is forgotten, and is the circuit of a "
        "fact that stays another one from the start? AUROC: the chance that a fact about to be "
        "forgotten has turned over more than one that stays, in the same step; .5 is no link."
    )
    return cards_block("summary", "Summary", cards, caption)


def _by_group(link: Link, draw: Callable[[Row], go.Figure]) -> dict[str, go.Figure]:
    """A figure for each model and strategy."""
    heads = {group: {"model": group[0], "strategy": group[1]} for group in link.groups}
    return {
        ", ".join(part for part in group if part) or "all": draw(head)
        for group, head in heads.items()
    }


def _of(rows: list[Row], head: Row) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in head.items())]


def _steps(link: Link) -> Block:
    caption = (
        "Facts known at both ends of the step. Diamond: not known at the epoch after it; dot: "
        "still known. Turnover of edges, all training seeds together; bars: 95% jackknife "
        "intervals over entities, absent with fewer than ten. Not adjusted: see the next figure."
    )
    figures = _by_group(link, lambda head: steps_figure(_of(link.steps, head)))
    return figure_block("steps", "Turnover of each step", figures, caption, choice="Runs")


def _strata(link: Link) -> Block:
    caption = (
        "Dot: with stratum, exposure and how safely the fact was known held constant; ring: within "
        "steps alone. 95% intervals over entities. A claim needs three training seeds: they stand "
        "below their strata."
    )
    figures: dict[str, go.Figure] = {}
    for head in ({"model": g[0], "strategy": g[1]} for g in link.groups):
        rows = [{**row, "name": f"{row['stratum']}, all seeds"} for row in _of(link.rows, head)]
        rows += [
            {**row, "name": f"{row['stratum']}, {_run_name(row)}"} for row in _of(link.seeds, head)
        ]
        rows.sort(key=lambda row: row["stratum"])
        label = ", ".join(part for part in head.values() if part) or "all"
        figures[label] = strata_figure(rows, "name")
    return figure_block("strata", "Turnover before forgetting", figures, caption, choice="Runs")


def _null(link: Link) -> Block:
    def draw(test: StratumTest) -> go.Figure:
        pooled = test.pooled
        return null_figure(null_table(pooled.null, pooled.z), pooled.z, pooled.p)

    figures = {_name(link, test.row()): draw(test) for test in link.tests[:24]}
    caption = (
        "Bars: the statistic after whole knowledge trajectories were exchanged between entities of "
        "one stratum and exposure, epochs aligned, in all training seeds at once. Line: as it was. "
        "p counts both sides."
    )
    return figure_block("null", "What chance gives", figures, caption, choice="Stratum")


def _same_step(link: Link) -> Block:
    columns = [
        {"label": "stratum", "kind": "text"},
        {"label": "in the step", "kind": "text"},
        {"label": "fact-steps", "kind": "number"},
        {"label": "entities", "kind": "number"},
        {"label": "ceiling", "kind": "number", "digits": 2},
        {"label": "turnover τ", "kind": "number"},
    ]
    rows = [
        [_name(link, row), row["change"], row["fact_steps"], row["entities"], row["ceiling"],
         interval_cell(row, "turnover")]
        for row in link.same_step
    ]  # fmt: skip
    caption = (
        "Descriptive. The circuit of a fact that is not known is not the circuit of that fact, so "
        "only the row of retained facts compares a fact's circuit with itself. Lapsed: known at "
        "neither end, but before. Ceiling: overlap k of two halves of the prompts."
    )
    return table_block("same-step", "Turnover in the same step", columns, rows, caption)


def _items_figure(link: Link) -> Block:
    figures = {
        f"{', '.join(str(p) for p in (f.sources[0].strategy,) if p)} {f.level}s".strip(): (
            edges_figure(f.items(N_ITEMS), f.level)
        )
        for f in link.distinctions
    }
    caption = (
        f"Consolidated: known from the epoch of acquisition to the last, at least {link.k} epochs. "
        "Transient: acquired and lost again. Circuits are those of the epoch at which the fact is "
        f"first known. The {N_ITEMS} items of smallest p; whether they differ more than chance "
        "would have them is in the tables below."
    )
    return figure_block("items", "Facts that stay and facts that go", figures, caption)


def _items(link: Link, level: str) -> Block:
    columns = [
        {"label": level, "kind": "text"},
        {"label": "consolidated", "kind": "number", "digits": 2},
        {"label": "transient", "kind": "number", "digits": 2},
        {"label": "difference", "kind": "number", "digits": 2},
        {"label": "p", "kind": "number", "digits": 4},
        {"label": "q", "kind": "number", "digits": 3},
        {"label": "seeds agree", "kind": "number"},
    ]
    rows: list[list[Any]] = []
    told: list[str] = []
    for found in (one for one in link.distinctions if one.level == level):
        row = found.row()
        told.append(distinction_text(row))
        names = ("share_consolidated", "share_transient", "difference", "p", "q", "agreeing_seeds")
        rows += [[item[level], *(item[n] for n in names)] for item in found.items(N_ITEMS)]
    caption = " ".join(told) + (
        " Shares of facts; the difference is within strata; p from exchanging what became of the "
        "facts between entities; q after Benjamini and Hochberg."
    )
    title = f"{level.capitalize()}s that distinguish"
    return table_block(f"{level}s", title, columns, rows, caption)


def distinction_text(row: Row) -> str:
    """A row of ``distinctions`` in words."""
    facts = f"{row['consolidated']} consolidated and {row['transient']} transient facts"
    if row["reason"]:
        return f"{row['level']}s, {facts}: cannot tell, {row['reason']}."
    return (
        f"{row['found']} of {row['tested']} {row['level']}s tested distinguish {facts} "
        f"(first known at epoch {number(row['acquired_at_consolidated'], 1)} and "
        f"{number(row['acquired_at_transient'], 1)} on average)."
    )
