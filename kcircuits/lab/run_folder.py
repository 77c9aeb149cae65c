"""The folder of one training run, and how it stays whole through kills."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcircuits.errors import UsageError
from kcircuits.io.atomic import sync_folder
from kcircuits.io.jsonl import append_rows, read_rows
from kcircuits.lab.resume import states
from kcircuits.lab.strategies import Strategy


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where the files of a run lie (see the module)."""

    root: Path
    run: str

    @property
    def manifest(self) -> Path:
        """Written last."""
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

    def checkpoint(self, epoch: int) -> Path:
        """The folder of an epoch's weights."""
        return self.root / "checkpoints" / f"ep{epoch}"


def asked_before(folder: RunFolder, request: dict[str, Any]) -> dict[str, Any] | None:
    """What the folder's run was asked for; UsageError where that is another request."""
    if not folder.request.is_file():
        return None
    before = json.loads(folder.request.read_text(encoding="utf-8"))
    for field, value in request.items():
        if before["request"].get(field) != value:
            raise UsageError(
                f"this folder holds a run with {field} {before['request'].get(field)!r}, not "
                f"{value!r}",
                file=folder.request,
                field=field,
                hint="choose another folder with --out, or delete this one",
            )
    return before


def back_to_last_epoch(folder: RunFolder) -> int:
    """Drops all that was written after the last whole epoch; gives that epoch, 0 for none."""
    done = max(states(folder.state), default=0)
    for path in (folder.probes, folder.losses):
        kept = [row for row in read_rows(path) if done and row["epoch"] <= done]
        path.unlink(missing_ok=True)
        append_rows(path, kept)
    for path in (folder.root / "checkpoints").glob("*"):
        if not done or path.name not in {f"ep{epoch}" for epoch in range(done + 1)}:
            shutil.rmtree(path)
    return done


def save_checkpoint(strategy: Strategy, model: Any, base: Path, folder: Path, dtype: str) -> None:
    """Writes a checkpoint's folder whole or not at all."""
    temporary = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    strategy.save(model, base, temporary, dtype)
    for file in temporary.iterdir():
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
    sync_folder(temporary)
    temporary.replace(folder)
    sync_folder(folder.parent)
