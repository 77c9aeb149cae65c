"""Which cells are due, and in which batches.

Batches are cut from all facts that were asked for, never from those that remain: what is computed
together, and so the last bits of the numbers, depends on the request alone. The batch is the unit
of redo.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kcircuits.core.keys import digest
from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.io.run_record import (
    RUN_FILE,
    CheckpointRecord,
    FactRecord,
    RequestRecord,
    RunRecord,
    read_run_record,
)
from kcircuits.io.store import Store
from kcircuits.sweep.request import BATCH_SIZE, Request


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Facts that are computed together at one checkpoint.

    Attributes:
        id: Hash of the cells' keys and the batch size.
        checkpoint: Id of the checkpoint.
        fact_ids: The members in order.
        keys: Key of each member's cell.
    """

    id: str
    checkpoint: str
    fact_ids: tuple[str, ...]
    keys: tuple[str, ...]

    def is_due(self, store: Store) -> bool:
        """Whether a cell of the batch is missing; then the whole batch is computed."""
        return any(key not in store for key in self.keys)


def new_record(manifest: Manifest, folder: Path) -> RunRecord:
    """The record of a run folder in which nothing was computed yet."""
    path = "" if manifest.path is None else Path(os.path.relpath(manifest.path, folder)).as_posix()
    return RunRecord(run=manifest.run, manifest=path)


def plan_request(
    request: Request, recorded: RequestRecord | None, hashes: Mapping[str, str | None]
) -> RequestRecord:
    """The request as it goes into the run's record, merged with what was asked before.

    Args:
        request: What is asked now.
        recorded: What was asked before with the same settings.
        hashes: Content hash of each checkpoint that is asked for; None where it cannot be read.
    """
    size = request.batch_size or (recorded.batch_size if recorded else BATCH_SIZE)
    ids = [fact.id for fact in request.facts]
    return RequestRecord(
        settings=request.settings.to_json(),
        batch_size=size,
        topology=recorded.topology if recorded else None,
        n_edges=recorded.n_edges if recorded else None,
        facts=_facts(request, recorded),
        checkpoints=_checkpoints(request, recorded, hashes),
        batches=tuple(tuple(ids[i : i + size]) for i in range(0, len(ids), size)),
    )


def batches_at(record: RequestRecord, checkpoint_id: str) -> tuple[Batch, ...] | None:
    """The batches of one checkpoint; None while its hash or the facts' token ids are unknown."""
    checkpoint = next(c for c in record.checkpoints if c.id == checkpoint_id)
    facts = {fact.id: fact for fact in record.facts}
    batches: list[Batch] = []
    for members in record.batches:
        keys = [record.key(checkpoint, facts[fact_id]) for fact_id in members]
        known = tuple(key for key in keys if key is not None)
        if len(known) < len(keys):
            return None
        batch_id = digest({"keys": known, "batch_size": record.batch_size})
        batches.append(Batch(id=batch_id, checkpoint=checkpoint_id, fact_ids=members, keys=known))
    return tuple(batches)


def _facts(request: Request, recorded: RequestRecord | None) -> tuple[FactRecord, ...]:
    before = {fact.id: fact for fact in recorded.facts} if recorded else {}
    asked = {fact.id for fact in request.facts}
    records: list[FactRecord] = []
    for fact in request.known_facts:
        old = before.get(fact.id)
        is_same = old is not None and old.hash == fact.content_hash
        if fact.id in asked or is_same:
            new = FactRecord(fact=fact, hash=fact.content_hash)
            records.append(old if old is not None and is_same else new)
    return tuple(records)


def _checkpoints(
    request: Request, recorded: RequestRecord | None, hashes: Mapping[str, str | None]
) -> tuple[CheckpointRecord, ...]:
    before = {c.id: c for c in recorded.checkpoints} if recorded else {}
    asked = {checkpoint.id for checkpoint in request.checkpoints}
    records: list[CheckpointRecord] = []
    for checkpoint in request.manifest:
        if checkpoint.id in asked:
            records.append(_checkpoint(checkpoint, hashes[checkpoint.id]))
        elif checkpoint.id in before:
            records.append(before[checkpoint.id])
    return tuple(records)


def _checkpoint(checkpoint: Checkpoint, content_hash: str | None) -> CheckpointRecord:
    return CheckpointRecord(
        id=checkpoint.id,
        epoch=checkpoint.epoch,
        step=checkpoint.step,
        content_hash=content_hash,
        is_verified=checkpoint.sha256 is not None,
    )


def with_tokens(record: RequestRecord, tokens: Mapping[str, str]) -> RequestRecord:
    """The record with the digests of the facts' token ids filled in."""
    facts = tuple(replace(f, tokens=tokens.get(f.id, f.tokens)) for f in record.facts)
    return replace(record, facts=facts)


@dataclass(frozen=True, kw_only=True)
class BatchState:
    """A planned batch: its members, and how many of their cells are there."""

    epoch: str
    facts: tuple[str, ...]
    done: int


def preview(request: Request, folder: Path) -> list[BatchState]:
    """What a request would compute, without loading a model or writing anything.

    Cells of checkpoints that declare no hash, or of facts that no tokenizer has seen yet in this
    run, count as due where the record of the run does not know them.
    """
    recorded = None
    if (folder / RUN_FILE).exists():
        recorded = read_run_record(folder).request(request.settings.id)
    known = {c.id: c.content_hash for c in recorded.checkpoints} if recorded else {}
    hashes = {c.id: c.sha256 or known.get(c.id) for c in request.checkpoints}
    record, store = plan_request(request, recorded, hashes), Store(folder / "store")
    states: list[BatchState] = []
    for checkpoint in request.checkpoints:
        batches = batches_at(record, checkpoint.id)
        for place, members in enumerate(record.batches):
            keys = batches[place].keys if batches else ()
            done = sum(key in store for key in keys)
            states.append(BatchState(epoch=checkpoint.id, facts=members, done=done))
    return states
