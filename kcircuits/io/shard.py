"""Shards: immutable safetensors files, each with the cells of one batch.

The layout is that of safetensors (8 bytes header length, JSON header, data), so that other tools
can open a shard. The header's ``__metadata__`` has the record of the cells as JSON, and a sha256 of
the header itself, taken with 64 zeros in its place; the record has the sha256 of every tensor.
So a reader verifies exactly what it reads: the header once, then the tensors it wants.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kcircuits.errors import StoreCorruptError
from kcircuits.io.atomic import access_error

SCHEMA = "kcircuits.shard/1"
SUFFIX = ".safetensors"
REMEDY = "run `kcircuits status --repair`, then `kcircuits run` computes those cells again"

_TYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4")}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_UNSIGNED = b"0" * 64
_START = b'{"__metadata__":{"sha256":"'


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A verified header: what the file holds, and where.

    Attributes:
        file: The shard.
        record: What ``encode_shard`` was given.
        tensors: Dtype, shape and first byte in the file of each tensor.
        hashes: sha256 of each tensor's bytes.
    """

    file: Path
    record: Mapping[str, Any]
    tensors: Mapping[str, tuple[np.dtype, tuple[int, ...], int]]
    hashes: Mapping[str, str]

    def read(self, names: Sequence[str]) -> list[np.ndarray]:
        """The named tensors, verified; read-only.

        Raises:
            StoreCorruptError: A tensor is not what was committed.
            FileAccessError: The disk refused.
        """
        try:
            with self.file.open("rb", buffering=0) as stream:
                return [self._tensor(stream.fileno(), name) for name in names]
        except OSError as error:
            raise access_error(error, self.file, "read") from error

    def _tensor(self, descriptor: int, name: str) -> np.ndarray:
        dtype, shape, start = self.tensors[name]
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        data = os.pread(descriptor, n_bytes, start)
        while 0 < len(data) < n_bytes:  # a signal, or more than the 2 GiB of one call
            more = os.pread(descriptor, n_bytes - len(data), start + len(data))
            if not more:
                break
            data += more
        if len(data) != n_bytes or hashlib.sha256(data).hexdigest() != self.hashes[name]:
            raise corrupt(self.file, f"tensor {name} does not fit its checksum", field=name)
        return np.frombuffer(data, dtype=dtype).reshape(shape)


def corrupt(file: Path, message: str, *, field: str | None = None) -> StoreCorruptError:
    """The error about a file of the store that does not verify."""
    return StoreCorruptError(message, file=file, field=field, hint=REMEDY)


def encode_shard(record: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a shard; the same arguments give the same bytes.

    Args:
        record: JSON values, no NaN.
        tensors: float32 and int32 arrays, stored in this order.
    """
    entries: dict[str, Any] = {}
    chunks: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor).tobytes()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype.newbyteorder("<")],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(data)],
        }
        chunks.append(data)
        end += len(data)
    digests = [hashlib.sha256(data).hexdigest() for data in chunks]
    hashes = dict(zip(entries, digests, strict=True))
    content = {"schema": SCHEMA, "record": record, "hashes": hashes, "data_bytes": end}
    metadata = {"sha256": _UNSIGNED.decode(), "kcircuits": _json(content)}
    header = _json({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-len(header) % 8)
    header = _START + _signature(header) + header[len(_START) + 64 :]
    return b"".join([len(header).to_bytes(8, "little"), header, *chunks])


def check_shard(file: Path) -> Shard:
    """``open_shard``, for a file in a store: its name must be that of the batch it holds."""
    shard = open_shard(file)
    if shard.record["batch"] != file.name.removesuffix(SUFFIX):
        raise corrupt(file, f"holds the batch {shard.record['batch']!r}, not that of its name")
    return shard


def open_shard(file: Path) -> Shard:
    """Reads and verifies a shard's header and length.

    Raises:
        StoreCorruptError: Not a shard, or not as it was committed.
        FileAccessError: The disk refused.
    """
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            n_header = int.from_bytes(stream.read(8), "little")
            if size < 8 or n_header > size - 8:
                raise corrupt(file, f"cut off, or no shard at all ({size} bytes)")
            header = stream.read(n_header)
    except OSError as error:
        raise access_error(error, file, "read") from error
    if not header.startswith(_START) or header[len(_START) :][:64] != _signature(header):
        raise corrupt(file, "no shard of a results store, or its header was changed")
    entries = json.loads(header)
    content = json.loads(entries.pop("__metadata__")["kcircuits"])
    if content["schema"] != SCHEMA:
        raise corrupt(file, f"schema {content['schema']!r}; expected {SCHEMA!r}")
    wanted = 8 + n_header + content["data_bytes"]
    if size != wanted:
        raise corrupt(file, f"{size} bytes; {wanted} were committed")
    tensors = {
        name: (_TYPES[e["dtype"]], tuple(e["shape"]), 8 + n_header + e["data_offsets"][0])
        for name, e in entries.items()
    }
    return Shard(file=file, record=content["record"], tensors=tensors, hashes=content["hashes"])


def _signature(header: bytes) -> bytes:
    """sha256 of a header with zeros in the place of its signature."""
    rest = header[len(_START) + 64 :]
    return hashlib.sha256(_START + _UNSIGNED + rest).hexdigest().encode()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
