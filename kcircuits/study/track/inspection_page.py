"""The page of ``kcircuits inspect FACT --html``: one fact over epochs."""

from typing import Any

from kcircuits.plots.cells import interval_cell, verdict_cell
from kcircuits.plots.circuit import N_DRAWN, circuit_table
from kcircuits.plots.diff import VERDICTS
from kcircuits.plots.fact import presence_figure, score_figure
from kcircuits.plots.page import (
    Block,
    cards_block,
    circuit_block,
    figure_block,
    render_page,
    table_block,
)
from kcircuits.plots.theme import number
from kcircuits.study.diff.page import arcs_text
from kcircuits.study.track.inspection import N_EDGES, Inspection
from kcircuits.study.track.page import details_of

Row = dict[str, Any]
N_LINES = 7
N_STRIP = 30


def inspection_page(found: Inspection) -> str:
    """The fact as one self-contained HTML text."""
    fact = found.fact
    about = {
        "Fact": f"{fact.subject} – {fact.relation} → {fact.object}",
        "Strata": ", ".join(f"{key} {value}" for key, value in fact.strata.items()) or "none",
        "Run": found.track.run,
    }
    details = [{"label": label, "values": [{"t": text}]} for label, text in about.items()]
    blocks = [
        _summary(found),
        _strip(found),
        _scores(found),
        _circuit(found),
        _epochs(found),
        _steps(found),
        _edges(found),
        _prompts(found),
    ]
    return render_page(
        kind="Fact", title=fact.id, details=[*details, *details_of(found.track)], blocks=blocks
    )


def _summary(found: Inspection) -> Block:
    judged = [row["verdict"] for row in found.steps]
    words = [VERDICTS[word] for word in judged if word]
    told = ", ".join(f"{words.count(word)} × {word}" for word in dict.fromkeys(words))
    known = [row["epoch"] for row in found.rows if row["known"]]
    cards = [
        {"label": "knowledge", "value": found.knowledge, "note": f"known at {len(known)} epochs"},
        {"label": "core", "value": str(len(found.core)),
         "note": f"{found.track.level}s there at every epoch at which it is known"},
        {"label": "edges seen", "value": str(len(found.edges)),
         "note": f"{len(found.changed_edges)} were born or died"},
        {"label": "steps", "value": str(len(found.steps)), "note": told or "none judged"},
    ]  # fmt: skip
    return cards_block("summary", "Summary", cards, "The fact over these epochs.")


def _strip(found: Inspection) -> Block:
    epochs = found.track.epochs
    figures = {
        "strongest": presence_figure(found.edges[:N_STRIP], epochs),
        "born or died": presence_figure(found.changed_edges[:N_STRIP], epochs),
    }
    caption = (
        "Dark with a full dot: the edge is in the circuits of both halves of the prompts, in at "
        "least half of the splits; light with a half dot: undecided; grey: in neither. At most "
        f"{N_STRIP} edges, by their largest score at any epoch."
    )
    return figure_block("presence", "Edges over epochs", figures, caption, choice="Edges")


def _scores(found: Inspection) -> Block:
    meaning, epochs = found.track.meaning, found.track.epochs
    figures = {
        "strongest": score_figure(found.edges[:N_LINES], epochs, meaning.axis),
        "born or died": score_figure(found.changed_edges[:N_LINES], epochs, meaning.axis),
    }
    caption = (
        f"Mean {meaning.names} over the discovery prompts. {meaning.sentence} Filled: the edge is "
        "in both halves of the prompts at that epoch."
    )
    return figure_block("scores", "Their scores", figures, caption, choice="Edges")


def _circuit(found: Inspection) -> Block:
    track, circuits, fact = found.track, found.one.circuits, found.fact
    cells = [
        {
            "table": circuit_table(
                circuits.candidates,
                circuits.scores[i],
                track.topology,
                fact=fact.id,
                epoch=epoch,
                n_edges=min(N_DRAWN, track.n_edges),
            ),
            "n_selected": track.n_edges,
            "stats": [
                ("known", "yes" if circuits.is_known[i] else "no"),
                ("entropy", number(row["entropy"])),
                ("depth", number(row["depth"])),
            ],
        }
        if circuits.has_cell[i]
        else None
        for i, (epoch, row) in enumerate(zip(track.epochs, found.rows, strict=True))
    ]
    label = f"{fact.id} · {fact.subject} – {fact.relation} → {fact.object}"
    facts = [{"id": fact.id, "label": label}]
    caption = f"The circuit at an epoch. {arcs_text(track.meaning)}"
    return circuit_block(
        "circuit", "Circuit", track.topology, facts, track.epochs, [cells], track.meaning, caption
    )


def _epochs(found: Inspection) -> Block:
    columns = [
        {"label": "epoch", "kind": "text"},
        {"label": "known", "kind": "dots"},
        {"label": "prob", "kind": "number", "digits": 3},
        {"label": "rank", "kind": "number", "digits": 1},
        {"label": "faithfulness", "kind": "number", "digits": 2},
        {"label": f"{found.track.level}s there", "kind": "number"},
        {"label": "entropy", "kind": "text"},
        {"label": "depth", "kind": "text"},
        {"label": "hubs", "kind": "text"},
    ]
    rows = [
        [
            row["epoch"],
            {True: "●", False: "○", None: ""}[row["known"]],
            row["prob"],
            row["rank"],
            row["faithfulness"],
            row["there"],
            _with_noise(row, "entropy"),
            _with_noise(row, "depth"),
            ", ".join(row["hubs"] or []),
        ]
        for row in found.rows
    ]
    caption = (
        "Probability and rank of the answer under the full model, mean over the probe prompts; "
        "faithfulness of the circuit on the evaluation prompts. After ±: by how much entropy and "
        "depth differ between halves of the prompts."
    )
    return table_block("epochs", "Epochs", columns, rows, caption)


def _with_noise(row: Row, name: str) -> str | None:
    if row[name] is None:
        return None
    return f"{number(row[name])} ± {number(row[f'{name}_noise'])}"


def _steps(found: Inspection) -> Block:
    columns = [
        {"label": "from", "kind": "text"},
        {"label": "to", "kind": "text"},
        {"label": "born", "kind": "number"},
        {"label": "died", "kind": "number"},
        {"label": "noise", "kind": "number", "digits": 1},
        {"label": "kept", "kind": "number"},
        {"label": "turnover τ", "kind": "number"},
        {"label": "verdict", "kind": "verdict"},
    ]
    rows = [
        [
            *(row[name] for name in ("from", "to", "born", "died", "noise", "kept")),
            interval_cell(row, "turnover"),
            verdict_cell(row, VERDICTS),
        ]
        for row in found.steps
    ]
    caption = (
        "Noise: births and deaths together, with the epoch labels of some prompts swapped. The "
        "verdict is the one that the fact has among all facts of the step."
    )
    return table_block("steps", "Steps", columns, rows, caption)


def _edges(found: Inspection) -> Block:
    columns = [
        {"label": "edge", "kind": "text"},
        *({"label": name, "kind": "text"} for name in ("first seen", "last seen")),
        *({"label": name, "kind": "number"} for name in ("epochs", "spells")),
        *({"label": name, "kind": "text"} for name in ("born", "died", "core")),
    ]
    shown = list(
        {
            row["edge"]: row for row in (*found.edges[:N_EDGES], *found.changed_edges[:N_EDGES])
        }.values()
    )
    rows = [
        [
            row["edge"], row["first_seen"], row["last_seen"], row["epochs_present"],
            row["spells"], ", ".join(row["born"]), ", ".join(row["died"]),
            "yes" if row["core"] else "",
        ]
        for row in shown
    ]  # fmt: skip
    caption = f"The {N_EDGES} strongest edges, and the {N_EDGES} strongest that were born or died."
    return table_block("edges", "Histories", columns, rows, caption)


def _prompts(found: Inspection) -> Block:
    columns = [
        {"label": name, "kind": "text"} for name in ("use", "clean", "corrupt", "target", "foil")
    ]
    rows = [
        [found.fact.use_of(i), prompt.clean, prompt.corrupt, prompt.target, prompt.foil]
        for i, prompt in enumerate(found.fact.prompts)
    ]
    caption = "Circuits are found on discovery prompts and judged on evaluation prompts."
    return table_block("prompts", "Prompts", columns, rows, caption)
