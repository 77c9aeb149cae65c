"""The checkpoints of one training run, in order, and how to refer to them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kcircuits.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One saved state of the model.

    Attributes:
        id: Name in references, e.g. ``ep3``.
        path: Model folder; with ``adapter`` the folder of the base model.
        epoch: Epochs of training so far (may be fractional); 0 is the untrained base model.
        step: Optimiser steps so far.
        adapter: PEFT adapter folder, if the checkpoint is one.
        sha256: Declared content hash; None means that changed bits cannot be noticed
            ("unverified").
        is_identity: The adapter is meant to change nothing (its B matrices are zero).
    """

    id: str
    path: Path
    epoch: float | None = None
    step: int | None = None
    adapter: Path | None = None
    sha256: str | None = None
    is_identity: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A training run: its base model, facts file and checkpoints in training order."""

    schema_version: int
    run: str
    base_model: str
    facts: Path
    checkpoints: tuple[Checkpoint, ...]
    tokenizer: Path | None = None
    path: Path | None = None

    @property
    def epochs(self) -> tuple[str, ...]:
        """Ids of all checkpoints in order."""
        return tuple(checkpoint.id for checkpoint in self.checkpoints)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self.checkpoints)

    def __getitem__(self, ref: str) -> Checkpoint:
        """The checkpoint that ``ref`` means: an id, ``step2400``, ``first`` or ``last``."""
        return self.checkpoints[resolve_ref(ref, self.checkpoints)]

    def select(self, refs: str) -> tuple[Checkpoint, ...]:
        """Checkpoints that a list means, see ``resolve_refs``; in training order."""
        return tuple(self.checkpoints[i] for i in resolve_refs(refs, self.checkpoints))


def resolve_refs(refs: str, checkpoints: tuple[Checkpoint, ...]) -> list[int]:
    """Indices of the checkpoints that a list means, ascending: ``ep0,ep3..ep7,last``.

    Raises:
        UsageError: A part means no checkpoint, or a range runs backwards.
    """
    chosen: set[int] = set()
    for part in refs.split(","):
        start, dots, stop = part.strip().partition("..")
        low = resolve_ref(start, checkpoints)
        high = resolve_ref(stop, checkpoints) if dots else low
        if high < low:
            raise UsageError(f"range {part!r} runs backwards", hint=f"write {stop}..{start}")
        chosen |= set(range(low, high + 1))
    return sorted(chosen)


def resolve_ref(ref: str, checkpoints: tuple[Checkpoint, ...]) -> int:
    """Index of the checkpoint that ``ref`` means.

    Args:
        ref: A checkpoint id, ``epoch`` number as ``ep3``, ``step2400``, ``first`` or ``last``.
        checkpoints: The run's checkpoints in order.

    Raises:
        UsageError: No checkpoint, or more than one, has that name.
    """
    ids = [checkpoint.id for checkpoint in checkpoints]
    if ref in ids:
        return ids.index(ref)
    if ref in ("first", "last"):
        return 0 if ref == "first" else len(ids) - 1
    hits: list[int] = []
    if match := re.fullmatch(r"step(\d{1,18})", ref):
        hits = [i for i, c in enumerate(checkpoints) if c.step == int(match[1])]
    elif match := re.fullmatch(r"ep(?:och)?(\d+(?:\.\d+)?)", ref):
        hits = [i for i, c in enumerate(checkpoints) if c.epoch == float(match[1])]
    if len(hits) != 1:
        problem = "means more than one checkpoint" if hits else "means no checkpoint of this run"
        raise UsageError(f"{ref!r} {problem}", field="ref", hint=f"choose from {', '.join(ids)}")
    return hits[0]
