"""The torch form of an EAP-IG graph: the same as its JSON form, as matrices.

A dictionary of ``cfg``, ``src_nodes`` and ``dst_nodes`` (names in order), ``edges_scores``,
``edges_in_graph``, ``nodes_in_graph``, and at node and neuron level ``nodes_scores``,
``neurons_scores``, ``neurons_in_graph``. In 2025 that library saves node and neuron level in this
form only. At those levels it marks whole rows of ``edges_in_graph``, also where there is no edge;
such marks mean nothing and are left out.

A torch file is a pickle: it is opened with ``weights_only=True``, which builds tensors and plain
values and runs no code. Nothing else of the project reads torch files, and ``kcircuits.io`` knows
no torch; therefore it stands here.
"""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kcircuits.core.topology import Topology
from kcircuits.errors import InputError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.input_file import read_bounded, shown
from kcircuits.io.interchange.eap_ig_record import (
    HINT,
    MAX_BYTES,
    NOTES_KEY,
    EapIgRecord,
    check_finite,
    read_cfg,
    read_notes,
)


def read_torch(path: Path) -> EapIgRecord:
    """The graph of a torch file.

    Raises:
        InputError: It is no such file, holds more than plain values, or its matrices are not
            those of its ``cfg``.
        NonFiniteError: An edge's score is NaN or infinite.
        FileAccessError: It cannot be read.
    """
    content = read_bounded(path, limit=MAX_BYTES, error=InputError, hint=HINT)
    try:
        with warnings.catch_warnings():  # of pickles in a protocol that it then refuses
            warnings.simplefilter("ignore")
            document = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a malformed stream leads it to
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"is no torch file of plain values: {reason[:120]}",
            file=path,
            hint="save the graph as JSON with EAP-IG's Graph.to_json, and read that",
        ) from None
    if not isinstance(document, Mapping):
        raise InputError(f"is {shown(document)}, expected fields", file=path, hint=HINT)
    senders, receivers = document.get("src_nodes"), document.get("dst_nodes")
    n_senders = len(senders) if isinstance(senders, list) else 0
    topology, d_model = read_cfg(document.get("cfg"), n_senders=n_senders, path=path)
    for names, wanted in ((senders, topology.forward_names), (receivers, topology.backward_names)):
        if names != list(wanted):
            raise InputError(
                f"names other nodes than {wanted[0]} to {wanted[-1]} in that order",
                file=path,
                field="src_nodes" if names is senders else "dst_nodes",
                hint=HINT,
            )
    return _record(document, topology, d_model, path)


def write_torch(path: Path, record: EapIgRecord) -> None:
    """Writes a graph as a torch file; EAP-IG's ``Graph.from_pt`` reads it.

    Raises:
        FileAccessError: The disk refused.
    """
    topology = record.topology
    zeros = np.zeros((topology.n_forward, topology.n_backward))
    mask = record.edges_in_graph
    matrices = {
        "edges_scores": zeros if record.edges_scores is None else record.edges_scores,
        "edges_in_graph": zeros > 0 if mask is None else mask,
        "nodes_in_graph": record.nodes_in_graph,
        "nodes_scores": record.nodes_scores,
        "neurons_scores": record.neurons_scores,
        "neurons_in_graph": record.neurons_in_graph,
    }
    document: dict[str, Any] = {
        "cfg": record.cfg,
        "src_nodes": list(topology.forward_names),
        "dst_nodes": list(topology.backward_names),
        **{k: torch.from_numpy(v.copy()) for k, v in matrices.items() if v is not None},
    }
    if record.notes is not None:
        document[NOTES_KEY] = record.notes.model_dump()
    buffer = io.BytesIO()
    torch.save(document, buffer)
    write_atomic(path, buffer.getvalue())


def _record(
    document: Mapping[str, Any], topology: Topology, d_model: int | None, path: Path
) -> EapIgRecord:
    shape = (topology.n_forward, topology.n_backward)
    wide = (topology.n_forward, d_model)
    scores = _array(document, "edges_scores", shape, np.float64, path)
    members = _array(document, "edges_in_graph", shape, np.bool_, path)
    if scores is None or members is None:
        raise InputError(
            f"has no edges_{'scores' if scores is None else 'in_graph'}", file=path, hint=HINT
        )
    check_finite(scores, topology, path=path)
    stray = np.argwhere((scores != 0) & ~topology.edge_mask)
    if len(stray):
        u, v = (int(i) for i in stray[0])
        raise InputError(
            f"scores {topology.edge_name(u, v)}, which is no edge",
            file=path,
            field="edges_scores",
            hint="check parallel_attn_mlp in cfg",
        )
    return EapIgRecord(
        topology=topology,
        d_model=d_model,
        edges_scores=scores,
        edges_in_graph=members & topology.edge_mask,
        nodes_scores=_array(document, "nodes_scores", shape[:1], np.float64, path),
        neurons_scores=_array(document, "neurons_scores", wide, np.float64, path),
        neurons_in_graph=_array(document, "neurons_in_graph", wide, np.bool_, path),
        notes=read_notes(document.get(NOTES_KEY), path=path),
    )


def _array(
    document: Mapping[str, Any],
    field: str,
    shape: tuple[int | None, ...],
    dtype: type[np.generic],
    path: Path,
) -> np.ndarray | None:
    """A tensor of the file as an array; None where there is none."""
    tensor = document.get(field)
    if tensor is None:
        return None
    is_right = isinstance(tensor, torch.Tensor) and (
        tensor.dtype == torch.bool if dtype is np.bool_ else tensor.is_floating_point()
    )
    if not is_right or tensor.is_sparse or tuple(tensor.shape) != shape:
        found = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else shown(tensor)
        raise InputError(
            f"is {found}, expected {'true and false' if dtype is np.bool_ else 'numbers'} "
            f"of shape {shape}",
            file=path,
            field=field,
            hint=HINT,
        )
    return tensor.detach().to(torch.bool if dtype is np.bool_ else torch.float64).numpy()
