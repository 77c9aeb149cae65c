"""Graphs of the EAP-IG library as scores and circuits of ours, and back.

**Sign.** EAP-IG's score of an edge is m(edge corrupted) - m(clean), where m is the function that
its ``attribute`` was given. By the habit of that library and of MIB, m is a *loss* (the negative
logit difference), so an edge that helps scores *positive*, and ``apply_topn(absolute=False)`` takes
the edges that help most. Ours is the change of the metric itself: an edge that helps scores
negative. Files therefore hold our *importance* (``EdgeScores.importance``), and reading turns them
back. A file by another hand does not say what m was; where it was no loss, say so with
``is_loss=False``. (One is the sample file of MIB's repository: its largest score is that of a head
known to harm.) Where the metric is itself a mean over a batch, as in those scripts, that library
divides by the number of prompts once more: its scores are then smaller by the batch size than ours.

Source: Hanna, Pezzelle, Belinkov 2024, arXiv 2403.17806; Mueller et al. 2025 (MIB), arXiv
2504.13151, section 3 (signed importance).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from kcircuits.core.circuit import Circuits
from kcircuits.core.node_scores import NodeScores
from kcircuits.core.provenance import Provenance
from kcircuits.core.scores import EdgeScores
from kcircuits.core.topology import Topology
from kcircuits.errors import InputError, UsageError
from kcircuits.io.interchange.eap_ig_record import EapIgRecord, Notes

# The method of scores whose file does not name one.
UNKNOWN_METHOD = "eap-ig-file"


@dataclass(frozen=True, kw_only=True)
class EapIgGraphs:
    """What one or more files of EAP-IG hold: scores and a circuit per fact, signed as ours.

    Attributes:
        topology: Their graph.
        d_model: Width of the residual stream; None where the files do not say.
        fact_ids: Names of the facts, one per file.
        provenance: Method and model of the scores.
        scores: Scores of edges; None where the files score nodes or neurons, or nothing.
        circuits: The edges in the graph; None where none is, as in a file of importances alone.
        node_scores: Scores of nodes; NaN where one was not scored. None at other levels.
        neuron_scores: Scores of what those libraries call neurons, each output dimension of each
            sender (not the MLP neurons of ``NeuronScores``), signed like ``scores``; NaN likewise.
        neuron_mask: The output dimensions in the circuit.
    """

    topology: Topology
    d_model: int | None
    fact_ids: tuple[str, ...]
    provenance: Provenance
    scores: EdgeScores | None = None
    circuits: Circuits | None = None
    node_scores: NodeScores | None = None
    neuron_scores: Float[np.ndarray, "fact n_forward d_model"] | None = None
    neuron_mask: Bool[np.ndarray, "fact n_forward d_model"] | None = None

    def __len__(self) -> int:
        return len(self.fact_ids)


Writable: TypeAlias = Circuits | EdgeScores | NodeScores | EapIgGraphs


def as_graphs(what: Writable, d_model: int | None) -> EapIgGraphs:
    """What is to be written, as graphs.

    Args:
        what: Circuits (with the scores that they were selected by), scores, or graphs as read.
        d_model: Width of the model's residual stream.

    Raises:
        UsageError: It is none of these, there is no ``d_model``, or one that contradicts.
    """
    if not isinstance(what, Circuits | EdgeScores | NodeScores | EapIgGraphs):
        raise UsageError(
            f"{type(what).__name__} has no EAP-IG form; expected Circuits, EdgeScores, NodeScores "
            "or EapIgGraphs"
        )
    known = what.d_model if isinstance(what, EapIgGraphs) else None
    width = known if d_model is None else d_model
    if width is None or width < 1 or width != (known or width):
        raise UsageError(
            f"d_model is {width}" + ("" if known is None else f", the graphs have {known}"),
            field="d_model",
            hint="give the width of the model's residual stream: model.hooked.cfg.d_model",
        )
    fields: dict[str, Any] = {
        "topology": what.topology,
        "d_model": width,
        "fact_ids": what.fact_ids,
        "provenance": what.provenance,
    }
    if isinstance(what, EdgeScores):
        return EapIgGraphs(**fields, scores=what.mean_by_fact())
    if isinstance(what, NodeScores):
        return EapIgGraphs(**fields, node_scores=what)
    if isinstance(what, Circuits):
        return EapIgGraphs(**fields, scores=_scores_of(what), circuits=what)
    return what


def record_of(graphs: EapIgGraphs, fact_id: str) -> EapIgRecord:
    """One fact's graph in the terms of the file; its scores are importances.

    A circuit without scores is written with score 1 at its edges and 0 elsewhere, so that the
    top edges by score are the circuit.

    Raises:
        UsageError: There is no such fact.
    """
    if fact_id not in graphs.fact_ids:
        raise UsageError(f"there is no fact {fact_id!r} to write", field="fact_id")
    row = graphs.fact_ids.index(fact_id)
    scores, circuits, nodes = graphs.scores, graphs.circuits, graphs.node_scores
    mask = None if circuits is None else circuits.mask[row]
    is_turned = not graphs.provenance.is_importance
    edges = None if scores is None else _turned(scores.values[row], is_turned)
    if edges is None and mask is not None and nodes is None and graphs.neuron_scores is None:
        edges = mask.astype(np.float64)
    neurons, neuron_mask = graphs.neuron_scores, graphs.neuron_mask
    return EapIgRecord(
        topology=graphs.topology,
        d_model=graphs.d_model,
        edges_scores=edges,
        edges_in_graph=mask,
        nodes_scores=None if nodes is None else _turned(nodes.values[row], is_turned),
        neurons_scores=None if neurons is None else _turned(neurons[row], is_turned),
        neurons_in_graph=None if neuron_mask is None else neuron_mask[row],
        notes=_notes_of(graphs, fact_id, row),
    )


def graphs_of(
    records: Sequence[EapIgRecord], fact_ids: Sequence[str], *, is_loss: bool | None = None
) -> EapIgGraphs:
    """Graphs of files, signed as ours.

    Args:
        records: The files, all of one graph and with the same things in each.
        fact_ids: Names, for the files without notes of ours.
        is_loss: Whether the files' scores are changes of a loss; default what our notes say, and
            without notes yes.

    Raises:
        InputError: The files differ in graph, width, method or in what they hold, or two are of
            one fact.
        UsageError: ``is_loss`` contradicts the notes.
    """
    first = records[0]
    provenance = _provenance(records, is_loss)
    names = tuple(
        fact if record.notes is None else record.notes.fact
        for record, fact in zip(records, fact_ids, strict=True)
    )
    for record in records:
        if (record.topology, record.d_model) != (first.topology, first.d_model):
            raise InputError(
                f"files of {record.topology} and of {first.topology} cannot be read as one",
                hint="read each file by itself",
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two files are of fact {twice!r}", hint="remove one of them")
    scores = {
        name: _signed(_stacked(records, name), provenance, first.notes, is_loss=is_loss)
        for name in ("edges_scores", "nodes_scores", "neurons_scores")
    }
    edges, nodes, neurons = scores.values()
    if not _has_edge_scores(first.notes, edges, is_edge_level=nodes is None and neurons is None):
        edges = None
    shared: dict[str, Any] = {
        "topology": first.topology, "fact_ids": names, "provenance": provenance
    }  # fmt: skip
    fact_idx = np.arange(len(names))
    return EapIgGraphs(
        **shared,
        d_model=first.d_model,
        scores=None if edges is None else EdgeScores(**shared, values=edges, fact_idx=fact_idx),
        circuits=_circuits(records, edges, shared),
        node_scores=None if nodes is None else NodeScores(**shared, values=nodes),
        neuron_scores=neurons,
        neuron_mask=_stacked(records, "neurons_in_graph"),
    )


def _has_edge_scores(notes: Notes | None, edges: np.ndarray | None, *, is_edge_level: bool) -> bool:
    """Whether the numbers at the edges are scores, and not what fills the fields of a file."""
    if notes is not None:
        return notes.has_edge_scores
    return edges is not None and (is_edge_level or bool(edges.any()))


def _signed(
    values: np.ndarray | None, provenance: Provenance, notes: Notes | None, *, is_loss: bool | None
) -> np.ndarray | None:
    """A file's scores in our sign, and in the type that they were written from."""
    if values is None:
        return None
    turned = _turned(values, not provenance.is_importance and is_loss is not False)
    return turned if notes is None else turned.astype(notes.score_dtype)


def _circuits(
    records: Sequence[EapIgRecord], scores: np.ndarray | None, shared: dict[str, Any]
) -> Circuits | None:
    mask = _stacked(records, "edges_in_graph")
    notes = [record.notes for record in records]
    are_selected = [note is not None and note.n_selected is not None for note in notes]
    # Without notes, no edge in any graph means that nothing was selected yet.
    if mask is None or not (any(are_selected) or (None in notes and mask.any())):
        return None
    n_selected, n_ties = mask.sum((1, 2)), np.zeros(len(mask), dtype=np.int64)
    for row, note in enumerate(notes):
        if note is not None and note.n_selected is not None:
            n_selected[row], n_ties[row] = note.n_selected, note.n_ties or 0
    return Circuits(**shared, mask=mask, scores=scores, n_selected=n_selected, n_ties=n_ties)


def _stacked(records: Sequence[EapIgRecord], field: str) -> np.ndarray | None:
    values = [getattr(record, field) for record in records]
    if all(value is None for value in values):
        return None
    if any(value is None for value in values):
        raise InputError(
            f"some of the files have {field.replace('_', ' ')} and others do not",
            hint="read each file by itself",
        )
    return np.stack(values)


def _turned(values: np.ndarray, is_turned: bool) -> np.ndarray:
    """The values, or their opposites; never -0."""
    return 0 - values if is_turned else values


def _provenance(records: Sequence[EapIgRecord], is_loss: bool | None) -> Provenance:
    found: list[Provenance] = []
    for record in records:
        note = record.notes
        if note is None:
            found.append(Provenance(method=UNKNOWN_METHOD))
            continue
        if is_loss is False:
            raise UsageError(
                "is_loss=False, but kcircuits wrote this file and its scores are importances",
                field="is_loss",
                hint="leave is_loss out",
            )
        names = ("method", "params", "checkpoint", "dtype", "numerics", "is_importance")
        found.append(Provenance(**{name: getattr(note, name) for name in names}))
    if any(provenance != found[0] for provenance in found):
        raise InputError(
            "files of different methods, parameters or checkpoints cannot be read as one",
            hint="read each file by itself",
        )
    return found[0]


def _scores_of(circuits: Circuits) -> EdgeScores | None:
    if circuits.scores is None:
        return None
    return EdgeScores(
        values=circuits.scores,
        topology=circuits.topology,
        fact_ids=circuits.fact_ids,
        fact_idx=np.arange(len(circuits)),
        provenance=circuits.provenance,
    )


def _notes_of(graphs: EapIgGraphs, fact_id: str, row: int) -> Notes:
    provenance, circuits = graphs.provenance, graphs.circuits
    scored = graphs.scores or graphs.node_scores
    is_single = scored is not None and scored.values.dtype == np.float32
    return Notes(
        fact=fact_id,
        method=provenance.method,
        params=dict(provenance.params),
        checkpoint=provenance.checkpoint,
        dtype=provenance.dtype,
        numerics=provenance.numerics,
        is_importance=provenance.is_importance,
        has_edge_scores=graphs.scores is not None,
        score_dtype="float32" if is_single else "float64",
        n_selected=None if circuits is None else int(circuits.n_selected[row]),
        n_ties=None if circuits is None else int(circuits.n_ties[row]),
    )
