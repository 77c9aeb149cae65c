"""``lenses/<checkpoint content hash>.safetensors`` in a run folder: the facts' lenses there.

A file is a shard (``io.shard``): verified on reading, written whole or not at all. It is kept by
everything that its numbers depend on: the checkpoint, each fact's content and token ids, the
settings. Whoever reads compares these with what is asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kcircuits.core.lenses import Lenses
from kcircuits.core.topology import Topology
from kcircuits.errors import StoreCorruptError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.shard import SUFFIX, Shard, corrupt, encode_shard, open_shard

FOLDER = "lenses"
_SCHEMA = "kcircuits.lenses/1"
_ARRAYS = (
    "prompt_idx",
    "n_tokens",
    "heads",
    "mlps",
    "embedding",
    "constant",
    "mean_logit",
    "attention",
    "logprob",
    "rank",
)
# Whole numbers among them.
_COUNTS = ("prompt_idx", "n_tokens", "rank")


@dataclass(frozen=True, kw_only=True)
class LensFact:
    """A fact as its lenses saw it: name, content hash and digest of its token ids."""

    id: str
    hash: str
    tokens: str


@dataclass(frozen=True, kw_only=True)
class LensFile:
    """The lenses of a checkpoint, as they lie on disk.

    Attributes:
        shard: The verified header.
        facts: What it holds.
        settings: What else the numbers depend on.
        topology: The graph of the model.
    """

    shard: Shard
    facts: tuple[LensFact, ...]
    settings: Mapping[str, Any]
    topology: Topology

    def read(self, fact_id: str) -> Lenses:
        """The lenses of one fact.

        Raises:
            StoreCorruptError: What was read is not what was committed.
            FileAccessError: The disk refused.
        """
        place = [fact.id for fact in self.facts].index(fact_id)
        with _remedy():
            arrays = self.shard.read([f"{place}.{name}" for name in _ARRAYS])
        given = dict(zip(_ARRAYS, arrays, strict=True))
        given |= {name: given[name].astype(np.int64) for name in _COUNTS}
        return Lenses(
            topology=self.topology,
            checkpoint=self.shard.record["checkpoint"],
            relation=self.settings["relation"],
            fact_ids=(fact_id,),
            fact_idx=np.zeros(len(given["prompt_idx"]), dtype=np.int64),
            **given,
        )


def lens_path(folder: Path, checkpoint: str) -> Path:
    """The file of a checkpoint in a run folder."""
    return folder / FOLDER / f"{checkpoint}{SUFFIX}"


def open_lens_file(folder: Path, checkpoint: str) -> LensFile | None:
    """The lenses of a checkpoint; None where there are none yet.

    Args:
        folder: The run folder.
        checkpoint: Content hash of the checkpoint.

    Raises:
        StoreCorruptError: The file is not what was written, or of another checkpoint.
        FileAccessError: The disk refused.
    """
    file = lens_path(folder, checkpoint)
    if not file.exists():
        return None
    with _remedy():
        shard = open_shard(file)
        record = shard.record
        if record.get("schema") != _SCHEMA or record["checkpoint"] != checkpoint:
            raise corrupt(file, "holds no lenses of the checkpoint in its name")
    return LensFile(
        shard=shard,
        facts=tuple(LensFact(**fact) for fact in record["facts"]),
        settings=record["settings"],
        topology=Topology(**record["topology"]),
    )


def write_lens_file(
    folder: Path,
    facts: Sequence[LensFact],
    lenses: Sequence[Lenses],
    settings: Mapping[str, Any],
) -> None:
    """Writes the lenses of a checkpoint, in the place of those that were there.

    Args:
        folder: The run folder.
        facts: Which facts.
        lenses: Of each fact in turn, at one checkpoint.
        settings: What else the numbers depend on; JSON values.

    Raises:
        FileAccessError: The disk refused; the file is as before.
    """
    checkpoint = lenses[0].checkpoint
    record = {
        "schema": _SCHEMA,
        "checkpoint": checkpoint,
        "settings": dict(settings),
        "topology": asdict(lenses[0].topology),
        "facts": [asdict(fact) for fact in facts],
    }
    tensors = {
        f"{place}.{name}": getattr(each, name).astype("<i4" if name in _COUNTS else "<f4")
        for place, each in enumerate(lenses)
        for name in _ARRAYS
    }
    write_atomic(lens_path(folder, checkpoint), encode_shard(record, tensors))


def corrupt_lens_files(folder: Path) -> list[StoreCorruptError]:
    """Reads every byte of the lenses in a run folder; what does not verify, as errors."""
    problems: list[StoreCorruptError] = []
    for file in sorted((folder / FOLDER).glob(f"*{SUFFIX}")):
        try:
            held = open_lens_file(folder, file.name.removesuffix(SUFFIX))
            assert held is not None  # it was listed
            for fact in held.facts:
                held.read(fact.id)
        except StoreCorruptError as error:
            problems.append(error)
    return problems


@contextmanager
def _remedy() -> Iterator[None]:
    """Files of lenses are mended in another way than those of a results store."""
    try:
        yield
    except StoreCorruptError as error:
        raise StoreCorruptError(
            error.message,
            file=error.file,
            field=error.field,
            hint="delete that file, then `kcircuits lens` computes it again",
        ) from error
