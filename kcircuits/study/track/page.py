"""The page of ``kcircuits track --html``: circuits over epochs."""

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from kcircuits.analysis.temporal.structure import depth_of_all
from kcircuits.plots.cells import Cell, interval_cell
from kcircuits.plots.page import Block, figure_block, render_page, table_block
from kcircuits.plots.theme import number
from kcircuits.plots.track import (
    by_stratum,
    change_figure,
    layers_figure,
    lifetime_figure,
    settling_figure,
)
from kcircuits.plots.track_shape import shape_figure
from kcircuits.study.track.track import Track

Row = dict[str, Any]
# More panels of a selector, or lines of a figure, than these cannot be told apart.
MAX_PANELS, MAX_LINES = 24, 7
N_ITEMS = 30


def track_page(track: Track) -> str:
    """The track as one self-contained HTML text."""
    blocks = [
        _shape(track),
        _changes(track),
        _lifetimes(track),
        _settling(track),
        _layers(track),
        _core(track),
        _items(track),
        _hubs(track),
        _roles(track),
        _table(track),
    ]
    title = f"{track.run}: {track.epochs[0]} → {track.epochs[-1]}"
    return render_page(
        kind="Circuits over epochs", title=title, details=details_of(track), blocks=blocks
    )


def details_of(track: Track) -> list[Row]:
    """Head data of a page: method, budget, prompts, epochs, facts."""
    params = ", ".join(f"{key} {value}" for key, value in track.params.items())
    share = 100 * track.n_edges / track.topology.n_edges
    left_out = f" ({len(track.left_out)} left out)" if track.left_out else ""
    values = {
        "Epochs": ", ".join(track.epochs),
        "Method": f"{track.method} ({params})" if params else track.method,
        "Budget": f"{track.n_edges:,} of {track.topology.n_edges:,} edges ({share:.2g}%) a circuit",
        "Prompts": f"{track.n_prompts} {track.rows_are} per fact, in halves",
        "Facts": f"{len(track.facts)}{left_out}",
        "Born and dying": f"{track.level}s",
    }
    return [{"label": label, "values": [{"t": text}]} for label, text in values.items()]


def _panels(rows: Sequence[Row], draw: Callable[[list[Row]], go.Figure]) -> dict[str, go.Figure]:
    return {name: draw(part) for name, part in by_stratum(rows, MAX_PANELS).items()}


def _shape(track: Track) -> Block:
    rows = [row for part in by_stratum(track.rows, MAX_LINES).values() for row in part]
    caption = (
        "Means over the facts that are known at the epoch, with 95% bootstrap intervals over "
        "entities; the facts may be others at the next epoch (paired changes stand in the table "
        "below). Entropy: how evenly the circuit's edges matter. Depth: mean layer of the senders; "
        "it falls where circuits move towards the input. Hovering tells by how much one fact's "
        "number differs between halves of its prompts."
    )
    figure = shape_figure(rows, depth_of_all(track.topology))
    return figure_block("shape", "Entropy and depth", {"all": figure}, caption)


def _changes(track: Track) -> Block:
    caption = (
        f"{track.level.capitalize()}s that enter and leave a fact's circuit at each step, per fact "
        "known at both epochs; an item is born or dies only if both halves of the prompts agree. "
        "The black bars are what the same prompts give when their epoch labels are swapped: what "
        "does not reach beyond them is the noise of the method."
    )
    figures = _panels(track.rows, lambda rows: change_figure(rows, f"{track.level}s"))
    return figure_block("changes", "Births and deaths", figures, caption, choice="Stratum")


def _lifetimes(track: Track) -> Block:
    caption = (
        f"Of the {track.level}s that are born while their fact is known, the share that is still "
        "there k epochs later, with a 95% bootstrap interval over entities. Dashed: the same with "
        "epoch labels permuted, where what is born is noise. What was there when one began to look "
        "is left out; what is there at the end is cut off."
    )
    groups = by_stratum(track.life_table, MAX_PANELS)
    figures = {
        name: lifetime_figure(groups.get(name, []), f"{track.level}s")
        for name in list(track.groups)[:MAX_PANELS]
    }
    return figure_block("lifetimes", "How long they stay", figures, caption, choice="Stratum")


def _settling(track: Track) -> Block:
    caption = (
        "Turnover of circuits by steps since the fact was acquired, with 95% intervals over "
        "entities (10 are needed). Facts known before and facts never known are aligned at their "
        "first epoch: if theirs falls as much, it is training that calms down, not knowledge that "
        "settles. Later steps have fewer facts, those acquired early."
    )
    figure = settling_figure(track.settling)
    return figure_block("settling", "Do circuits settle?", {"all": figure}, caption)


def _layers(track: Track) -> Block:
    caption = (
        "Share of all edges of the model with a sender in the layer that are in the circuit, mean "
        "over the facts known at the epoch. Colours are logarithmic; blank is none."
    )
    figures = _panels(track.layers, layers_figure)
    return figure_block(
        "layers", "Activation ratio by sender layer", figures, caption, choice="Stratum"
    )


def _core(track: Track) -> Block:
    columns = [
        {"label": "stratum", "kind": "text"},
        {"label": "facts", "kind": "number"},
        {"label": "core", "kind": "number"},
        {"label": "there at an epoch", "kind": "number", "digits": 1},
        {"label": "core, labels swapped", "kind": "number", "digits": 1},
    ]
    rows = [
        [
            row["stratum"],
            row["facts"],
            interval_cell(row, "size", 1),
            row["per_epoch"],
            row["swapped"],
        ]
        for row in track.core()
    ]
    caption = (
        f"{track.level.capitalize()}s that are there at every epoch at which the fact is known "
        "(two at least), beside how many are there at one epoch, and the core under swapped epoch "
        "labels, which is what noise alone would leave."
    )
    return table_block("core", "Persistent core", columns, rows, caption)


def _items(track: Track) -> Block:
    columns = [
        {"label": "stratum", "kind": "text"},
        {"label": track.level, "kind": "text"},
        {"label": "in the core of facts", "kind": "number"},
    ]
    rows = [[row["stratum"], row["item"], row["facts"]] for row in _top(track.core_items())]
    caption = f"The {track.level}s in the core of the most facts, at most {N_ITEMS} a stratum."
    return table_block("core-items", "What the cores share", columns, rows, caption)


def _hubs(track: Track) -> Block:
    columns = [
        {"label": "stratum", "kind": "text"},
        {"label": "node", "kind": "text"},
        {"label": "layer", "kind": "number"},
        *({"label": epoch, "kind": "text"} for epoch in track.epochs),
    ]
    rows = [
        [
            row["stratum"],
            row["node"],
            row["layer"],
            *(f"{n}/{known}" for n, known in zip(row["hub_in"], row["known"], strict=True)),
        ]
        for row in _top(track.hubs)
    ]
    caption = (
        "In how many of the facts known at each epoch a head or MLP is a hub in both halves of the "
        "prompts: its degree exceeds the mean of the circuit's nodes by two standard deviations."
    )
    return table_block("hubs", "Hubs", columns, rows, caption)


def _roles(track: Track) -> Block:
    names = ("became_hub", "stopped_hub", "joined", "left", "entered_core", "left_core")
    columns = [
        {"label": "stratum", "kind": "text"},
        {"label": "node", "kind": "text"},
        {"label": "layer", "kind": "number"},
        *({"label": name.replace("_", " "), "kind": "number"} for name in names),
    ]
    rows = [
        [row["stratum"], row["node"], row["layer"], *(sum(row[name]) for name in names)]
        for row in _top(track.roles)
    ]
    caption = (
        "In how many facts a head or MLP became or stopped being a hub, joined or left the "
        "circuit, entered the core for good or left it, over all steps; both halves of the prompts "
        "agree each time. How often noise alone does so stands in the table of steps."
    )
    return table_block("roles", "Changes of place", columns, rows, caption)


def _table(track: Track) -> Block:
    labels = (
        "facts", "known", "there", "entropy", "depth", "compared", "born", "died",
        "entropy change", "depth change", "hubs", "hubs changed",
    )  # fmt: skip
    columns = [
        {"label": "stratum", "kind": "text"},
        {"label": "epoch", "kind": "step"},
        *({"label": label, "kind": "number"} for label in labels),
    ]
    rows = [
        [
            row["stratum"], row["epoch"], row["facts"], row["known"],
            interval_cell(row, "present", 1), interval_cell(row, "entropy"),
            interval_cell(row, "depth"), row["compared"],
            _beside(interval_cell(row, "births", 1), row["births_swapped"], 1),
            _beside(interval_cell(row, "deaths", 1), row["deaths_swapped"], 1),
            interval_cell(row, "entropy_change"), interval_cell(row, "depth_change"),
            interval_cell(row, "hubs", 1), _beside(_hubs_changed(row), row["hubs_swapped"], 2),
        ]
        for row in track.rows
    ]  # fmt: skip
    caption = (
        "Changes since the epoch before are means over the facts known at both (“compared”), "
        "paired, with 95% intervals over entities; “noise” is the same with swapped epoch labels. "
        "Hubs changed: nodes that became or stopped being one, per fact."
    )
    return table_block("rows", "Epochs and steps", columns, rows, caption)


def _beside(cell: Cell | None, noise: float | None, digits: int) -> Cell | None:
    """The cell with what noise alone gives on its last line."""
    if cell is None or noise is None:
        return cell
    lines = (cell.get("note"), f"noise {number(noise, digits)}")
    return cell | {"note": "\n".join(line for line in lines if line)}


def _hubs_changed(row: Row) -> Cell | None:
    if row["hubs_born"] is None:
        return None
    changed = row["hubs_born"] + row["hubs_died"]
    return {"v": changed, "t": number(changed)}


def _top(rows: Sequence[Row]) -> list[Row]:
    return [row for part in by_stratum(rows, MAX_PANELS).values() for row in part[:N_ITEMS]]
