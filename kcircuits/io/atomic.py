"""Files that are either whole or absent.

A killed process, a full disk or a power cut must never leave half a file under a name that
somebody reads. So: write a temporary file in the same folder, fsync, rename, fsync the folder.
"""

import errno
import os
import tempfile
from pathlib import Path

from kcircuits.errors import FileAccessError

_PREFIX = ".writing-"

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space and run the command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the command again",
    errno.EACCES: "ask for write permission on that folder, or choose another one",
    errno.EPERM: "ask for write permission on that folder, or choose another one",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EEXIST: "that name is taken: choose another one",
    errno.EISDIR: "that is a folder: name the file itself",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of that path is a file: choose another folder",
    errno.EIO: "the disk reports a hardware error: choose another disk",
}


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Writes a file so that readers see either the old content or the new one.

    A failed fsync gives the file up: the kernel may have dropped the dirty pages, so that a second
    fsync would succeed without the data. Missing parent folders are made.

    Args:
        path: Where the file shall be; replaced if it exists.
        data: Its content; text is written as UTF-8.

    Raises:
        FileAccessError: The operating system refused; the old file, if any, is untouched.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f"{_PREFIX}{path.name}-", dir=path.parent)
        try:
            _fill(descriptor, data.encode() if isinstance(data, str) else data)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise access_error(error, path, "write") from error


def make_folder(folder: Path) -> None:
    """Makes a folder, and makes sure that files can be written there before work is spent on them.

    Raises:
        FileAccessError: The operating system refused.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=_PREFIX, dir=folder):
            pass
    except OSError as error:
        raise access_error(error, folder, "write") from error


def clear_leftovers(folder: Path, name: str = "*") -> None:
    """Removes what killed writers of a file (of every file of the folder) have left.

    The caller holds a lock that keeps other writers of those files away.
    """
    for left in folder.glob(f"{_PREFIX}{name}-*"):
        left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def access_error(error: OSError, path: Path, verb: str) -> FileAccessError:
    """What the operating system said about a file, with the remedy."""
    reason = error.strerror or str(error)
    return FileAccessError(
        f"cannot {verb} this file: {reason}",
        file=path,
        hint=_REMEDIES.get(error.errno or 0, f"make sure that {path.parent} exists and is usable"),
    )


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all bytes, however many calls that takes."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]


def _fill(descriptor: int, data: bytes) -> None:
    """Writes all bytes, with the permissions that a plain open would give, and closes."""
    try:
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(descriptor, 0o666 & ~umask)
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
