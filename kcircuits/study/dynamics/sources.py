"""Where dynamics come from: run folders of this toolkit, and the release of the seed study."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import numpy as np

from kcircuits.analysis.dynamics.grid import Columns, series_from_columns
from kcircuits.analysis.dynamics.series import LEARNED_RECALL, ProbeSeries, Skill
from kcircuits.core.facts import Fact
from kcircuits.core.manifest import Manifest
from kcircuits.errors import InputError, UsageError
from kcircuits.io.facts import load_facts
from kcircuits.io.manifest import load_manifest
from kcircuits.io.run_record import RUN_FILE, read_run_record
from kcircuits.io.seed_release import ReleasedRun, SeedRelease
from kcircuits.io.training_files import read_training_files

Row = dict[str, Any]
_MANIFEST = "checkpoints_manifest.yaml"
_NO_FACTS = (
    "%s: no facts file was found, so every fact is an entity of its own and counts as trained, "
    "controls and held-out ones too; --facts FILE gives entities and strata"
)
logger = logging.getLogger(__name__)


def open_runs(
    runs: Sequence[str | Path], *, facts: str | Path | None = None, kind: str | None = None
) -> list[tuple[Path, ProbeSeries]]:
    """The series of several run folders, each with its folder.

    Args:
        runs: Run folders.
        facts: A facts file.
        kind: Only probes of this kind.

    Raises:
        UsageError: No run, no probes, or two folders with the same run.
        InputError: As in ``run_series``.
    """
    if not runs:
        raise UsageError("no run is named", field="run", hint="name a run folder")
    given = None if facts is None else Path(facts)
    found = [
        (Path(run), series)
        for run in runs
        for series in run_series(Path(run), facts=given, kind=kind)
    ]
    check_distinct(found)
    return found


def run_series(
    folder: Path, *, facts: Path | None = None, kind: str | None = None
) -> list[ProbeSeries]:
    """The series of one run folder, one per strategy and seed.

    Entities and strata come from ``facts``, else from what ``kcircuits run`` recorded, else from
    the facts file of the manifest beside which the folder lies; without any of these each fact is
    an entity of its own and counts as trained, and a warning says so.

    Args:
        folder: A run folder.
        facts: A facts file.
        kind: Only probes of this kind.

    Raises:
        UsageError: There are no probes, or none of that kind.
        InputError: A probe is missing, twice there, or has a number that is none.
        ManifestError: The manifest beside the folder cannot be read.
    """
    files = read_training_files(folder)
    manifest = _manifest_of(folder)
    about = _facts_of(folder, facts, manifest)
    if not about:
        logger.warning(_NO_FACTS, folder)
    return series_from_columns(
        files.probes if kind is None else _of_kind(files.probes, kind),
        facts=about,
        train=files.train,
        skills=files.skills,
        model=None if manifest is None else PurePath(manifest.base_model).name,
    )


def check_seed(seed: int) -> None:
    """UsageError where a seed cannot begin a generator."""
    if seed < 0:
        raise UsageError(f"seed is {seed}; expected 0 or more", field="seed", hint="try 0")


def check_distinct(found: Sequence[tuple[Path, ProbeSeries]]) -> None:
    """UsageError where two folders hold the same model, strategy and seed."""
    seen: dict[tuple[Any, ...], Path] = {}
    for folder, series in found:
        key = (series.model, series.strategy, series.seed)
        if key in seen:
            raise UsageError(
                f"{seen[key]} and {folder} both hold a run of {series.name}; expected runs that "
                "differ in model, strategy or seed",
                field="run",
                hint="leave one of them out",
            )
        seen[key] = folder


def release_series(release: SeedRelease) -> list[ProbeSeries]:
    """The runs of the seed's release, each entity as a fact with one open probe: its mean recall.

    Source: Mousavi, Alghisi, Riccardi 2026, arXiv 2601.03858.
    """
    return [_released(run, release) for run in release.runs]


def release_circuits(release: SeedRelease) -> list[Row]:
    """Hit@10 and logit difference of circuits at each epoch, of strategies that have them."""
    return [
        {"model": run.model, "strategy": run.strategy, "epoch": epoch.epoch, **circuit}
        for run in release.runs
        if any(epoch.circuits for epoch in run.epochs if epoch.epoch)
        for epoch in run.epochs
        for circuit in epoch.circuits
    ]


def _released(run: ReleasedRun, release: SeedRelease) -> ProbeSeries:
    names = tuple(run.epochs[0].entities)
    for epoch in run.epochs:
        if set(epoch.entities) != set(names):
            odd = sorted(set(names) ^ set(epoch.entities))[0]
            raise InputError(
                f"{run.strategy}: entity {odd!r} is not at every epoch (epoch {epoch.epoch} "
                "differs from the first)",
                hint="fetch the files of that epoch again",
            )
    recall = np.array([[epoch.entities[name] for epoch in run.epochs] for name in names])
    none = np.full(len(run.epochs), np.nan)
    skills = dict.fromkeys(name for epoch in run.epochs for name in epoch.skills)
    return ProbeSeries(
        model=run.model,
        strategy=run.strategy,
        epochs=np.array([epoch.epoch for epoch in run.epochs], dtype=float),
        fact_ids=names,
        entities=names,
        strata=tuple(release.strata.get(name, MappingProxyType({})) for name in names),
        fact_idx=np.arange(len(names)),
        is_known=recall >= LEARNED_RECALL,
        logprob=np.full(recall.shape, np.nan),
        recall=recall,
        loss=none,
        perplexity=none,
        skills={
            name: Skill(accuracy=np.array([e.skills.get(name, np.nan) for e in run.epochs]))
            for name in skills
        },
        stated_recall={
            name: np.array([epoch.recall[name] for epoch in run.epochs])
            for name in ("avg", "high", "low")
        },
        learned_margin=0.0,
    )


def _of_kind(probes: Columns, kind: str) -> Columns:
    rows = [i for i, value in enumerate(probes["kind"]) if value == kind]
    if not rows:
        there = ", ".join(sorted({str(value) for value in probes["kind"]}))
        raise UsageError(
            f"there are no probes of kind {kind!r}; there are {there}",
            field="kind",
            hint="choose one of those",
        )
    return {name: [values[i] for i in rows] for name, values in probes.items()}


def _facts_of(folder: Path, given: Path | None, manifest: Manifest | None) -> tuple[Fact, ...]:
    if given is not None:
        return load_facts(given)
    if (folder / RUN_FILE).is_file():
        requests = read_run_record(folder).requests
        if requests:
            return tuple(record.fact for record in requests[-1].facts)
    return () if manifest is None else load_facts(manifest.facts)


def _manifest_of(folder: Path) -> Manifest | None:
    """The manifest that the folder belongs to, where it is still there."""
    for file in filter(Path.exists, _manifests(folder)):
        manifest = load_manifest(file)
        if manifest.run == folder.absolute().name:
            return manifest
    return None


def _manifests(folder: Path) -> Iterator[Path]:
    if (folder / RUN_FILE).is_file():
        yield folder / read_run_record(folder).manifest
    yield folder.absolute().parent.parent / _MANIFEST
