"""``run.yaml``: what was asked of a run, and what its facts and checkpoints were then.

The file is JSON, which is also YAML, with a checksum over its content: it is a record and not an
input, and must be read in milliseconds. Readers of the results need neither the manifest nor the
facts file, which may have changed since.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from kcircuits.core.facts import Fact, Prompt
from kcircuits.core.keys import cell_key, digest
from kcircuits.core.topology import Topology
from kcircuits.errors import StoreCorruptError, UsageError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.sealed import read_sealed, sealed

RUN_FILE = "run.yaml"
_SCHEMA = "kcircuits.run-record/1"
_REMEDY = "delete that file and repeat `kcircuits run`; finished cells are kept"


@dataclass(frozen=True, kw_only=True)
class FactRecord:
    """A fact as the run saw it.

    Attributes:
        fact: The fact.
        hash: Its content hash.
        tokens: Digest of its token ids; None until a tokenizer has seen it.
    """

    fact: Fact
    hash: str
    tokens: str | None = None

    @property
    def id(self) -> str:
        """Name of the fact."""
        return self.fact.id

    @property
    def n_prompts(self) -> int:
        """Number of discovery prompts."""
        return len(self.fact.prompt_indices("discovery"))


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """A checkpoint as the run saw it.

    Attributes:
        id: Name in references.
        epoch: Epochs of training so far.
        step: Optimiser steps so far.
        content_hash: sha256 of its content; None where it could not be read.
        is_verified: The manifest declared that hash.
    """

    id: str
    epoch: float | None
    step: int | None
    content_hash: str | None
    is_verified: bool


@dataclass(frozen=True, kw_only=True)
class RequestRecord:
    """All that was asked with one method and budget.

    Attributes:
        settings: Method, parameters, budget, dtype and versions; part of every cell's key.
        batch_size: Facts per batch.
        topology: The graph of the model; None until a checkpoint was loaded.
        n_edges: The budget in edges, likewise.
        facts: In the order of the facts file.
        checkpoints: In training order.
        batches: Ids of the facts that are computed together, as last planned.
    """

    settings: Mapping[str, Any]
    batch_size: int
    topology: Topology | None = None
    n_edges: int | None = None
    facts: tuple[FactRecord, ...]
    checkpoints: tuple[CheckpointRecord, ...]
    batches: tuple[tuple[str, ...], ...]

    @property
    def id(self) -> str:
        """Hash of the settings."""
        return digest(dict(self.settings))

    def key(self, checkpoint: CheckpointRecord, fact: FactRecord) -> str | None:
        """Key of a cell; None while the checkpoint or its token ids are unknown."""
        if checkpoint.content_hash is None or fact.tokens is None:
            return None
        return cell_key(
            checkpoint=checkpoint.content_hash,
            fact_hash=fact.hash,
            tokens=fact.tokens,
            settings=self.settings,
        )


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of ``run.yaml``.

    Attributes:
        run: Name of the run in its manifest.
        manifest: The manifest's path, relative to the run folder where it lies nearby.
        requests: One per method and budget; the last is the one that is opened by default.
    """

    run: str
    manifest: str
    requests: tuple[RequestRecord, ...] = ()

    def request(self, request_id: str) -> RequestRecord | None:
        """The request with an id, if there is one."""
        return next((r for r in self.requests if r.id == request_id), None)

    def with_request(self, request: RequestRecord, *, is_main: bool = True) -> "RunRecord":
        """The record with this request, which becomes the one that is opened if it is main."""
        others = tuple(r for r in self.requests if r.id != request.id)
        if is_main:
            return replace(self, requests=(*others, request))
        if len(others) == len(self.requests):
            return replace(self, requests=(request, *others))
        return replace(
            self, requests=tuple(request if r.id == request.id else r for r in self.requests)
        )


def write_run_record(folder: Path, record: RunRecord) -> None:
    """Writes ``run.yaml`` atomically; FileAccessError if the disk refuses."""
    requests = [_request_json(request) for request in record.requests]
    content = {"schema": _SCHEMA, **_shallow(record), "requests": requests}
    write_atomic(folder / RUN_FILE, sealed(content, indent=1))


def read_run_record(folder: Path) -> RunRecord:
    """The record of a run folder.

    Raises:
        UsageError: The folder holds no run.
        StoreCorruptError: The file was changed.
        FileAccessError: The disk refused.
    """
    file = folder / RUN_FILE
    content = read_sealed(file, hint=_REMEDY, missing=lambda: _no_run(folder))
    try:
        if content.pop("schema") != _SCHEMA:
            raise ValueError("another schema")
        requests = tuple(_request(entry) for entry in content.pop("requests"))
        return RunRecord(**content, requests=requests)
    except (AttributeError, KeyError, TypeError, ValueError) as cause:
        raise StoreCorruptError("written by another version", file=file, hint=_REMEDY) from cause


def _request(entry: dict[str, Any]) -> RequestRecord:
    topology = entry.pop("topology")
    return RequestRecord(
        topology=Topology(**topology) if topology else None,
        facts=tuple(FactRecord(**{**f, "fact": _fact(f["fact"])}) for f in entry.pop("facts")),
        checkpoints=tuple(CheckpointRecord(**c) for c in entry.pop("checkpoints")),
        batches=tuple(tuple(batch) for batch in entry.pop("batches")),
        **entry,
    )


def _request_json(request: RequestRecord) -> dict[str, Any]:
    facts = [{**_shallow(f), "fact": _fact_json(f.fact)} for f in request.facts]
    return {
        **_shallow(request),
        "topology": None if request.topology is None else asdict(request.topology),
        "facts": facts,
        "checkpoints": [asdict(checkpoint) for checkpoint in request.checkpoints],
    }


def _fact_json(fact: Fact) -> dict[str, Any]:
    prompts = [_shallow(prompt) for prompt in fact.prompts]
    return {**_shallow(fact), "strata": dict(fact.strata), "prompts": prompts}


def _fact(data: dict[str, Any]) -> Fact:
    prompts = tuple(Prompt(**_tuples(prompt)) for prompt in data.pop("prompts"))
    return Fact(**data, prompts=prompts)


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


def _shallow(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _no_run(folder: Path) -> UsageError:
    return UsageError(
        f"{folder} holds no results: there is no {RUN_FILE} in it",
        field="run",
        hint="compute them with `kcircuits run`, or name the run's folder with --run",
    )
