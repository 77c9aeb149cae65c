"""Finds the checkpoints that a training run left in a folder.

Knows the layouts that trainers write: ``checkpoint-N`` with ``trainer_state.json`` (transformers'
Trainer; TRL, Axolotl and LLaMA-Factory write the same), ``epoch_N``, ``stepN``, and PEFT adapter
folders whose name ends in a number. Whole models and adapters alike; epoch 0 is the base model.
It reads names and small JSON files only; hashes are the caller's business.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.errors import ManifestError, UsageError
from kcircuits.io.checkpoint_files import read_json
from kcircuits.io.manifest import SCHEMA_VERSION, is_name

_NUMBER = r"(\d+(?:\.\d+)?)"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one kind of trainer names its folders, and what the number in the name counts."""

    name: str
    pattern: re.Pattern[str]
    counts: Literal["epoch", "step"]
    is_adapter_only: bool = False


LAYOUTS = (
    Layout(name="checkpoint-N", pattern=re.compile(r"checkpoint-(\d+)"), counts="step"),
    Layout(name="epoch_N", pattern=re.compile(rf"(?i:epoch|ep)[-_]?{_NUMBER}"), counts="epoch"),
    Layout(name="stepN", pattern=re.compile(r"(?i:(?:global_?)?step)[-_]?(\d+)"), counts="step"),
    Layout(
        name="adapter folders",
        pattern=re.compile(r".*?(\d+)"),
        counts="epoch",
        is_adapter_only=True,
    ),
)


@dataclass(frozen=True)
class Discovery:
    """A manifest without hashes, and what the user should know about it."""

    manifest: Manifest
    warnings: tuple[str, ...]


def discover_checkpoints(
    train_dir: str | Path,
    *,
    base: str | Path | None = None,
    facts: str | Path | None = None,
    run: str | None = None,
) -> Discovery:
    """The checkpoints in a folder, in training order.

    Args:
        train_dir: Folder that holds one folder per checkpoint, or is itself an adapter.
        base: Folder of the base model; default what the adapters name, if it is a local folder.
        facts: The facts file; default ``facts.jsonl`` in the folder or beside it.
        run: Name of the run; default the folder's name.

    Raises:
        UsageError: There is no such folder, no checkpoint in it, or no base model for adapters.
        ManifestError: More than one layout, or two folders with the same epoch or step.
        CheckpointError: A ``trainer_state.json`` or ``adapter_config.json`` that is no JSON.
    """
    root = Path(train_dir).absolute()
    if not root.is_dir():
        raise UsageError(
            f"{train_dir} is no folder", field="TRAIN_DIR", hint="name the trainer's output folder"
        )
    found, warnings = _found(root)
    base_name, base_path = _base(root, found, base)
    if base_path is None and any(item.adapter for item in found):
        raise UsageError(
            f"the adapters' base model {base_name!r} is no local folder",
            field="--base",
            hint="name the base model's folder with --base MODEL_DIR",
        )
    checkpoints = [replace(item, path=base_path) if item.adapter else item for item in found]
    if base_path and checkpoints[0].epoch != 0:
        checkpoints.insert(0, Checkpoint(id="ep0", path=base_path, epoch=0, step=0))
    elif checkpoints[0].epoch != 0:
        warnings.append("epoch 0 is missing: name the base model's folder with --base MODEL_DIR")
    facts_path = _facts(root, facts)
    if not facts_path.is_file():
        warnings.append(f"there is no facts file {facts_path} yet: name it with --facts FILE")
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        run=run or _run_name(root.name),
        base_model=base_name,
        facts=facts_path,
        checkpoints=tuple(checkpoints),
    )
    return Discovery(manifest, tuple(warnings))


def _found(root: Path) -> tuple[list[Checkpoint], list[str]]:
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    warnings: list[str] = []
    for layout in LAYOUTS:
        hits = [(layout.pattern.fullmatch(folder.name), folder) for folder in folders]
        items: list[tuple[float, Checkpoint]] = []
        for match, folder in hits:
            if match is None or (layout.is_adapter_only and not _is_adapter(folder)):
                continue
            if not (_is_adapter(folder) or (folder / "config.json").is_file()):
                warnings.append(f"left out {folder.name}: no config.json, no adapter_config.json")
                continue
            items.append((float(match[1]), _checkpoint(folder, layout, match[1])))
        if items:
            _refuse_other_layouts(layout, folders)
            return _in_order(items, root), warnings
    if _is_adapter(root):
        return [Checkpoint(id="final", path=root, adapter=root)], warnings
    names = ", ".join(folder.name for folder in folders[:5]) or "nothing"
    raise UsageError(
        f"no checkpoints in {root}; its folders: {names}",
        field="TRAIN_DIR",
        hint=f"expected one of {', '.join(layout.name for layout in LAYOUTS)}, each with "
        "config.json or adapter_config.json",
    )


def _checkpoint(folder: Path, layout: Layout, number: str) -> Checkpoint:
    """A checkpoint folder; for an adapter the path is filled in when the base is known."""
    epoch = float(number) if layout.counts == "epoch" else None
    step = int(number) if layout.counts == "step" else None
    state_file = folder / "trainer_state.json"
    if state_file.is_file():
        state = read_json(state_file)
        epoch = _state_number(state, "epoch", state_file) if epoch is None else epoch
        step = int(_state_number(state, "global_step", state_file)) if step is None else step
    if epoch is None and step == 0:
        epoch = 0.0
    is_whole = epoch is not None and epoch.is_integer()
    return Checkpoint(
        id=f"ep{epoch:.0f}" if is_whole else f"ep{number}" if step is None else f"step{step}",
        path=folder,
        epoch=epoch,
        step=step,
        adapter=folder if _is_adapter(folder) else None,
    )


def _in_order(items: list[tuple[float, Checkpoint]], root: Path) -> list[Checkpoint]:
    items.sort(key=lambda item: item[0])
    for (low, first), (high, second) in pairwise(items):
        known = first.epoch is not None and second.epoch is not None
        falls = known and (second.epoch or 0) <= (first.epoch or 0)
        if low == high or first.id == second.id or falls:
            raise ManifestError(
                f"{second.path.name} does not come after {first.path.name}: epochs {first.epoch} "
                f"and {second.epoch}, steps {first.step} and {second.step}",
                file=root,
                field="checkpoints",
                hint="move the folder that is not of this run elsewhere",
            )
    return [item for _, item in items]


def _refuse_other_layouts(layout: Layout, folders: Sequence[Path]) -> None:
    for other in LAYOUTS[LAYOUTS.index(layout) + 1 :]:
        names = [folder.name for folder in folders if other.pattern.fullmatch(folder.name)]
        if names and not other.is_adapter_only:
            raise ManifestError(
                f"the folder holds two layouts: {layout.name} and {other.name} ({names[0]})",
                field="checkpoints",
                hint="move the folders that are not of this run elsewhere",
            )


def _base(root: Path, found: list[Checkpoint], base: str | Path | None) -> tuple[str, Path | None]:
    """Name of the base model and its folder, if it is a local one."""
    if base is not None:
        path = Path(base).absolute()
        if not (path / "config.json").is_file():
            raise UsageError(
                f"--base {base} holds no config.json",
                field="--base",
                hint="name the folder that the base model was saved in",
            )
        return path.name, path
    first = found[0]
    config = read_json((first.adapter or first.path) / _config_name(first))
    name = config.get("base_model_name_or_path" if first.adapter else "_name_or_path")
    if not isinstance(name, str) or not name.strip():
        return "unknown", None
    for folder in (Path(name).absolute(), root / name, root.parent / name):
        if (folder / "config.json").is_file():
            return folder.name, folder
    return name, None


def _config_name(checkpoint: Checkpoint) -> str:
    return "adapter_config.json" if checkpoint.adapter else "config.json"


def _facts(root: Path, facts: str | Path | None) -> Path:
    if facts is not None:
        return Path(facts).absolute()
    places = [root / "facts.jsonl", root.parent / "facts.jsonl"]
    return next((place for place in places if place.is_file()), places[0])


def _run_name(name: str) -> str:
    safe = re.sub(r"[^\w.+-]+|\.{2,}", "-", name).strip(".-+")
    return safe if is_name(safe) else "run"


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _state_number(state: dict[str, Any], key: str, file: Path) -> float:
    value = state.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ManifestError(
            f"{key} is {value!r}, expected a number of 0 or more",
            file=file,
            field=key,
            hint="restore the file that the trainer wrote, or write the manifest by hand",
        )
    return float(value)
