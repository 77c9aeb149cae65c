"""The page of a run's lenses."""

from collections.abc import Iterable, Sequence
from typing import Any

from kcircuits.plots.lenses import (
    heads_figure,
    lens_figure,
    parts_figure,
    role_map_figure,
    roles_figure,
)
from kcircuits.plots.page import Block, figure_block, render_page, table_block
from kcircuits.plots.theme import number
from kcircuits.study.lenses.lenses import RunLenses
from kcircuits.study.lenses.tables import role_map_rows

Row = dict[str, Any]
N_HEADS = 15


def lenses_page(lenses: RunLenses) -> str:
    """The lenses as one self-contained HTML text."""
    blocks = [
        _lens(lenses),
        _parts(lenses),
        _roles(lenses),
        _heads(lenses),
        _role_map(lenses),
        _steps(lenses),
        _head_steps(lenses),
    ]
    return render_page(kind="Lenses", title=lenses.run, details=_details(lenses), blocks=blocks)


def _details(lenses: RunLenses) -> list[Row]:
    epochs = [
        {"t": epoch, "note": digest[:7]}
        for epoch, digest in zip(lenses.epochs, lenses.hashes, strict=True)
    ]
    what = "all text but the subject" if lenses.settings["relation"] == "text" else "marked spans"
    return [
        {"label": "Epochs", "values": epochs},
        {"label": "Facts", "values": [{"t": str(len(lenses.facts))}]},
        {"label": "Prompts", "values": [{"t": "discovery prompts, first token of the answer"}]},
        {"label": "Relation", "values": [{"t": what}]},
        {"label": "Intervals", "values": [{"t": f"95%, over {lenses.interval_over}"}]},
    ]


def _lens(lenses: RunLenses) -> Block:
    rows = lenses.lens_rows
    figures = {
        f"{label}{_of(stratum, rows)}": lens_figure(own, quantity=quantity)
        for quantity, label in (("prob", "probability"), ("rank", "rank"))
        for stratum, own in _by("stratum", rows)
    }
    caption = (
        "What the model would answer if it stopped after a layer: the final norm and the "
        "unembedding read the answer's first token off the residual stream at the prompt's end. "
        "The last layer is the model itself."
    )
    return figure_block("lens", "Logit lens", figures, caption)


def _parts(lenses: RunLenses) -> Block:
    rows = lenses.part_rows
    figures = {stratum: parts_figure(own) for stratum, own in _by("stratum", rows)}
    caption = (
        "What heads (by the positions that they read from), MLPs and the rest add directly to the "
        "answer's logit, in logits above the mean over the vocabulary. The parts add up exactly. "
        "“Last” is the prompt's last token, “rest” its first and what a template adds."
    )
    return figure_block("parts", "Where the answer comes from", figures, caption)


def _roles(lenses: RunLenses) -> Block:
    figures = {stratum: roles_figure(own) for stratum, own in _by("stratum", lenses.role_rows)}
    caption = (
        "A mover's contribution from the subject's tokens is at least 10 times that from the "
        "relation's; a relation head's the other way round; a mixture lies between; heads below .1 "
        "logits have no role. Right: roles that both halves of a fact's prompts give, and "
        "(crosses) how many would if halves had theirs at random heads."
    )
    return figure_block("roles", "Roles", figures or {"all": roles_figure([])}, caption)


def _heads(lenses: RunLenses) -> Block:
    figures = {epoch: heads_figure(own) for epoch, own in _by("epoch", lenses.head_rows(N_HEADS))}
    caption = (
        "The heads whose contributions are largest, mean over facts of their size. Bars: by what "
        "they read; diamond: the whole, with its interval. To the left of 0 they speak against the "
        "answer. The role is that of the mean over facts."
    )
    return figure_block("heads", "Strongest heads", _last_first(figures), caption, choice="Epoch")


def _role_map(lenses: RunLenses) -> Block:
    figures = {epoch: role_map_figure(own) for epoch, own in _by("epoch", role_map_rows(lenses))}
    caption = "Every head: in which share of the facts it has each role."
    figures = _last_first(figures) or {"all": role_map_figure([])}
    return figure_block("role-map", "Roles of all heads", figures, caption, choice="Epoch")


def _steps(lenses: RunLenses) -> Block:
    counts = ("acquired", "lost", "noise", "excess")
    columns = [
        {"label": "step", "kind": "step"},
        {"label": "stratum", "kind": "text"},
        {"label": "role", "kind": "text"},
        {"label": "facts", "kind": "number"},
        *({"label": name, "kind": "number", "digits": 2} for name in counts),
    ]
    rows = [
        [
            f"{row['from']} → {row['to']}",
            row["stratum"],
            row["role"],
            row["facts"],
            row["acquired"],
            row["lost"],
            row["noise"],
            {
                "v": row["excess"],
                "t": number(row["excess"]),
                "note": f"{number(row['low'])} to {number(row['high'])}",
                "is_marked": row["low"] is not None and row["low"] > 0,
            },
        ]
        for row in lenses.step_rows
    ]
    caption = (
        "Heads per fact that acquire or lose a role in both halves of the prompts. Noise is what "
        "each of the two would be if nothing had changed: heads that acquire it in one half and "
        "lose it in the other. Excess is acquired + lost − 2 noise; marked where its interval lies "
        "above 0."
    )
    return table_block("steps", "Roles that come and go", columns, rows, caption)


def _head_steps(lenses: RunLenses) -> Block:
    rows = lenses.head_step_rows(N_HEADS)
    columns = [
        {"label": "head", "kind": "text"},
        {"label": "role", "kind": "text"},
        *({"label": name, "kind": "number", "digits": 1} for name in ("acquired", "lost", "noise")),
    ]
    names = ("head", "role", "acquired", "lost", "noise")
    caption = f"Between {lenses.epochs[0]} and {lenses.epochs[-1]}: in how many facts."
    cells = [[row[name] for name in names] for row in rows]
    return table_block("head-steps", "Heads whose role changed most", columns, cells, caption)


def _by(field: str, rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows of each value of a field, in the order in which values come."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[field], []).append(row)
    return list(found.items())


def _of(stratum: str, rows: Sequence[Row]) -> str:
    return f", {stratum}" if len({row["stratum"] for row in rows}) > 1 else ""


def _last_first(figures: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(figures.items()))
