"""One self-contained HTML text from figures, tables and circuits.

Everything foreign (fact ids, names, paths) travels as JSON in a data block that no browser
executes, and reaches the page as text nodes only. Scripts and styles are inline and allowed by
hash; the policy starts at ``default-src 'none'``, so no request can leave the page. The plotly.js
bundle is the cartesian one of the version that plotly.py speaks; nothing here needs ``eval``.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kcircuits.core.score_meaning import ScoreMeaning
from kcircuits.core.topology import Topology
from kcircuits.plots.circuit import (
    BEND,
    KINDS_BY_SHARE,
    STRENGTHS,
    circuit_figure,
    kinds_of,
    node_positions,
)

Block = dict[str, Any]
# What plotly.js and our script write as style attributes: nothing, and the pixels of heat maps.
_STYLE_ATTRIBUTES = (
    "",
    "image-rendering: optimizeSpeed; image-rendering: -moz-crisp-edges; "
    "image-rendering: -o-crisp-edges; image-rendering: -webkit-optimize-contrast; "
    "image-rendering: optimize-contrast; image-rendering: crisp-edges; image-rendering: pixelated;",
)
# plotly.js adds map styles unless an element of this id exists; the pages have no maps.
_MAP_STYLE_ID = "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53"


def cards_block(name: str, title: str, cards: Sequence[Mapping[str, Any]], caption: str) -> Block:
    """Large numbers in a row: each card has ``label``, ``value`` and ``note``."""
    return {**_block("cards", name, title, caption), "cards": list(cards)}


def figure_block(
    name: str, title: str, figures: Mapping[str, go.Figure], caption: str, *, choice: str = "Show"
) -> Block:
    """One figure, or several with a selector.

    Args:
        name: Ours, fixed: the element's id.
        title: Heading.
        figures: Figures by the label in the selector.
        caption: What one sees, in plain words.
        choice: Legend of the selector.
    """
    variants = [
        {"label": label, "figure": figure.to_plotly_json()} for label, figure in figures.items()
    ]
    return {**_block("figure", name, title, caption), "variants": variants, "choice": choice}


def table_block(
    name: str,
    title: str,
    columns: Sequence[Mapping[str, Any]],
    rows: Sequence[Sequence[Any]],
    caption: str,
) -> Block:
    """A table that sorts by its column heads.

    Args:
        name: Ours, fixed: the element's id.
        title: Heading.
        columns: ``label``; ``kind`` text, number, verdict, dots, step or fact; ``digits`` of
            numbers (default: 2 where a number is not whole).
        rows: A cell is text, a number, None, or ``{"v": sort key, "t": text}`` with,
            optionally, a ``note`` below and ``is_marked``.
        caption: What one sees, in plain words.
    """
    return {
        **_block("table", name, title, caption),
        "columns": list(columns),
        "rows": [list(row) for row in rows],
    }


def circuit_block(
    name: str,
    title: str,
    topology: Topology,
    facts: Sequence[Mapping[str, Any]],
    epochs: Sequence[str],
    cells: Sequence[Sequence[Mapping[str, Any] | None]],
    meaning: ScoreMeaning,
    caption: str,
) -> Block:
    """Circuits with selectors of fact and epoch, drawn in the page from edge indices.

    Args:
        name: Ours, fixed: the element's id.
        title: Heading.
        topology: Names and places of the nodes.
        facts: ``id`` and ``label`` of each fact.
        epochs: Names of the epochs.
        cells: ``[fact][epoch]``: ``table`` (rows of ``circuit_table``), ``n_selected`` and
            ``stats`` (label, text pairs), or None where there is no cell.
        meaning: What the scores say.
        caption: What one sees, in plain words.
    """
    base = circuit_figure([], topology, kinds_of(meaning), meaning.name)
    return {
        **_block("circuit", name, title, caption),
        **_drawing(topology, cells),
        "base": base.to_plotly_json(),
        "score": meaning.name,
        "facts": list(facts),
        "epochs": list(epochs),
    }


def beside_block(
    name: str,
    title: str,
    topology: Topology,
    facts: Sequence[Mapping[str, Any]],
    methods: Mapping[str, ScoreMeaning],
    epoch: str,
    cells: Sequence[Sequence[Mapping[str, Any] | None]],
    caption: str,
) -> Block:
    """Circuits of one fact by several methods beside each other, with a selector of the fact.

    Args:
        name: Ours, fixed: the element's id.
        title: Heading.
        topology: Names and places of the nodes.
        facts: As in ``circuit_block``.
        methods: What the scores of each method say, by its label.
        epoch: Name of the epoch.
        cells: ``[fact][method]``: as in ``circuit_block``; the ``kind`` of a row of ``table``
            says whether another method's circuit has the edge.
        caption: What one sees, in plain words.
    """
    bases = [
        circuit_figure([], topology, KINDS_BY_SHARE, meaning.name).to_plotly_json()
        for meaning in methods.values()
    ]
    return {
        **_block("beside", name, title, caption),
        **_drawing(topology, cells),
        "bases": bases,
        "methods": list(methods),
        "epoch": epoch,
        "facts": list(facts),
    }


def _drawing(
    topology: Topology, cells: Sequence[Sequence[Mapping[str, Any] | None]]
) -> dict[str, Any]:
    """What the page's script draws circuits from."""
    senders, receivers = node_positions(topology)
    return {
        "bend": BEND,
        "bounds": [low for low, _, _ in STRENGTHS],
        "senders": [[n, *at] for n, at in zip(topology.forward_names, senders, strict=True)],
        "receivers": [[n, *at] for n, at in zip(topology.backward_names, receivers, strict=True)],
        "cells": [[cell and _compact(cell, topology) for cell in line] for line in cells],
    }


def _compact(cell: Mapping[str, Any], topology: Topology) -> dict[str, Any]:
    rows = cell["table"]
    kinds = [row["kind"] for row in rows]
    by_sign = [int(row["score"] > 0) for row in rows]
    return {
        "edges": [row["sender"] * topology.n_backward + row["receiver"] for row in rows],
        "scores": [float(f"{row['score']:.4g}") for row in rows],
        **({} if kinds == by_sign else {"kinds": kinds}),
        "n": cell["n_selected"],
        "stats": [list(pair) for pair in cell["stats"]],
    }


def render_page(
    *, kind: str, title: str, details: Sequence[Mapping[str, Any]], blocks: Sequence[Block]
) -> str:
    """The page as one HTML text; the same input gives the same bytes.

    Args:
        kind: Small line above the title, e.g. ``Run report``.
        title: The title.
        details: Head data: ``label`` and ``values``, each ``{"t": text, "note"?, "mark"?}``.
        blocks: What the page shows, in order.
    """
    data = {"kind": kind, "title": title, "details": list(details), "blocks": list(blocks)}
    style, plotly, script = (
        _asset(name) for name in ("page.css", "plotly-cartesian.min.js", "page.js")
    )
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(plotly)} {_hash(script)}",
            f"style-src-elem {_hash(style)} {_hash('')}",
            "style-src-attr 'unsafe-hashes' " + " ".join(map(_hash, _STYLE_ATTRIBUTES)),
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f'<meta id="{_MAP_STYLE_ID}">\n'
        f"<title>kcircuits</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<header id="head"></header>\n<main id="main"></main>\n<footer id="foot"></footer>\n'
        "<noscript><p>This page draws its figures with the script that it carries.</p></noscript>\n"
        f'<script type="application/json" id="data">{_json(data)}</script>\n'
        f"<script>{plotly}</script>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _block(kind: str, name: str, title: str, caption: str) -> Block:
    return {"kind": kind, "name": name, "title": title, "caption": caption}


def _json(data: Any) -> str:
    """JSON that cannot end its script element; NaN and infinities become null."""
    text = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _asset(name: str) -> str:
    return files("kcircuits.plots").joinpath("assets", name).read_text(encoding="utf-8")
