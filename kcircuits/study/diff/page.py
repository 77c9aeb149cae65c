"""The page of one diff, and the columns that diffs have wherever they are tabled."""

from collections.abc import Mapping
from typing import Any

from kcircuits.core.score_meaning import ScoreMeaning
from kcircuits.plots.cells import interval_cell, verdict_cell
from kcircuits.plots.circuit import N_DRAWN, circuit_table
from kcircuits.plots.diff import (
    N_EDGES,
    VERDICTS,
    diff_figure,
    diff_table,
    edge_figure,
    edge_table,
)
from kcircuits.plots.page import (
    Block,
    cards_block,
    circuit_block,
    figure_block,
    render_page,
    table_block,
)
from kcircuits.plots.theme import number
from kcircuits.study.diff.diff import Diff

Row = dict[str, Any]
N_NODES = 30
_OVERLAP_COLUMNS: tuple[Mapping[str, Any], ...] = (
    {"label": "Jaccard", "kind": "number", "digits": 3},
    {"label": "ceiling", "kind": "number", "digits": 3},
    {"label": "chance", "kind": "number", "digits": 3},
    {"label": "turnover τ", "kind": "number"},
    {"label": "verdict", "kind": "verdict"},
)
STEP_COLUMNS: tuple[Mapping[str, Any], ...] = (
    {"label": "stratum", "kind": "text"},
    {"label": "facts", "kind": "number"},
    {"label": "gained", "kind": "number", "digits": 1},
    {"label": "lost", "kind": "number", "digits": 1},
    {"label": "kept", "kind": "number", "digits": 1},
    *_OVERLAP_COLUMNS,
)


def step_cells(row: Row) -> list[Any]:
    """A row of ``Diff.rows`` as table cells under ``STEP_COLUMNS``."""
    names = ("stratum", "facts", "gained", "lost", "kept")
    return [*(row[name] for name in names), *_overlap_cells(row)]


def arcs_text(meaning: ScoreMeaning) -> str:
    """What colour, width and darkness of an arc say."""
    if meaning.helps is None:
        return f"Wider and darker means stronger. {meaning.sentence}"
    return (
        "Green arcs help the model give the fact's answer, purple ones work against it; wider and "
        "darker means stronger."
    )


def diff_page(diff: Diff) -> str:
    """The diff as one self-contained HTML text."""
    document = diff.to_json(n_edges=N_EDGES)
    level = "90%" if len(diff.fact_diffs) == 1 else "95%"
    start, stop = diff.epochs
    figure = edge_figure(edge_table(document), start=start, stop=stop, meaning=diff.meaning)
    blocks = [
        _summary(diff),
        figure_block(
            "overlap",
            "Overlap and turnover",
            {"all": diff_figure(diff_table(document))},
            "Upper panel: how alike the circuits of the two epochs are (dot), between chance "
            "(cross) and the noise ceiling (bar), which is what no change at all would give. "
            f"Lower panel: turnover, the share of that distance which is missing, with its {level} "
            "interval; an interval that includes 0 is no evidence of change.",
        ),
        _strata_table(diff),
        _circuits(diff),
        figure_block(
            "edges",
            "Edges that changed most",
            {"all": figure},
            f"At most {N_EDGES} edges that replicate in both halves of the prompts, by change of "
            f"{diff.meaning.name}. Ring: at {start}; dot: at {stop}. {diff.meaning.sentence} "
            "Gained and lost edges entered or left the circuit.",
        ),
        _node_table(diff),
        _fact_table(diff),
    ]
    return render_page(
        kind="Circuit diff", title=f"{start} → {stop}", details=_details(diff), blocks=blocks
    )


def _overlap_cells(row: Row) -> list[Any]:
    values = [row[name] for name in ("jaccard", "ceiling", "chance")]
    return [*values, interval_cell(row, "turnover"), verdict_cell(row, VERDICTS)]


def _details(diff: Diff) -> list[Row]:
    params = ", ".join(f"{key} {value}" for key, value in diff.params.items())
    total, share = diff.topology.n_edges, 100 * diff.n_edges / diff.topology.n_edges
    budget = f"{diff.n_edges:,} of {total:,} edges ({share:.2g}%) per circuit"
    same = number(diff.jaccard_same_prompts, 3)
    epochs = [
        {"t": epoch, "note": name[:7], "mark": "unverified" if epoch in diff.unverified else None}
        for epoch, name in zip(diff.epochs, diff.hashes, strict=True)
    ]
    missing = f" ({len(diff.missing)} lack a result)" if diff.missing else ""
    values = {
        "Method": f"{diff.method} ({params})" if params else diff.method,
        "Budget": budget,
        "Compared by": f"{diff.level}s",
        "Prompts": f"{diff.n_prompts} {diff.rows_are} per fact, in halves",
        "Facts": f"{len(diff.fact_diffs)}{missing}",
        "Same prompts": f"Jaccard {same}: descriptive, not to be compared with the ceiling",
    }
    rows = [{"label": label, "values": [{"t": text}]} for label, text in values.items()]
    return [{"label": "Epochs", "values": epochs}, *rows]


def _summary(diff: Diff) -> Block:
    cards = [
        {
            "label": f"turnover, {diff.by} {row['stratum']}" if diff.by else "turnover",
            "value": number(row["turnover"]),
            "note": f"{VERDICTS[row['verdict']]}: {row['reason']}",
        }
        for row in diff.rows[:4]
    ]
    step = diff.facts
    for label, ids in (("acquired", step.acquired), ("forgotten", step.forgotten)):
        shown = ", ".join(ids[:4]) + (" …" if len(ids) > 4 else "")
        cards.append({"label": f"facts {label}", "value": str(len(ids)), "note": shown})
    return cards_block("summary", "Summary", cards, "What happened between the two epochs.")


def _strata_table(diff: Diff) -> Block:
    caption = (
        f"Means over facts known at both epochs. Gained, lost and kept count {diff.level}s per "
        "fact that replicate in both halves of the prompts. “Cannot tell” means that the data "
        "allow neither verdict: it is not the same as no change."
    )
    rows = [step_cells(row) for row in diff.rows]
    return table_block("strata", "By stratum", STEP_COLUMNS, rows, caption)


def _circuits(diff: Diff) -> Block:
    facts = [
        {"id": f.id, "label": f"{f.id} · {f.subject} – {f.relation} → {f.object}"}
        for f in (one.fact for one in diff.fact_diffs)
    ]
    cells = [
        [
            {
                "table": circuit_table(
                    one.candidates,
                    one.scores[i],
                    diff.topology,
                    fact=one.fact.id,
                    epoch=diff.epochs[i],
                    n_edges=min(N_DRAWN, diff.n_edges),
                ),
                "n_selected": diff.n_edges,
                "stats": [("known", "yes" if one.known[i] else "no")],
            }
            for i in (0, 1)
        ]
        for one in diff.fact_diffs
    ]
    caption = (
        f"The fact's circuit at either epoch. {arcs_text(diff.meaning)} The number of arcs drawn "
        "stands above the figure."
    )
    return circuit_block(
        "circuit",
        "Circuit of a fact",
        diff.topology,
        facts,
        diff.epochs,
        cells,
        diff.meaning,
        caption,
    )


def _node_table(diff: Diff) -> Block:
    columns = [
        {"label": "node", "kind": "text"},
        {"label": "layer", "kind": "number"},
        *({"label": f"{name} in facts", "kind": "number"} for name in ("gained", "lost", "kept")),
    ]
    names = ("node", "layer", "gained", "lost", "kept")
    rows = [[row[name] for name in names] for row in diff.nodes[:N_NODES]]
    caption = f"At most {N_NODES} heads and MLPs that entered or left the most circuits."
    return table_block("nodes", "Nodes that changed most", columns, rows, caption)


def _fact_table(diff: Diff) -> Block:
    columns = [
        {"label": "fact", "kind": "fact"},
        {"label": "stratum", "kind": "text"},
        {"label": "known", "kind": "dots"},
        *_OVERLAP_COLUMNS,
    ]
    rows = [
        [
            row["fact"],
            row["stratum"],
            "".join("●" if known else "○" for known in row["known"]),
            *_overlap_cells(row),
        ]
        for row in diff.fact_rows
    ]
    caption = (
        "Each fact by itself; the dots say whether it is known at the first and at the second "
        "epoch. The interval of a single fact is a 90% one."
    )
    return table_block("facts", "Facts", columns, rows, caption)
