"""The report of a run: one page with its circuits, overlaps, knowledge, steps and facts.

Reads a ``Run``, makes the tables of ``plots`` and puts them into one HTML text.
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from kcircuits.core.cell import Cell
from kcircuits.errors import KCircuitsError
from kcircuits.io.manifest import load_manifest
from kcircuits.io.run_record import CheckpointRecord
from kcircuits.plots.cells import interval_text
from kcircuits.plots.circuit import N_DRAWN, circuit_table
from kcircuits.plots.diff import VERDICTS
from kcircuits.plots.knowledge import knowledge_figure, knowledge_table, loss_table
from kcircuits.plots.overlap import (
    chance_of,
    overlap_figure,
    overlap_table,
    steps_figure,
    turnover_figure,
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
from kcircuits.study.comparison.beside import beside_blocks, read_beside
from kcircuits.study.diff.page import STEP_COLUMNS, arcs_text, step_cells
from kcircuits.study.meaning import rows_are
from kcircuits.study.overlap.epoch_overlap import EpochOverlap
from kcircuits.study.results import (
    Results,
    cell_value,
    epoch_overlap,
    facts_by_stratum,
    read_results,
    step_rows,
)
from kcircuits.study.run import Run

Row = dict[str, Any]


def report_page(run: Run) -> str:
    """The report as one self-contained HTML text; a sweep that is not finished gives its part.

    Raises:
        IncomparableError: The run has no result yet.
        StoreCorruptError: What was read is not what was committed.
    """
    results = read_results(run)
    overlap, beside = epoch_overlap(results), read_beside(results)
    steps = step_rows(results, overlap)
    blocks = [
        _summary(results, steps),
        _circuits(results),
        *(beside_blocks(beside) if beside else ()),
        _overlap(overlap),
        *([_turnover(steps)] if steps else ()),
        _knowledge(run),
        _step_table(steps),
        _fact_table(results),
    ]
    return render_page(kind="Run report", title=run.name, details=_details(results), blocks=blocks)


def _details(results: Results) -> list[Row]:
    run, topology = results.run, results.topology
    params = ", ".join(
        f"{key} {value}" for key, value in results.cells[0].provenance.params.items()
    )
    share = 100 * results.n_edges / topology.n_edges
    prompts = sorted({len(cell.prompt_idx) for cell in results.cells})
    missing = len(run.fact_ids) * len(run.epochs) - len(results.cells)
    values = {
        "Model": f"{_base_model(run)}{topology.n_layers} layers of {topology.n_heads} heads",
        "Method": f"{run.method} ({params})" if params else run.method,
        "Budget": f"{results.n_edges:,} of {topology.n_edges:,} edges ({share:.2g}%) per circuit",
        "Prompts": f"{' or '.join(map(str, prompts))} "
        f"{rows_are(results.cells[0].provenance)} per fact, in halves",
        "Facts": f"{len(run.fact_ids)}" + (f" ({missing} results are missing)" if missing else ""),
    }
    details: list[Row] = [{"label": k, "values": [{"t": t}]} for k, t in values.items()]
    return [*details, {"label": "Epochs", "values": [_epoch(c) for c in run.checkpoints]}]


def _base_model(run: Run) -> str:
    """The model's name from the manifest, if that is still where the run found it."""
    try:
        name = load_manifest(run.path / run.record.manifest).base_model
    except KCircuitsError:
        return ""
    return f"{PurePath(name).name}, "


def _epoch(checkpoint: CheckpointRecord) -> Row:
    note = (checkpoint.content_hash or "")[:7]
    return {
        "t": checkpoint.id,
        "note": note,
        "mark": None if checkpoint.is_verified else "unverified",
    }


# ---- blocks ------------------------------------------------------------------------------------


def _summary(results: Results, steps: Sequence[Row]) -> Block:
    grid, first, last = results.grid, results.epochs[0], results.epochs[-1]
    known = [sum(bool((cell := line[i]) and cell.is_known) for line in grid) for i in (0, -1)]
    cards = [
        {
            "label": "facts known",
            "value": f"{known[0]} → {known[1]}" if first != last else str(known[0]),
            "note": f"of {len(grid)}, {first} → {last}" if first != last else f"of {len(grid)}",
        }
    ]
    if losses := loss_table(results.run.train):
        values = [number(losses[i]["loss"]) for i in (0, -1)]
        note = f"nats per token, epoch {losses[0]['epoch']:g} → {losses[-1]['epoch']:g}"
        cards.append({"label": "training loss", "value": " → ".join(values), "note": note})
    judged = [v for line in grid if (v := cell_value(line[-1], "faithfulness")) is not None]
    cards.append(
        {
            "label": f"faithfulness at {last}",
            "value": number(float(np.mean(judged)) if judged else None),
            "note": f"mean over {len(judged)} of {len(grid)} facts"
            + ("; the rest cannot be judged" * (len(judged) < len(grid))),
        }
    )
    overall = [row for row in steps if row["stratum"] == "all" and row["turnover"] is not None]
    if overall:
        top = max(overall, key=lambda row: row["turnover"])
        note = f"{top['from']} → {top['to']}: {VERDICTS[top['verdict']]} ({top['reason']})"
        value = interval_text(top, "turnover")
        cards.append({"label": "largest turnover", "value": value, "note": note})
    caption = (
        "What the model knows, what it cost and how much the circuits behind it moved. Turnover is "
        "0 where two epochs differ by no more than two halves of the same prompts do, 1 where they "
        "have no more in common than chance."
    )
    return cards_block("summary", "Summary", cards, caption)


def _circuits(results: Results) -> Block:
    topology, epochs = results.topology, results.epochs
    facts = [
        {"id": f.id, "label": f"{f.id} · {f.subject} – {f.relation} → {f.object}"}
        for f in results.run.facts
    ]
    cells = [
        [
            cell
            and {
                "table": circuit_table(
                    cell.candidates,
                    cell.prompt_scores.mean(axis=0),
                    topology,
                    fact=cell.fact_id,
                    epoch=epoch,
                    n_edges=min(N_DRAWN, cell.n_edges),
                ),
                "n_selected": cell.n_edges,
                "stats": _stats(cell),
            }
            for cell, epoch in zip(line, epochs, strict=True)
        ]
        for line in results.grid
    ]
    caption = (
        "Each dot is a part of the model: attention heads by layer and index, with each layer's "
        "MLP beyond the last head. An arc carries information from an earlier part to a later "
        f"one. {arcs_text(results.meaning)} The number of arcs drawn stands above the figure: at "
        f"most the {N_DRAWN} strongest. Part of what changes from one epoch to the next is "
        "noise of the method: the next figure says how much."
    )
    title = "Circuit of a fact"
    return circuit_block("circuit", title, topology, facts, epochs, cells, results.meaning, caption)


def _stats(cell: Cell) -> list[tuple[str, str]]:
    edges = cell_value(cell, "n_circuit_edges")
    return [
        ("known", "yes" if cell.is_known else "no"),
        ("answer probability", number(cell_value(cell, "prob"), 3)),
        ("faithfulness", number(cell_value(cell, "faithfulness"))),
        ("Hit@10", number(cell_value(cell, "hit_at_10"))),
        ("edges without dangling ones", "–" if edges is None else f"{edges:.0f}"),
    ]


def _overlap(overlap: EpochOverlap) -> Block:
    table = overlap_table(overlap.rows)
    caption = (
        "How alike the circuits of two epochs are, as the mean Jaccard over the facts that are "
        "known at both (their number is in the hover text). Every cell compares circuits from one "
        "half of a fact's prompts with those from the other half. The framed diagonal compares an "
        "epoch with itself: it is the noise ceiling, about what two epochs without any change "
        "would reach. A pair differs only as far as it stays below the diagonal cells of its two "
        f"epochs; chance alone gives {number(chance_of(table), 3)}. Turnover is the share of the "
        "distance between ceiling and chance that is missing."
    )
    figures = {"Jaccard": overlap_figure(table), "turnover": turnover_figure(table)}
    return figure_block("overlap", "Overlap between epochs", figures, caption)


def _turnover(steps: Sequence[Row]) -> Block:
    caption = (
        "Turnover from each epoch to the next with its 95% interval: 0 where the two epochs differ "
        "by no more than two halves of the same prompts do. A filled mark is a change beyond noise "
        "(see the table of steps)."
    )
    figures = {"all": steps_figure(steps, against="previous")}
    return figure_block("turnover", "Turnover from epoch to epoch", figures, caption)


def _knowledge(run: Run) -> Block:
    losses = loss_table(run.train)
    figures = {
        key: knowledge_figure(knowledge_table(run.probes, strata), losses)
        for key, strata in facts_by_stratum(run.facts).items()
    }
    caption = (
        "Top: the share of facts that the model knows, on questions it was never trained on; a "
        "fact counts where more than half of its questions put the answer first among the "
        "candidates. Middle: the probability of the answer. Bottom: the training loss, which can "
        "fall while knowledge does not rise."
    )
    return figure_block("knowledge", "Knowledge and loss", figures, caption, choice="Facts by")


def _step_table(steps: Sequence[Row]) -> Block:
    caption = (
        "Change from each epoch to the next. Jaccard lies between chance and the noise ceiling; "
        "turnover is what is missing to the ceiling, with its 95% interval; p in a verdict is "
        "adjusted for the number of steps (Holm). “Cannot tell” means that the data "
        "allow neither verdict: it is not the same as no change."
    )
    columns = [{"label": "step", "kind": "step"}, *STEP_COLUMNS]
    rows = [
        [{"v": i, "t": f"{row['from']} → {row['to']}"}, *step_cells(row)]
        for i, row in enumerate(steps)
    ]
    return table_block("steps", "Change from epoch to epoch", columns, rows, caption)


def _fact_table(results: Results) -> Block:
    first, last = results.epochs[0], results.epochs[-1]
    ends = tuple(dict.fromkeys((first, last)))
    columns = [
        {"label": "fact", "kind": "fact"},
        *(
            {"label": label, "kind": "text"}
            for label in ("subject", "relation", "object", "strata")
        ),
        {"label": "known", "kind": "dots"},
        *({"label": f"p at {epoch}", "kind": "number", "digits": 3} for epoch in ends),
        {"label": "faithfulness", "kind": "number", "digits": 2},
        {"label": "Hit@10", "kind": "number", "digits": 2},
        {"label": "edges", "kind": "number"},
    ]
    judged = ("faithfulness", "hit_at_10", "n_circuit_edges")
    rows = [
        [
            fact.id, fact.subject, fact.relation, fact.object, ", ".join(fact.strata.values()),
            _dots(line), *(cell_value(end, "prob") for end in (line[0], line[-1])[-len(ends) :]),
            *(cell_value(line[-1], name) for name in judged),
        ]
        for fact, line in zip(results.run.facts, results.grid, strict=True)
    ]  # fmt: skip
    caption = (
        f"Known: one dot per epoch, {first} to {last}; filled where the model "
        "knows the fact. p is the probability of the answer. Faithfulness (1: the circuit does "
        "all that the model does; a dash where the model's preference is too weak to judge), "
        f"Hit@10 and edges are those of the circuit at {last}. A fact's name opens its "
        "circuit; a column's name sorts."
    )
    return table_block("facts", "Facts", columns, rows, caption)


def _dots(line: Sequence[Cell | None]) -> Row:
    text = "".join("·" if cell is None else "●" if cell.is_known else "○" for cell in line)
    return {"v": text.count("●"), "t": text}
