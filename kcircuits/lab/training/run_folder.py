"""The folder of one training run, and how it stays whole through kills.

The manifest is the record of what is whole: a checkpoint is in it when its weights and all its
rows are on disk. Whatever else lies in the folder was left by a kill and is dropped by ``rewind``.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from kcircuits.core.manifest import Checkpoint
from kcircuits.errors import UsageError
from kcircuits.io.atomic import access_error, sync_folder, write_atomic
from kcircuits.io.jsonl import read_rows
from kcircuits.io.manifest import load_manifest, write_manifest

_OURS = re.compile(r"(\.writing-)?(ep|step)\d+(\.\d+)?")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as safetensors tells what the system has said


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where the files of a run lie (see ``kcircuits.lab.training.recorder``)."""

    root: Path
    run: str

    @property
    def manifest(self) -> Path:
        """The checkpoints that are whole."""
        return self.root / "checkpoints_manifest.yaml"

    @property
    def request(self) -> Path:
        """What was asked."""
        return self.root / "training.json"

    @property
    def state(self) -> Path:
        """What a killed run needs to go on."""
        return self.root / "state"

    @property
    def probes(self) -> Path:
        """Probe rows."""
        return self.root / "runs" / self.run / "probes.jsonl"

    @property
    def losses(self) -> Path:
        """Training rows."""
        return self.root / "runs" / self.run / "train.jsonl"

    @property
    def skills(self) -> Path:
        """Rows of skills that the training is not about."""
        return self.root / "runs" / self.run / "skills.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.root / "checkpoints"

    def checkpoint(self, name: str) -> Path:
        """The folder of a checkpoint's weights."""
        return self.checkpoints / name


def checkpoint_id(epoch: float, step: int | None) -> str:
    """``ep3`` after a whole epoch, else ``step240``, or ``ep2.5`` where no steps are counted."""
    is_whole = float(epoch).is_integer()
    return f"ep{epoch:g}" if is_whole or step is None else f"step{step}"


def asked_before(folder: RunFolder, request: dict[str, Any]) -> dict[str, Any] | None:
    """What the folder's run was asked for; UsageError where that is another request."""
    if not folder.request.is_file():
        _require_no_checkpoints(folder)
        return None
    before = json.loads(folder.request.read_text(encoding="utf-8"))
    for field, value in request.items():
        if before["request"].get(field) != value:
            raise UsageError(
                f"this folder holds a run with {field} {before['request'].get(field)!r}, not "
                f"{value!r}",
                file=folder.request,
                field=field,
                hint="choose another folder (--out, out=), or delete this one",
            )
    return before


def recorded(folder: RunFolder) -> tuple[Checkpoint, ...]:
    """The checkpoints that are whole, in order."""
    if not folder.manifest.is_file():
        return ()
    return load_manifest(folder.manifest).checkpoints


def rewind(folder: RunFolder, kept: Sequence[Checkpoint]) -> None:
    """Drops all that does not belong to the checkpoints that are kept, the manifest's first."""
    ids, epochs = {c.id for c in kept}, {c.epoch for c in kept}
    if not kept:
        folder.manifest.unlink(missing_ok=True)
    elif tuple(kept) != recorded(folder):
        manifest = load_manifest(folder.manifest)
        write_manifest(replace(manifest, checkpoints=tuple(kept)), folder.manifest)
    for path in (folder.probes, folder.skills):
        _keep_rows(path, lambda row: row["checkpoint"] in ids)
    _keep_rows(folder.losses, lambda row: row["epoch"] in epochs)
    for path in folder.checkpoints.glob("*"):
        if path.name not in ids and _OURS.fullmatch(path.name):
            shutil.rmtree(path)


def save_checkpoint(save: Callable[[Path], None], folder: Path) -> None:
    """Writes a checkpoint's folder whole or not at all.

    Args:
        save: Writes the files into an empty folder.
        folder: What that folder is called when all are on disk.

    Raises:
        FileAccessError: The disk refused.
    """
    temporary = folder.with_name(f".writing-{folder.name}")
    with disk_told(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
        sync_folder(temporary)
        temporary.replace(folder)
        sync_folder(folder.parent)


@contextmanager
def disk_told(path: Path) -> Iterator[None]:
    """What the operating system refuses inside is told as a user can mend it.

    Raises:
        FileAccessError: The disk is full, or may not be written.
    """
    try:
        yield
    except OSError as error:
        raise access_error(error, path, "write") from error
    except SafetensorError as error:
        found = _OS_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise access_error(OSError(number, os.strerror(number)), path, "write") from error


def _keep_rows(path: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    rows = read_rows(path)
    kept = [row for row in rows if is_kept(row)]
    if not kept:
        path.unlink(missing_ok=True)
    elif kept != rows:
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


def _require_no_checkpoints(folder: RunFolder) -> None:
    """UsageError where files lie in the way of a new run that no run of ours has left."""
    for path in (folder.manifest, folder.checkpoints, folder.probes):
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise UsageError(
                f"{path.name} is there already, but no {folder.request.name} of a training run",
                file=path,
                field="out",
                hint="choose another folder (--out, out=)",
            )
