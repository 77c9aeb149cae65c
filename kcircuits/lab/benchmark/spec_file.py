"""Reads the YAML file that says what a benchmark is to be; some are part of the package.

The reader is strict: what it does not understand it refuses, with file, field and line.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kcircuits.errors import InputError, ManifestError, UsageError
from kcircuits.io.input_file import Location, Schema, field_name, read_bounded, validate
from kcircuits.io.strict_yaml import parse_yaml
from kcircuits.lab.benchmark.spec import DOCUMENTS, BenchmarkSpec, Tolerances
from kcircuits.lab.real.spec import SPLITS, RealSpec

MAX_BYTES = 100_000
_FOLDER = Path(str(files("kcircuits.lab.benchmark"))) / "specs"


class _People(Schema):
    trained: dict[str, int]
    held_out: int = Field(default=0, alias="held-out")


class _Prompts(Schema):
    discovery: int = 8
    evaluation: int = 4
    candidates: int = 24


class _Real(Schema):
    relations: list[str] = Field(min_length=1)
    exposure: int = 4
    trained: dict[str, int] = Field(default={})
    updated: dict[str, int] = Field(default={})
    control: dict[str, int] = Field(default={})


class _Tolerances(Schema):
    ks_p: float = 0.05
    js_quantile: float = 0.95
    leaks: int = 0
    unequal: int = 0


class _Spec(Schema):
    schema_version: Literal[1]
    relations: list[str]
    facts_per_person: int | Literal["all"] = 1
    people: _People
    exposure: dict[str, float] = Field(default=dict(DOCUMENTS))
    documents: str = "short"
    links: bool = False
    answers: str = "one"
    prompts: _Prompts = _Prompts()
    probes: dict[str, float] = Field(default={})
    real: _Real | None = None
    tolerances: _Tolerances = _Tolerances()


def spec_names() -> tuple[str, ...]:
    """Names of the specs that are part of the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_spec(name: str | Path) -> BenchmarkSpec:
    """The spec of a name of ``spec_names``, or of a YAML file.

    Raises:
        UsageError: Neither a name nor a file of YAML (``.yaml`` or ``.yml``).
        InputError: The file is missing or breaks a rule; names file, field and line.
    """
    path = _path_of(name)
    content = read_bounded(
        path, limit=MAX_BYTES, error=InputError, hint="check the path of the spec"
    )
    try:
        data, lines = parse_yaml(content, path)
    except ManifestError as cause:
        hint = cause.hint if cause.message != "is empty" else "say what the benchmark is to be"
        raise InputError(
            cause.message, file=path, field=cause.field, line=cause.line, hint=hint
        ) from None

    def line_of(location: Location) -> int | None:
        while location and location not in lines:
            location = location[:-1]
        return lines.get(location)

    record = validate(_Spec, data, error=InputError, file=path, line_of=line_of)
    try:
        return _spec_of(record)
    except UsageError as cause:
        location: Location = tuple((cause.field or "").split("."))
        raise InputError(
            cause.message,
            file=path,
            field=field_name(location) or None,
            line=line_of(location),
            hint=cause.hint,
        ) from None


def _path_of(name: str | Path) -> Path:
    """The file of a name, or the file that is named."""
    if str(name) in spec_names():
        return _FOLDER / f"{name}.yaml"
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    raise UsageError(
        f"there is no spec {str(name)!r}",
        field="spec",
        hint=f"choose from {', '.join(spec_names())}, or name a YAML file",
    )


def _spec_of(record: _Spec) -> BenchmarkSpec:
    real, tolerances = record.real, record.tolerances
    splits: Mapping[str, Any] = {} if real is None else real.model_dump()
    return BenchmarkSpec(
        people=record.people.trained,
        held_out=record.people.held_out,
        relations=tuple(record.relations),
        facts_per_person=None if record.facts_per_person == "all" else record.facts_per_person,
        exposure=record.exposure,
        documents=record.documents,
        has_links=record.links,
        answers=record.answers,
        n_discovery=record.prompts.discovery,
        n_evaluation=record.prompts.evaluation,
        n_candidates=record.prompts.candidates,
        probes=record.probes,
        real=None
        if real is None
        else RealSpec(
            relations=tuple(real.relations),
            facts={name: splits[name] for name in SPLITS if splits[name]},
        ),
        real_exposure=4 if real is None else real.exposure,
        tolerances=Tolerances(**tolerances.model_dump()),
    )
