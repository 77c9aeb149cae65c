"""Reads the results that the seed study released, in the layout of its repository.

    output/<model>/baseline/                     the untrained model: epoch 0 of every strategy
    output/<model>/<STRATEGY>/epoch_<N>/
        validation_probes_results.json           mean ROUGE-1 recall: low, high, avg, per entity
        control_probes_results.json              exact match: math, MMLU, SocialIQA (may be absent)
        circuits/{results,pre-trained,last,best}.json     Hit@10 and logit difference (likewise)
    output/<model>/rag_<kind>/validation_probes_results.json
    data/validation_probes.json                  frequency and type of each entity (likewise)

Source: Mousavi, Alghisi, Riccardi 2026, arXiv 2601.03858, repository Knowledge-Dynamics-LLMs.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcircuits.errors import InputError
from kcircuits.io.input_file import read_bounded

# Their folder -> our strategy (METHODS.md section 1).
STRATEGIES = {
    "VFT": "lora",
    "VFT_ENAF": "annotated",
    "EFT": "curriculum",
    "VFT_KL_10": "kl-base",
    "VFT_KL_LAST_1": "kl-previous",
    "VFT_MAIN": "main-docs",
    "rag_gold": "rag-gold",
    "rag_entity": "rag-entity",
    "rag_all": "rag-retrieved",
}
BASELINE = "baseline"
# Their file -> whose circuit it is, measured on the weights of the folder's epoch.
CIRCUITS = {"results": "own", "pre-trained": "pre-trained", "last": "last", "best": "best"}
_SKILLS = {"math": "math", "MMLU": "mmlu", "SocialIQA": "social_iqa"}
_PROBES, _CONTROL = "validation_probes_results.json", "control_probes_results.json"
_COUNT = ">=0.6"  # stands among the entities
_MAX_BYTES = 64 * 1024**2
_HINT = "name the folder that holds output/<model>/baseline and output/<model>/<strategy>"


@dataclass(frozen=True, kw_only=True)
class ReleasedEpoch:
    """One epoch of one strategy.

    Attributes:
        epoch: 0 is the untrained model.
        recall: Mean recalls ``avg``, ``high``, ``low`` over probes.
        entities: Mean recall of each entity.
        skills: Exact match ``math``, ``mmlu``, ``social_iqa``; empty where not released.
        circuits: Hit@10 and logit difference of each circuit: rows ``circuit, hit_at_10,
            logit_diff, model_hit_at_10, model_logit_diff``.
    """

    epoch: int
    recall: Mapping[str, float]
    entities: Mapping[str, float]
    skills: Mapping[str, float]
    circuits: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class ReleasedRun:
    """One strategy of one model, epochs in order, the untrained model first."""

    model: str
    strategy: str
    epochs: tuple[ReleasedEpoch, ...]


@dataclass(frozen=True, kw_only=True)
class SeedRelease:
    """All runs, and the strata (frequency, type) of each entity where ``data`` is there."""

    runs: tuple[ReleasedRun, ...]
    strata: Mapping[str, Mapping[str, str]]


def read_seed_release(folder: str | Path) -> SeedRelease:
    """Reads a copy of the repository, its ``output`` folder, or one model's folder.

    Raises:
        InputError: The folder has another layout, or a file lacks what it should hold.
        FileAccessError: The disk refused.
    """
    # "." says neither the model's name nor which folders lie above.
    folder = Path(os.path.normpath(Path(folder).absolute()))
    output = folder / "output" if (folder / "output").is_dir() else folder
    models = [output] if (output / BASELINE).is_dir() else sorted(_folders(output))
    models = [model for model in models if (model / BASELINE).is_dir()]
    if not models:
        raise InputError(f"no <model>/{BASELINE} folder in {output}", file=folder, hint=_HINT)
    runs = tuple(run for model in models for run in _model_runs(model))
    if not runs:
        raise InputError(f"no strategy beside {BASELINE}", file=models[0], hint=_HINT)
    for candidate in (folder, folder.parent, folder.parent.parent):
        if (candidate / "data" / "validation_probes.json").is_file():
            return SeedRelease(runs=runs, strata=_strata(candidate / "data"))
    return SeedRelease(runs=runs, strata={})


def _model_runs(model: Path) -> list[ReleasedRun]:
    start = _epoch(model / BASELINE, 0)
    runs: list[ReleasedRun] = []
    for folder in _folders(model):
        if folder.name == BASELINE:
            continue
        strategy = STRATEGIES.get(folder.name, folder.name)
        found = {
            int(match[1]): child
            for child in _folders(folder)
            if (match := re.fullmatch(r"epoch_(\d+)", child.name))
        }
        if (folder / _PROBES).is_file():  # nothing is trained
            epochs = [_epoch(folder, 0)]
        else:
            epochs = [start, *(_epoch(found[number], number) for number in sorted(found))]
        if len(epochs) > 1 or (folder / _PROBES).is_file():
            runs.append(ReleasedRun(model=model.name, strategy=strategy, epochs=tuple(epochs)))
    order = {name: i for i, name in enumerate(STRATEGIES.values())}
    return sorted(runs, key=lambda run: (order.get(run.strategy, len(order)), run.strategy))


def _epoch(folder: Path, epoch: int) -> ReleasedEpoch:
    file = folder / _PROBES
    probes = _read(file)
    names = _at(probes, ("entities",), file)
    recall = {name: _number(probes, (name, "recall"), file) for name in ("avg", "high", "low")}
    entities = {
        name: _number(probes, ("entities", name, "recall"), file)
        for name in names
        if name != _COUNT
    }
    control = folder / _CONTROL
    skills: dict[str, float] = {}
    if control.is_file():
        data = _read(control)
        skills = {
            ours: _number(data, (theirs, "exact_match"), control)
            for theirs, ours in _SKILLS.items()
        }
    circuits = tuple(
        _circuit(folder / "circuits" / f"{theirs}.json", ours)
        for theirs, ours in CIRCUITS.items()
        if (folder / "circuits" / f"{theirs}.json").is_file()
    )
    return ReleasedEpoch(
        epoch=epoch, recall=recall, entities=entities, skills=skills, circuits=circuits
    )


def _circuit(file: Path, circuit: str) -> dict[str, Any]:
    data = _read(file)
    is_own = "mean" in data
    own = ("mean",) if is_own else ()
    row: dict[str, Any] = {"circuit": circuit}
    for name in ("hit_at_10", "logit_diff"):
        row[name] = _number(data, (*own, name), file)
        row[f"model_{name}"] = _number(data, ("baseline", name), file) if is_own else None
    return row


def _strata(folder: Path) -> dict[str, dict[str, str]]:
    file = folder / "validation_probes.json"
    names = {"frequency": "ne_frequency", "type": "ne_label"}
    return {
        entity: {
            ours: str(_at(about, (theirs,), file)) for ours, theirs in names.items()
        }
        for entity, about in _read(file).items()
    }  # fmt: skip


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def _read(file: Path) -> dict[str, Any]:
    content = read_bounded(file, limit=_MAX_BYTES, error=InputError, hint=_HINT)
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise InputError("is not a JSON object", file=file, hint="fetch the file again")
    return data


def _number(data: Any, path: tuple[str, ...], file: Path) -> float:
    value = _at(data, path, file)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        name = ".".join(path)
        raise InputError(
            f"{name} is {value!r}; expected a finite number", file=file, field=name,
            hint="fetch the file again",
        )  # fmt: skip
    return float(value)


def _at(data: Any, path: tuple[str, ...], file: Path) -> Any:
    for name in path:
        if not isinstance(data, dict) or name not in data:
            field = ".".join(path)
            raise InputError(
                f"{field} is missing", file=file, field=field, hint="fetch the file again"
            )
        data = data[name]
    return data
