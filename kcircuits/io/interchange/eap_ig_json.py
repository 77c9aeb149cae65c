"""The JSON form of an EAP-IG graph.

``cfg`` holds n_layers, n_heads, parallel_attn_mlp and d_model; ``nodes`` maps each node to
``in_graph`` and at node level ``score``, at neuron level ``neurons`` and ``neurons_scores``;
``edges`` maps each edge to ``score`` and ``in_graph``. Three things that its readers must know:

- The oldest files have a plain true or false for a node, null for a score, and no d_model.
- Edges alone say what the circuit is: the library works its nodes out of them before it evaluates.
- The neurons of a head are read into all heads of its layer at once, so each head holds the list
  of every head in the layer.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float, Int

from kcircuits.core.candidates import flat_edges
from kcircuits.core.topology import Topology
from kcircuits.errors import InputError, UsageError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.input_file import decode, read_bounded, shown
from kcircuits.io.interchange.eap_ig_record import (
    HINT,
    MAX_BYTES,
    NOTES_KEY,
    EapIgRecord,
    check_finite,
    read_cfg,
    read_notes,
)


def read_json(path: Path) -> EapIgRecord:
    """The graph of a JSON file.

    Raises:
        InputError: It is no such file, or its nodes or edges are not those of its ``cfg``.
        NonFiniteError: An edge's score is NaN or infinite.
        FileAccessError: It cannot be read.
    """
    content = read_bounded(path, limit=MAX_BYTES, error=InputError, hint=HINT)
    document = _parsed(decode(content, error=InputError, file=path), path)
    for name in ("cfg", "nodes", "edges"):
        if not isinstance(document.get(name), dict):
            raise InputError(
                f"is {shown(document.get(name))}, expected fields",
                file=path,
                field=name,
                hint=HINT,
            )
    nodes, edges = document["nodes"], document["edges"]
    n_senders = len(nodes.keys() - {"logits"})
    topology, d_model = read_cfg(document["cfg"], n_senders=n_senders, path=path)
    _same_names([*nodes, *({"logits"} - nodes.keys())], topology.nodes, topology, "nodes", path)
    flat = flat_edges(topology)
    names = [topology.edge_name(*pair) for pair in _pairs(topology)]
    _same_names(edges, names, topology, "edges", path)
    scores = _column(edges, names, "score", _number, path)
    members = _column(edges, names, "in_graph", _boolean, path)
    record = EapIgRecord(
        topology=topology,
        d_model=d_model,
        edges_scores=None if scores is None else _matrix(scores, flat, topology),
        edges_in_graph=None if members is None else _matrix(members, flat, topology),
        notes=read_notes(document.get(NOTES_KEY), path=path),
        **_node_fields(nodes, topology, d_model, path),
    )
    if record.edges_scores is not None:
        check_finite(record.edges_scores, topology, path=path)
    return record


def write_json(path: Path, record: EapIgRecord) -> None:
    """Writes a graph as JSON; EAP-IG's ``Graph.from_json`` reads it.

    Raises:
        UsageError: Some but not all output dimensions of a layer's heads, or of another sender,
            have scores.
        FileAccessError: The disk refused.
    """
    topology = record.topology
    zeros = np.zeros((topology.n_forward, topology.n_backward))
    scores = zeros if record.edges_scores is None else record.edges_scores
    mask = zeros > 0 if record.edges_in_graph is None else record.edges_in_graph
    document: dict[str, Any] = {"cfg": record.cfg, "nodes": _node_entries(record)}
    document["edges"] = {
        topology.edge_name(u, v): {"score": float(scores[u, v]), "in_graph": bool(mask[u, v])}
        for u, v in _pairs(topology)
    }
    if record.notes is not None:
        document[NOTES_KEY] = record.notes.model_dump()
    write_atomic(path, json.dumps(document, allow_nan=False))


def _parsed(text: str, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{shown(twice)} is there twice", file=path, hint="delete one")
        return found

    try:
        document = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InputError(
            f"is not JSON: {error.msg}", file=path, line=error.lineno, hint=HINT
        ) from None
    except (ValueError, RecursionError):
        raise InputError("is not JSON that can be read", file=path, hint=HINT) from None
    if not isinstance(document, dict):
        raise InputError(f"is {shown(document)}, expected fields", file=path, hint=HINT)
    return document


def _same_names(
    found: Sequence[str] | Mapping[str, Any],
    wanted: Sequence[str],
    topology: Topology,
    what: str,
    path: Path,
) -> None:
    """Refuses a file whose nodes or edges are not those of the graph."""
    present, expected = set(found), set(wanted)
    problem = next((f"{name!r} is missing" for name in wanted if name not in present), None)
    problem = problem or next(
        (f"{shown(name)} does not exist" for name in found if name not in expected), None
    )
    if problem:
        kind = " in parallel" if topology.is_parallel else ""
        raise InputError(
            f"{len(present)} {what}; {topology.n_layers} layers of {topology.n_heads} heads{kind} "
            f"make {len(expected)}: {problem}",
            file=path,
            field=what,
            hint="the edges must be those of the file's cfg; n_heads counts query heads, and with "
            "parallel_attn_mlp no head feeds the MLP of its own layer",
        )


def _column(
    edges: Mapping[str, Any], names: Sequence[str], field: str, read: Any, path: Path
) -> np.ndarray | None:
    """One field of all edges; None where no edge has it."""
    entries = [edges[name] for name in names]
    for name, entry in zip(names, entries, strict=True):
        if not isinstance(entry, dict):
            _wrong(entry, "fields", f"edges.{name}", path)
    values = [entry.get(field) for entry in entries]
    if all(value is None for value in values):
        return None
    return np.array(
        [read(v, f"edges.{name}.{field}", path) for name, v in zip(names, values, strict=True)]
    )


def _node_fields(
    nodes: Mapping[str, Any], topology: Topology, d_model: int | None, path: Path
) -> dict[str, np.ndarray | None]:
    entries = [nodes[name] for name in topology.forward_names]
    for name, entry in zip(topology.forward_names, entries, strict=True):
        if not isinstance(entry, dict | bool):
            _wrong(entry, "fields, or true or false", f"nodes.{name}", path)
    known = [entry if isinstance(entry, dict) else {} for entry in entries]
    scores = None
    if any("score" in entry for entry in known):
        pairs = zip(topology.forward_names, known, strict=True)
        scores = np.array(
            [_number(e.get("score", np.nan), f"nodes.{name}.score", path) for name, e in pairs]
        )
    neurons = {
        field: _neurons(known, topology, d_model, field, kind, path)
        for field, kind in (("neurons", np.bool_), ("neurons_scores", np.float64))
    }
    return {
        "nodes_scores": scores,
        "neurons_in_graph": neurons["neurons"],
        "neurons_scores": neurons["neurons_scores"],
    }


def _neurons(
    entries: Sequence[Mapping[str, Any]],
    topology: Topology,
    d_model: int | None,
    field: str,
    kind: type[np.generic],
    path: Path,
) -> np.ndarray | None:
    """[n_forward, d_model]; a sender without the field is out of the graph and has no scores."""
    if not any(field in entry for entry in entries):
        return None
    if d_model is None:
        raise InputError("is missing, but there are neurons", file=path, field="cfg.d_model")
    rows = np.full((len(entries), d_model), False if kind is np.bool_ else np.nan)
    for i, (name, entry) in enumerate(zip(topology.forward_names, entries, strict=True)):
        if field not in entry:
            continue
        listed = entry[field]
        head = i - topology.n_before_attention(int(topology.forward_layers[i]))
        is_head = topology.node_kind(name) == "head"
        if is_head and isinstance(listed, list) and len(listed) == topology.n_heads:
            listed = listed[head] if isinstance(listed[head], list) else listed
        read = _boolean if kind is np.bool_ else _number
        if not isinstance(listed, list) or len(listed) != d_model:
            _wrong(listed, f"{d_model} values", f"nodes.{name}.{field}", path)
        rows[i] = [read(value, f"nodes.{name}.{field}", path) for value in listed]
    return rows


def _node_entries(record: EapIgRecord) -> dict[str, dict[str, Any]]:
    topology, members = record.topology, record.nodes_in_graph
    entries: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(topology.forward_names):
        entry: dict[str, Any] = {"in_graph": bool(members[i])}
        # Without a score a node stays NaN there, which means "not scored".
        if record.nodes_scores is not None and not np.isnan(record.nodes_scores[i]):
            entry["score"] = float(record.nodes_scores[i])
        rows = _rows_read_together(topology, i)
        if record.neurons_in_graph is not None:
            entry["neurons"] = record.neurons_in_graph[rows].tolist()
        if record.neurons_scores is not None:
            scores = record.neurons_scores[rows]
            if not np.isnan(scores).any():
                entry["neurons_scores"] = scores.tolist()
            elif not np.isnan(scores).all():
                raise UsageError(
                    f"some output dimensions of {name} have no score, which JSON cannot say",
                    hint="write a .pt file",
                )
        entries[name] = entry
    return {**entries, "logits": {"in_graph": True}}


def _rows_read_together(topology: Topology, sender: int) -> int | slice:
    """The sender's row, or for a head those of all heads of its layer."""
    if topology.node_kind(topology.forward_names[sender]) != "head":
        return sender
    start = topology.n_before_attention(int(topology.forward_layers[sender]))
    return slice(start, start + topology.n_heads)


def _pairs(topology: Topology) -> list[tuple[int, int]]:
    """Sender and receiver of each real edge, in the order of ``flat_edges``."""
    u, v = np.divmod(flat_edges(topology), topology.n_backward)
    return list(zip(u.tolist(), v.tolist(), strict=True))


def _matrix(
    values: np.ndarray, flat: Int[np.ndarray, " edge"], topology: Topology
) -> Float[np.ndarray, "n_forward n_backward"]:
    matrix = np.zeros(topology.n_forward * topology.n_backward, dtype=values.dtype)
    matrix[flat] = values
    return matrix.reshape(topology.n_forward, topology.n_backward)


def _number(value: Any, field: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _wrong(value, "a number", field, path)
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        _wrong(value, "a number", field, path)


def _boolean(value: Any, field: str, path: Path) -> bool:
    if not isinstance(value, bool):
        _wrong(value, "true or false", field, path)
    return value


def _wrong(value: Any, expected: str, field: str, path: Path) -> NoReturn:
    raise InputError(f"is {shown(value)}, expected {expected}", file=path, field=field, hint=HINT)
