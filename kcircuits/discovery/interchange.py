"""Circuits to and from the libraries that others evaluate circuits with.

``write_eap_ig`` writes what EAP-IG's ``Graph.from_json`` (or ``from_pt``) and MIB's
``run_evaluation.py --circuit-files`` read, ``read_eap_ig`` what ``Graph.to_json`` (or ``to_pt``)
saves, MIB's ``importances.json`` among them. One file holds one fact; a folder holds many. The
formats, and the sign: ``kcircuits.io.interchange.eap_ig``.
"""

import hashlib
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Literal

from kcircuits.core.topology import Topology
from kcircuits.errors import InputError, UsageError
from kcircuits.io.interchange.eap_ig import (
    EapIgGraphs,
    Writable,
    as_graphs,
    graphs_of,
    record_of,
)
from kcircuits.io.interchange.eap_ig_json import read_json, write_json
from kcircuits.io.interchange.eap_ig_record import EapIgRecord

Suffix = Literal[".json", ".pt"]
SUFFIXES: tuple[Suffix, ...] = (".json", ".pt")
# So that a file's name stays readable, and within what every file system takes.
_MAX_READABLE = 40


def write_eap_ig(
    path: str | Path,
    what: Writable,
    fact_id: str | None = None,
    *,
    d_model: int | None = None,
    suffix: Suffix = ".json",
) -> list[Path]:
    """Writes circuits or scores as graphs of the EAP-IG library.

    Scores are written as importances, higher is better. Nodes are in the graph where the circuit
    enters and leaves them. Grouped-query models have one key and value per query head, as that
    library ungroups them.

    Args:
        path: A ``.json`` or ``.pt`` file for one fact, else a folder, which must be new or empty.
        what: Circuits, with the scores they were selected by if they have any (else an edge in
            the circuit scores 1, any other 0); EdgeScores or NodeScores for a file of importances
            with nothing selected; or what ``read_eap_ig`` gave.
        fact_id: Which fact goes into the file; needed where there is more than one.
        d_model: Width of the model's residual stream (``model.hooked.cfg.d_model``), which the
            library asks for.
        suffix: Form of the files of a folder.

    Returns:
        The files written, in the order of the facts.

    Raises:
        UsageError: Arguments that cannot be meant.
        FileAccessError: The disk refused.
    """
    graphs, path = as_graphs(what, d_model), Path(path)
    if suffix not in SUFFIXES:
        raise UsageError(f"suffix is {suffix!r}; expected .json or .pt", field="suffix")
    if path.suffix in SUFFIXES:
        if fact_id is None and len(graphs) != 1:
            raise UsageError(
                f"{path.name} holds one fact, there are {len(graphs)}",
                field="fact_id",
                hint="name one with fact_id, or give a folder for all",
            )
        targets = {path: graphs.fact_ids[0] if fact_id is None else fact_id}
    elif fact_id is not None:
        raise UsageError(
            f"one fact goes into a file, {path.name!r} ends in neither .json nor .pt", field="path"
        )
    else:
        _refuse_full_folder(path)
        targets = {path / file_name(fact, suffix): fact for fact in graphs.fact_ids}
    for target, fact in targets.items():
        _write(target, record_of(graphs, fact))
    return list(targets)


def read_eap_ig(
    path: str | Path,
    topology: Topology | None = None,
    *,
    fact_id: str | None = None,
    is_loss: bool | None = None,
) -> EapIgGraphs:
    """Reads graphs of the EAP-IG library.

    Args:
        path: A ``.json`` or ``.pt`` file, or a folder of such files, one a fact.
        topology: The graph that they must have, e.g. ``model.topology``.
        fact_id: Name of a file's fact; default the one it was written for, or without our notes
            in it the file's name.
        is_loss: Whether the files' scores are changes of a loss (so that an edge which helps is
            positive), as that library's and MIB's scripts make them. Give False for a file made
            with a metric that is better when higher. Default: what we wrote says so itself, of
            any other file it is taken to be true.

    Returns:
        ``.scores``, ``.circuits``, ``.node_scores``, ... with our sign: an edge that helps scores
        negative. Each is None where the files do not hold it.

    Raises:
        InputError: No such file, or one that is not a graph of that form; its edges are not those
            of its ``cfg``, or not ``topology``'s.
        NonFiniteError: An edge's score is NaN or infinite.
        UsageError: Arguments that cannot be meant.
        FileAccessError: The disk refused.
    """
    path = Path(path)
    files = _files(path)
    if fact_id is not None and path.is_dir():
        raise UsageError("a folder holds many facts; fact_id names one", field="fact_id")
    records = [_read(file) for file in files]
    for file, record in zip(files, records, strict=True):
        if topology is not None and record.topology != topology:
            raise InputError(
                f"its graph is {record.topology}, expected {topology}",
                file=file,
                field="cfg",
                hint="read it with the model that it was made on",
            )
    if fact_id is not None:
        records = [_renamed(record, fact_id) for record in records]
    names = [file.stem if fact_id is None else fact_id for file in files]
    return graphs_of(records, names, is_loss=is_loss)


def file_name(fact_id: str, suffix: str = ".json") -> str:
    """A file name that is safe everywhere, readable, and no other fact's.

    Letters and digits of the id and 12 hexadecimal digits of its hash: ``capital-of-france-...``.
    """
    folded = unicodedata.normalize("NFKD", fact_id).encode("ascii", "ignore").decode().lower()
    readable = re.sub(r"[^a-z0-9]+", "-", folded)[:_MAX_READABLE].strip("-")
    digest = hashlib.sha256(fact_id.encode()).hexdigest()[:12]
    return f"{readable or 'fact'}-{digest}{suffix}"


def _read(file: Path) -> EapIgRecord:
    if file.suffix == ".json":
        return read_json(file)
    from kcircuits.discovery.eap_ig_torch import read_torch  # JSON is read without torch

    return read_torch(file)


def _write(file: Path, record: EapIgRecord) -> None:
    if file.suffix == ".json":
        write_json(file, record)
        return
    from kcircuits.discovery.eap_ig_torch import write_torch  # JSON is written without torch

    write_torch(file, record)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix not in SUFFIXES:
            raise UsageError(f"{path} ends in neither .json nor .pt", field="path")
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise InputError("holds no .json or .pt file", file=path, hint="name a folder of graphs")
    return files


def _refuse_full_folder(folder: Path) -> None:
    """Old files beside the new ones would be read as facts of the same export."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", field="path", hint="name a new folder")


def _renamed(record: EapIgRecord, fact_id: str) -> EapIgRecord:
    if record.notes is None:
        return record
    return replace(record, notes=record.notes.model_copy(update={"fact": fact_id}))
