"""What a safetensors file holds, read from its header alone.

The format: 8 bytes little-endian length n, n bytes of JSON (name -> dtype, shape, data_offsets),
then the data. A file whose data does not end where the header says is cut off or padded.

Source: https://github.com/huggingface/safetensors (format section).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcircuits.errors import CheckpointError, FileAccessError

_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2,
    "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_MAX_HEADER = 100_000_000  # the limit of the format
_REMEDY = "copy or download the checkpoint again"


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Type and shape of one stored tensor, and the file that holds it."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Every tensor of a safetensors file by name.

    Raises:
        CheckpointError: The file is cut off, padded or no safetensors file.
        FileAccessError: The disk refused.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            n_header = int.from_bytes(stream.read(8), "little")
            if size < 8 or n_header > min(size - 8, _MAX_HEADER):
                raise CheckpointError(
                    f"not a whole safetensors file: {size} bytes, the header alone wants "
                    f"{n_header + 8}",
                    file=file,
                    hint=_REMEDY,
                )
            text = stream.read(n_header)
    except OSError as error:
        raise FileAccessError(f"cannot be read: {error.strerror}", file=file) from error
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = {name: _entry(entry) for name, entry in header.items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"the safetensors header cannot be read: {error!r}", file=file, hint=_REMEDY
        ) from error
    end = 0
    for name, (dtype, shape, start, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if start != end or stop - start != math.prod(shape) * _BYTES[dtype]:
            raise CheckpointError(
                f"tensor {name} ({dtype} {list(shape)}) does not fill its place in the file",
                file=file,
                field=name,
                hint=_REMEDY,
            )
        end = stop
    if size != 8 + n_header + end:
        raise CheckpointError(
            f"not a whole safetensors file: {size} bytes, {8 + n_header + end} were expected",
            file=file,
            hint=_REMEDY,
        )
    return {
        name: TensorInfo(dtype=dtype, shape=shape, file=file)
        for name, (dtype, shape, _, _) in entries.items()
    }


def _entry(entry: dict[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    start, stop = (int(offset) for offset in entry["data_offsets"])
    dtype = str(entry["dtype"])
    if dtype not in _BYTES:
        raise ValueError(f"unknown dtype {dtype}")
    return dtype, tuple(int(n) for n in entry["shape"]), start, stop
