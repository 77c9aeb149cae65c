"""One writer at a time, by ``flock``: the lock goes when its process goes, however it dies."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kcircuits.errors import StoreBusyError
from kcircuits.io.atomic import access_error

_POLL_SECONDS = 0.1


@contextmanager
def writer_lock(file: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Holds the lock while the body runs.

    Args:
        file: The empty file that carries the lock; made with its folder if absent.
        wait_s: How long to wait for another writer, in seconds.

    Raises:
        StoreBusyError: Another process still holds the lock then.
        FileAccessError: The disk refused.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("ab")
    except OSError as error:
        raise access_error(error, file, "open") from error
    with stream:
        deadline = time.monotonic() + wait_s
        while not _taken(stream.fileno()):
            if time.monotonic() >= deadline:
                raise StoreBusyError(
                    f"another process writes this store (waited {wait_s:g} s)",
                    file=file.parent,
                    hint="wait until it has ended, or choose another folder with --run",
                )
            time.sleep(_POLL_SECONDS)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
