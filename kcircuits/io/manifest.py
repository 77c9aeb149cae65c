"""Reads and writes the list of a run's checkpoints, ``checkpoints_manifest.yaml``.

The schema is strict: what is not understood is refused, with file, field and line. Paths are
relative to the manifest. Nothing here looks at the files that a manifest names.
"""

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.errors import ManifestError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.input_file import Location, Schema, field_name, read_bounded, shown, validate
from kcircuits.io.strict_yaml import parse_yaml

SCHEMA_VERSION = 1
MAX_BYTES = 1_000_000
_NAME = re.compile(r"\w[\w.+-]{0,99}")


class _CheckpointSchema(Schema):
    id: str
    epoch: float | None = Field(default=None, ge=0)
    step: int | None = Field(default=None, ge=0)
    path: str = Field(min_length=1)
    adapter: str | None = Field(default=None, min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    identity: bool = False


class _ManifestSchema(Schema):
    schema_version: int
    run: str
    base_model: str = Field(min_length=1)
    tokenizer: str | None = Field(default=None, min_length=1)
    facts: str = Field(min_length=1)
    checkpoints: list[_CheckpointSchema] = Field(min_length=1)


@dataclass(frozen=True)
class _Source:
    """Where the content came from, for errors."""

    file: Path | None
    lines: dict[Location, int]

    def line_of(self, location: Location) -> int | None:
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location)

    def error(self, message: str, location: Location, hint: str) -> ManifestError:
        return ManifestError(
            message,
            file=self.file,
            field=field_name(location),
            line=self.line_of(location),
            hint=hint,
        )


def load_manifest(path: str | Path = "checkpoints_manifest.yaml") -> Manifest:
    """The manifest in a file; its paths become absolute.

    Raises:
        ManifestError: The file is missing or breaks a rule; names file, field and line.
        FileAccessError: The file cannot be read.
    """
    path = Path(path)
    content = read_bounded(
        path,
        limit=MAX_BYTES,
        error=ManifestError,
        hint="write one with kcircuits manifest init TRAIN_DIR, or name it with --manifest FILE",
    )
    data, lines = parse_yaml(content, path)
    source = _Source(path, lines)
    record = _checked(data, source)
    folder = path.absolute().parent
    return Manifest(
        schema_version=record.schema_version,
        run=record.run,
        base_model=record.base_model,
        tokenizer=None if record.tokenizer is None else _absolute(folder, record.tokenizer),
        facts=_absolute(folder, record.facts),
        checkpoints=tuple(
            Checkpoint(
                id=item.id,
                path=_absolute(folder, item.path),
                epoch=item.epoch,
                step=item.step,
                adapter=None if item.adapter is None else _absolute(folder, item.adapter),
                sha256=item.sha256,
                is_identity=item.identity,
            )
            for item in record.checkpoints
        ),
        path=path.absolute(),
    )


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Writes a manifest that ``load_manifest`` reads back; whole or not at all.

    Paths are written relative to the file, but absolute where they lie far away (outside of the
    folder two above), such as a model in the user's cache.

    Raises:
        ManifestError: The manifest breaks a rule.
        FileAccessError: The file cannot be written.
    """
    path = Path(path)
    folder = path.absolute().parent
    content: dict[str, Any] = {
        "schema_version": manifest.schema_version,
        "run": manifest.run,
        "base_model": manifest.base_model,
        "tokenizer": None if manifest.tokenizer is None else _relative(folder, manifest.tokenizer),
        "facts": _relative(folder, manifest.facts),
    }
    content = {key: value for key, value in content.items() if value is not None}
    content["checkpoints"] = [_checkpoint_fields(c, folder) for c in manifest.checkpoints]
    _checked(content, _Source(path, {}))
    write_atomic(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000))


def is_name(text: str) -> bool:
    """Whether a text can name a run (a folder) or a checkpoint (a reference)."""
    return bool(_NAME.fullmatch(text)) and ".." not in text and not text.endswith(".")


def _checked(data: Any, source: _Source) -> _ManifestSchema:
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is int and version != SCHEMA_VERSION:
        raise source.error(
            f"schema_version {version} is not known; this version reads {SCHEMA_VERSION}",
            ("schema_version",),
            "use a kcircuits that knows it, or write the manifest anew with manifest init",
        )
    record = validate(
        _ManifestSchema, data, error=ManifestError, file=source.file, line_of=source.line_of
    )
    if not is_name(record.run):
        raise source.error(
            f"run {shown(record.run)} cannot name a folder",
            ("run",),
            "use letters, digits, '.', '_', '+' and '-', a letter or digit first, at most 100",
        )
    _check_ids(record.checkpoints, source)
    _check_order(record.checkpoints, source)
    _check_paths(record, source)
    return record


def _check_ids(checkpoints: list[_CheckpointSchema], source: _Source) -> None:
    seen: dict[str, str] = {}
    for i, item in enumerate(checkpoints):
        at = ("checkpoints", i, "id")
        if not is_name(item.id) or item.id in ("first", "last"):
            raise source.error(
                f"checkpoint id {shown(item.id)} cannot be used in references such as ep3..ep7",
                at,
                "use letters, digits, '.', '_', '+' and '-', e.g. ep3; not first or last",
            )
        same = unicodedata.normalize("NFC", item.id)
        if same in seen:
            raise source.error(
                f"checkpoint id {shown(item.id)} is given twice (first as {shown(seen[same])}; "
                "ids are compared in Unicode normal form C)",
                at,
                "give each checkpoint its own id",
            )
        seen[same] = item.id


def _check_order(checkpoints: list[_CheckpointSchema], source: _Source) -> None:
    epoch = step = None
    for i, item in enumerate(checkpoints):
        if epoch is not None and item.epoch is not None and item.epoch <= epoch:
            raise source.error(
                f"epoch {item.epoch:g} of {item.id} does not come after epoch {epoch:g}",
                ("checkpoints", i, "epoch"),
                "list the checkpoints in training order, with strictly increasing epochs",
            )
        if step is not None and item.step is not None and item.step < step:
            raise source.error(
                f"step {item.step} of {item.id} comes before step {step}",
                ("checkpoints", i, "step"),
                "list the checkpoints in training order",
            )
        epoch = epoch if item.epoch is None else item.epoch
        step = step if item.step is None else item.step
        if item.identity and item.adapter is None:
            raise source.error(
                f"identity of {item.id} is set, but there is no adapter that it could speak of",
                ("checkpoints", i, "identity"),
                "remove identity, or name the adapter",
            )


def _check_paths(record: _ManifestSchema, source: _Source) -> None:
    paths: list[tuple[Location, str | None]] = [
        (("tokenizer",), record.tokenizer),
        (("facts",), record.facts),
        (("base_model",), record.base_model),
    ]
    for i, item in enumerate(record.checkpoints):
        paths += [
            (("checkpoints", i, "path"), item.path),
            (("checkpoints", i, "adapter"), item.adapter),
        ]
    for location, text in paths:
        if text is not None and (not text.isprintable() or text != text.strip()):
            raise source.error(
                f"{field_name(location)} {shown(text)} holds control characters or outer spaces",
                location,
                "write the path as the file system shows it",
            )


def _checkpoint_fields(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    fields = {
        "id": checkpoint.id,
        "epoch": _plain(checkpoint.epoch),
        "step": checkpoint.step,
        "path": _relative(folder, checkpoint.path),
        "adapter": None if checkpoint.adapter is None else _relative(folder, checkpoint.adapter),
        "sha256": checkpoint.sha256,
        "identity": True if checkpoint.is_identity else None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _plain(epoch: float | None) -> float | None:
    """The epoch, whole numbers without their ``.0``."""
    return int(epoch) if epoch is not None and float(epoch).is_integer() else epoch


def _absolute(folder: Path, path: str) -> Path:
    return Path(os.path.normpath(folder / path))


def _relative(folder: Path, path: Path) -> str:
    absolute = os.path.normpath(path.absolute())
    relative = os.path.relpath(absolute, folder)
    return absolute if relative.startswith("../../..") else Path(relative).as_posix()
