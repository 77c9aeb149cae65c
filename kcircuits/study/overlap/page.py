"""The page of an overlap between all pairs of epochs."""

from typing import Any

from kcircuits.plots.cells import interval_cell, verdict_cell
from kcircuits.plots.diff import VERDICTS
from kcircuits.plots.overlap import (
    chance_of,
    overlap_figure,
    overlap_table,
    steps_figure,
    turnover_figure,
)
from kcircuits.plots.page import Block, figure_block, render_page, table_block
from kcircuits.plots.theme import number
from kcircuits.study.diff.page import STEP_COLUMNS, step_cells
from kcircuits.study.overlap.epoch_overlap import EpochOverlap
from kcircuits.study.overlap.epoch_steps import EpochSteps

Row = dict[str, Any]


def overlap_page(overlap: EpochOverlap, steps: EpochSteps | None = None) -> str:
    """The overlap, and the steps where there are any, as one self-contained HTML text."""
    blocks = [_matrix(overlap, "jaccard"), _matrix(overlap, "turnover")]
    if steps is not None:
        blocks += [_steps(steps), _step_table(steps), _fact_table(steps)]
    blocks.append(_pair_table(overlap))
    if overlap.options.measures:
        blocks.append(_measure_table(overlap))
    title = f"{overlap.epochs[0]} to {overlap.epochs[-1]}"
    return render_page(
        kind="Circuit overlap", title=title, details=_details(overlap), blocks=blocks
    )


def _details(overlap: EpochOverlap) -> list[Row]:
    params = ", ".join(f"{key} {value}" for key, value in overlap.params.items())
    total, share = overlap.topology.n_edges, 100 * overlap.n_edges / overlap.topology.n_edges
    epochs = [
        {
            "t": epoch,
            "note": (name or "")[:7],
            "mark": "unverified" if epoch in overlap.unverified else None,
        }
        for epoch, name in zip(overlap.epochs, overlap.hashes, strict=True)
    ]
    n_single = len(overlap.without_halves)
    values = {
        "Method": f"{overlap.method} ({params})" if params else overlap.method,
        "Budget": f"{overlap.n_edges:,} of {total:,} edges ({share:.2g}%) per circuit",
        "Compared by": f"{overlap.level}s",
        "Prompts": f"{overlap.n_prompts} {overlap.rows_are} per fact, in halves",
        "Facts": f"{len(overlap.fact_pairs)}"
        + (f" ({n_single} with one prompt are left out)" if n_single else ""),
    }
    rows = [{"label": label, "values": [{"t": text}]} for label, text in values.items()]
    return [{"label": "Epochs", "values": epochs}, *rows]


def _matrix(overlap: EpochOverlap, field: str) -> Block:
    tables = {
        stratum: overlap_table([row for row in overlap.rows if row["stratum"] == stratum])
        for stratum in overlap.summaries
    }
    choice = f"{overlap.by}" if overlap.by else "Show"
    if field == "turnover":
        caption = (
            "The share of the distance between noise ceiling and chance that is missing: 0 where "
            "two epochs differ by no more than two halves of the same prompts do, 1 where they "
            "share no more than chance gives. It may be below 0. Intervals are in the hover text."
        )
        figures = {name: turnover_figure(table) for name, table in tables.items()}
        return figure_block("turnover", "Turnover", figures, caption, choice=choice)
    chance = number(max((chance_of(table) or 0.0 for table in tables.values()), default=None), 3)
    caption = (
        "Mean Jaccard over the facts that are known at both epochs; every cell compares circuits "
        "from one half of a fact's prompts with those from the other half. The framed diagonal "
        "compares an epoch with itself: it is the noise ceiling. Chance alone gives at most "
        f"{chance}."
    )
    figures = {name: overlap_figure(table) for name, table in tables.items()}
    return figure_block("overlap", "Overlap between epochs", figures, caption, choice=choice)


def _steps(steps: EpochSteps) -> Block:
    caption = (
        "Turnover with its 95% interval (jackknife over entities). Filled marks: changed beyond "
        "noise, after Holm over the steps; open marks: not, or it cannot be told."
    )
    figures = {"all": steps_figure(steps.rows, against=steps.against)}
    return figure_block("steps", f"Turnover against {steps.against}", figures, caption)


def _step_table(steps: EpochSteps) -> Block:
    columns = [{"label": "step", "kind": "step"}, *STEP_COLUMNS]
    rows = [
        [{"v": i, "t": f"{row['from']} → {row['to']}"}, *step_cells(row)]
        for i, row in enumerate(steps.rows)
    ]
    caption = (
        "“Cannot tell” means that the data allow neither verdict: it is not the same as no change."
    )
    return table_block("step-table", "Steps", columns, rows, caption)


def _fact_table(steps: EpochSteps) -> Block:
    columns = [
        {"label": "fact", "kind": "text"},
        {"label": "step", "kind": "step"},
        {"label": "stratum", "kind": "text"},
        {"label": "turnover τ", "kind": "number", "digits": 2},
        {"label": "q", "kind": "number", "digits": 4},
        {"label": "verdict", "kind": "verdict"},
    ]
    tested = [row for row in steps.fact_rows if row["q"] is not None]
    rows = [
        [
            row["fact"], f"{row['from']} → {row['to']}", row["stratum"], row["turnover"], row["q"],
            verdict_cell(row, VERDICTS),
        ]
        for row in tested
    ]  # fmt: skip
    caption = (
        "Each fact that could be tested, at each step: q of the swap test by Benjamini and "
        "Hochberg within the step, by Holm over the fact's steps."
    )
    return table_block("fact-steps", "Facts by themselves", columns, rows, caption)


def _pair_table(overlap: EpochOverlap) -> Block:
    names = {
        "jaccard": "Jaccard", "ceiling": "ceiling", "chance": "chance",
        "chance_matched": "chance by layer", "chance_degree": "chance, same degrees",
        "other_facts": "other facts", "turnover": "turnover τ", "gained": "gained",
        "lost": "lost", "kept": "kept", "jaccard_same_prompts": "same prompts",
        "jaccard_pruned": "same prompts, pruned", "swap_p": "p of swapped labels",
        "swap_turnover": "τ of swapped labels, 1 in 20",
    }  # fmt: skip
    counts = {"gained", "lost", "kept"}
    shown = [name for name in names if any(row.get(name) is not None for row in overlap.rows)]
    columns = [
        {"label": "stratum", "kind": "text"},
        {"label": "pair", "kind": "step"},
        {"label": "facts", "kind": "number"},
        *({"label": names[name], "kind": "number"} for name in shown),
    ]
    rows = [
        [
            row["stratum"],
            f"{row['from']} – {row['to']}",
            row["facts"],
            *(interval_cell(row, name, 1 if name in counts else 3) for name in shown),
        ]
        for row in overlap.rows
    ]
    caption = (
        "Each pair of epochs, with 95% intervals over resampled entities. Other facts: the Jaccard "
        "of two facts of the same relation, a floor above chance. Same prompts: full circuits, "
        "descriptive, not to be compared with the ceiling."
    )
    return table_block("pairs", "All pairs", columns, rows, caption)


def _measure_table(overlap: EpochOverlap) -> Block:
    columns = [
        {"label": "measure", "kind": "text"},
        {"label": "stratum", "kind": "text"},
        {"label": "pair", "kind": "step"},
        *(
            {"label": label, "kind": "number", "digits": 3}
            for label in ("value", "ceiling", "chance", "turnover τ")
        ),
    ]
    rows = [
        [
            name, row["stratum"], f"{row['from']} – {row['to']}", interval_cell(one, "value", 3),
            one["ceiling"], one["chance"], interval_cell(one, "turnover", 3),
        ]
        for row in overlap.rows
        for name, one in row["measures"].items()
    ]  # fmt: skip
    caption = (
        "Overlap of circuits whose edges count by |score|: weighted (Ruzicka), Spearman over the "
        "edges of either circuit, rank-biased overlap (p = .98)."
    )
    return table_block("measures", "Other measures", columns, rows, caption)
