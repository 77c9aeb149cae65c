"""The circuit of one fact at one epoch, drawn by layer and head.

Layers run along one axis, from the input to the logits; heads by index and the MLP along the
other. An edge is an arc from sender to receiver, of one of two colours: by the sign of its score,
or by whether another circuit has it too. Its width and opacity follow |score| as a share of the
circuit's largest. Only the strongest edges are drawn, as
hundreds of arcs hide one another; the caption has to say how many.
"""

from collections.abc import Container
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from kcircuits.core.score_meaning import ScoreMeaning
from kcircuits.core.topology import Topology
from kcircuits.plots.theme import HELPS, HURTS, KEPT, OWN, SHARED, TEMPLATE, as_text

N_DRAWN = 150
# Classes of |score| / max |score|: lower bound, line width in px, opacity.
STRENGTHS = ((0.5, 3.4, 0.95), (0.25, 2.2, 0.75), (0.125, 1.4, 0.5), (0.0, 0.8, 0.3))
# How far an arc bends, in head lanes per square root of the layers that it spans.
BEND = 0.3

Row = dict[str, Any]
# Colour and legend of a kind of arc; no legend for a kind that does not occur.
Kind = tuple[str, str | None]
KINDS_BY_SHARE: tuple[Kind, Kind] = (
    (OWN, "only in this circuit"),
    (SHARED, "also in another circuit shown"),
)
Position = tuple[float, float]


def circuit_table(
    candidates: Int[np.ndarray, " candidate"],
    scores: Float[np.ndarray, " candidate"],
    topology: Topology,
    *,
    fact: str,
    epoch: str,
    n_edges: int = N_DRAWN,
    shared: Container[int] | None = None,
) -> list[Row]:
    """The strongest edges of one circuit, strongest first.

    Args:
        candidates: Flat edge indices (sender * n_backward + receiver).
        scores: Their scores, mean over the fact's discovery prompts; see ``ScoreMeaning``.
        topology: The graph.
        fact: Name of the fact.
        epoch: Name of the checkpoint.
        n_edges: At most this many rows.
        shared: Flat indices of edges that another circuit has too; None where there is no other.

    Returns:
        Rows ``fact, epoch, rank, sender, receiver, edge, score, kind``; sender and receiver are
        indices into the topology's names; ties go by edge index; a score of 0 is no edge. ``kind``
        is 1 for scores above 0, or for shared edges, else 0.
    """
    order = np.lexsort((candidates, -np.abs(scores)))[:n_edges]
    order = order[scores[order] != 0]
    senders, receivers = np.divmod(candidates[order], topology.n_backward)
    return [
        {
            "fact": fact,
            "epoch": epoch,
            "rank": rank,
            "sender": int(u),
            "receiver": int(v),
            "edge": topology.edge_name(int(u), int(v)),
            "score": float(value),
            "kind": int(value > 0 if shared is None else int(edge) in shared),
        }
        for rank, (edge, u, v, value) in enumerate(
            zip(candidates[order], senders, receivers, scores[order], strict=True), 1
        )
    ]


def kinds_of(meaning: ScoreMeaning) -> tuple[Kind, Kind]:
    """Colours and legends by the sign of scores: below 0, above 0."""
    if meaning.helps is None:
        return (OWN, None), (OWN, f"kept; the stronger, the larger the {meaning.name}")
    helps = (HELPS, f"helps the answer (score {meaning.helps})")
    if meaning.helps == "below 0":
        return helps, (HURTS, "hurts it (score above 0)")
    return (HURTS, "hurts it (score below 0)"), helps


def node_positions(topology: Topology) -> tuple[list[Position], list[Position]]:
    """Where senders and receivers stand: (layer, lane); lane is the head, the MLP above them."""
    n_heads, middle = topology.n_heads, (topology.n_heads - 1) / 2
    per_layer = [*range(n_heads), n_heads]
    senders = [(-1.0, middle)]
    receivers: list[Position] = []
    for layer in range(topology.n_layers):
        senders += [(float(layer), float(lane)) for lane in per_layer]
        receivers += [(float(layer), float(lane)) for lane in [*range(n_heads)] * 3 + [n_heads]]
    return senders, [*receivers, (float(topology.n_layers), middle)]


def circuit_figure(
    table: list[Row], topology: Topology, kinds: tuple[Kind, Kind], name: str = "score"
) -> go.Figure:
    """Draws the rows of ``circuit_table``; an empty table gives the bare grid of nodes.

    Traces, in this order: all nodes; one per kind and strength; nodes of the circuit; the
    (invisible) middle of each edge, which carries the hover text.

    Args:
        table: The edges.
        topology: The graph.
        kinds: Colour and legend of either kind of row.
        name: What the number at an edge is called.
    """
    senders, receivers = node_positions(topology)
    nodes = [*senders, receivers[-1]]
    names = [*topology.forward_names, "logits"]
    figure = go.Figure(layout=_layout(topology))
    figure.add_scatter(**_points(nodes), mode="markers", hoverinfo="skip", showlegend=False)
    figure.data[0].marker = {"size": 4, "color": KEPT, "opacity": 0.35}
    arcs = [_arc(senders[row["sender"]], receivers[row["receiver"]]) for row in table]
    classes = _strength_classes(np.array([row["score"] for row in table]))
    for kind, (colour, label) in enumerate(kinds):
        for strength, (_, width, opacity) in enumerate(STRENGTHS):
            chosen = [
                arc
                for arc, row, c in zip(arcs, table, classes, strict=True)
                if c == strength and row["kind"] == kind
            ]
            # The leading gap keeps the legend entry of a kind that no strong edge has.
            figure.add_scatter(
                x=[None, *(x for arc in chosen for x in (*(p[0] for p in arc), None))],
                y=[None, *(y for arc in chosen for y in (*(p[1] for p in arc), None))],
                mode="lines",
                line={"color": colour, "width": width, "shape": "spline"},
                opacity=opacity,
                name=label,
                legendgroup=label,
                showlegend=strength == 0 and label is not None,
                hoverinfo="skip",
            )
    _add_circuit_nodes(figure, table, nodes, names, topology)
    _add_hover(figure, table, arcs, name)
    return figure


def _add_circuit_nodes(
    figure: go.Figure, table: list[Row], nodes: list[Position], names: list[str], topology: Topology
) -> None:
    used = sorted(
        {row["sender"] for row in table}
        | {int(topology.node_of_backward[row["receiver"]]) for row in table}
    )
    figure.add_scatter(
        **_points([nodes[i] for i in used]),
        mode="markers",
        marker={"size": 8, "color": KEPT, "line": {"width": 1, "color": "#FFFFFF"}},
        text=[names[i] for i in used],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )


def _add_hover(figure: go.Figure, table: list[Row], arcs: list[list[Position]], name: str) -> None:
    figure.add_scatter(
        **_points([arc[1] for arc in arcs]),
        mode="markers",
        marker={"size": 12, "opacity": 0},
        customdata=[
            [as_text(row["edge"]), row["score"], row["rank"], as_text(row["epoch"])]
            for row in table
        ],
        hovertemplate=f"%{{customdata[0]}}<br>{name} %{{customdata[1]:.4g}}, "
        "rank %{customdata[2]}<br>epoch %{customdata[3]}<extra></extra>",
        showlegend=False,
    )


def _points(positions: list[Position]) -> dict[str, list[float]]:
    return {"x": [x for x, _ in positions], "y": [y for _, y in positions]}


def _arc(start: Position, stop: Position) -> list[Position]:
    bend = BEND * np.sqrt(max(stop[0] - start[0], 0.5))
    middle = ((start[0] + stop[0]) / 2, float((start[1] + stop[1]) / 2 + bend))
    return [start, middle, stop]


def _strength_classes(score: Float[np.ndarray, " edge"]) -> list[int]:
    if not len(score):
        return []
    share = np.abs(score) / (np.abs(score).max() or 1.0)
    return [next(i for i, (low, _, _) in enumerate(STRENGTHS) if s >= low) for s in share]


def _layout(topology: Topology) -> dict[str, Any]:
    n_layers, n_heads = topology.n_layers, topology.n_heads
    step, head_step = max(1, n_layers // 15), max(1, n_heads // 12)
    layers, heads = range(0, n_layers, step), range(0, n_heads, head_step)
    return {
        "template": TEMPLATE,
        "height": 180 + 30 * min(n_heads + 1, 16),
        "hovermode": "closest",
        "xaxis": {
            "title": {"text": "layer (index)"},
            "tickvals": [-1, *layers, n_layers],
            "ticktext": ["input", *map(str, layers), "logits"],
            "range": [-1.8, n_layers + 0.8],
            "showgrid": False,
            "zeroline": False,
        },
        "yaxis": {
            "title": {"text": "head (index)"},
            "tickvals": [*heads, n_heads],
            "ticktext": [*map(str, heads), "MLP"],
            "range": [-0.7, n_heads + 0.7 + BEND * (n_layers + 1) ** 0.5],
            "showgrid": False,
            "zeroline": False,
        },
    }
