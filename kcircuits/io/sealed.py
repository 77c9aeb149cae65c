"""JSON files that carry their own checksum, so that a flipped bit cannot pass for data."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kcircuits.errors import StoreCorruptError
from kcircuits.io.atomic import access_error

_START = b'{"sha256": "%s", "content": '
_END = b"}\n"


def sealed(content: Any, *, indent: int | None = None) -> bytes:
    """JSON text ``{"sha256": ..., "content": ...}``; the hash is over the content's text.

    Raises:
        ValueError: The content holds a NaN or an infinity.
    """
    body = json.dumps(content, allow_nan=False, sort_keys=True, indent=indent).encode()
    return _START % hashlib.sha256(body).hexdigest().encode() + body + _END


def unsealed(data: bytes, file: Path, *, hint: str) -> Any:
    """The content of a sealed file's bytes.

    Raises:
        StoreCorruptError: They are not exactly what ``sealed`` wrote.
    """
    start = len(_START % (b"0" * 64))
    body = data[start : -len(_END)]
    if data != _START % hashlib.sha256(body).hexdigest().encode() + body + _END:
        raise StoreCorruptError(
            f"the checksum does not fit the content ({len(data)} bytes)", file=file, hint=hint
        )
    return json.loads(body)


def read_sealed(file: Path, *, hint: str, missing: Callable[[], Exception]) -> Any:
    """The content of a sealed file.

    Args:
        file: The file.
        hint: Remedy where it is corrupt.
        missing: Makes the error to raise where there is no such file.

    Raises:
        StoreCorruptError: The file does not verify.
        FileAccessError: The disk refused.
    """
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise missing() from None
    except OSError as error:
        raise access_error(error, file, "read") from error
    return unsealed(data, file, hint=hint)
