"""Knowledge dynamics of training runs, as a notebook or a verb holds them; needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kcircuits.analysis.dynamics.rows import dynamics_rows
from kcircuits.analysis.dynamics.series import ProbeSeries
from kcircuits.analysis.dynamics.strata import stratum_series
from kcircuits.errors import UsageError
from kcircuits.io.seed_release import read_seed_release
from kcircuits.study.dynamics import tables as tables
from kcircuits.study.dynamics.sources import (
    check_seed,
    open_runs,
    release_circuits,
    release_series,
)

Row = dict[str, Any]
SCHEMA = "kcircuits.dynamics/1"


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """What models knew from epoch to epoch; made by ``open_dynamics`` or ``import_dynamics``.

    Attributes:
        series: One per model, strategy and seed.
        by: Stratum of the rows: a key of the facts' strata, ``entity``, ``fact`` or ``prior``
            (by the probes before training), or ``kind`` (of the probes); None for all together.
        k: Epochs that a fact must stay known to the end to be consolidated.
        last_exposure: Last epoch whose training told the facts; None for every epoch.
        seed: Of the bootstrap.
        circuits: Rows about circuits that the source itself holds.
    """

    series: tuple[ProbeSeries, ...]
    by: str | None = None
    k: int = 3
    last_exposure: float | None = None
    seed: int = 0
    circuits: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k is {self.k}; expected at least 1", field="k", hint="try 3")
        check_seed(self.seed)

    @cached_property
    def rows(self) -> list[Row]:
        """One row per run, stratum and epoch; fields in ``analysis.dynamics.rows``."""
        return [row for series in self.series for row in dynamics_rows(series, self.by)]

    @property
    def runs(self) -> list[Row]:
        """What each run's numbers are about: its size, what knowledge means, what is counted."""
        return [tables.run_row(series) for series in self.series]

    @cached_property
    def summary(self) -> list[Row]:
        """Events, consolidation, survival, exposure and trends of each run and stratum."""
        return [
            tables.summary_row(
                part, stratum, k=self.k, last_exposure=self.last_exposure, seed=self.seed
            )
            for series in self.series
            for stratum, part in stratum_series(series, self.by).items()
        ]

    @cached_property
    def knowledge(self) -> list[Row]:
        """Mean knowledge per run, stratum and epoch, with intervals over entities."""
        return [
            row
            for series in self.series
            for row in tables.knowledge_rows(series, self.by, seed=self.seed)
        ]

    @cached_property
    def differences(self) -> list[Row]:
        """Trained minus control facts per run and epoch, with intervals over entities."""
        return [r for series in self.series for r in tables.difference_rows(series, seed=self.seed)]

    @cached_property
    def skills(self) -> list[Row]:
        """Change of each skill since the first epoch, items paired."""
        return [r for series in self.series for r in tables.skill_rows(series, seed=self.seed)]

    @cached_property
    def facts(self) -> list[Row]:
        """What happened to each fact."""
        return [
            row
            for series in self.series
            for row in tables.fact_rows(series, k=self.k, last_exposure=self.last_exposure)
        ]

    @cached_property
    def entities(self) -> list[Row]:
        """What happened to each entity that has open questions."""
        return [row for series in self.series for row in tables.entity_rows(series, k=self.k)]

    def to_json(self) -> dict[str, Any]:
        """The document that ``kcircuits dynamics --json`` prints."""
        return {
            "schema": SCHEMA,
            "by": self.by,
            "rows": self.rows,
            "runs": self.runs,
            "summary": self.summary,
            "knowledge": self.knowledge,
            "differences": self.differences,
            "skills": self.skills,
            "facts": self.facts,
            "entities": self.entities,
            "circuits": list(self.circuits),
        }


def open_dynamics(
    *runs: str | Path,
    by: str | None = None,
    facts: str | Path | None = None,
    kind: str | None = None,
    k: int = 3,
    last_exposure: float | None = None,
    seed: int = 0,
) -> Dynamics:
    """The dynamics of training runs.

    Args:
        runs: Run folders, each with ``probes.jsonl`` (and ``train.jsonl``, ``skills.jsonl``).
        by: Stratum of the rows; see ``Dynamics``.
        facts: A facts file, for entities and strata; default the runs' own.
        kind: Only probes of this kind.
        k: Epochs that a fact must stay known to the end to be consolidated.
        last_exposure: Last epoch whose training told the facts; default every epoch did.
        seed: Of the bootstrap.

    Raises:
        UsageError: No run, no probes, or two folders with the same run.
        InputError: A probe is missing, twice there, or has a number that is none.
    """
    found = open_runs(runs, facts=facts, kind=kind)
    return Dynamics(
        series=tuple(series for _, series in found), by=by, k=k, last_exposure=last_exposure,
        seed=seed,
    )  # fmt: skip


def import_dynamics(
    folder: str | Path, *, by: str | None = None, k: int = 3, seed: int = 0
) -> Dynamics:
    """The dynamics in the results that the seed study released.

    Args:
        folder: A copy of its repository, its ``output`` folder, or one model's folder.
        by: ``frequency`` or ``type`` where ``data/validation_probes.json`` is there, ``entity``
            or ``prior``.
        k: Epochs that an entity must stay learned to the end to be consolidated.
        seed: Of the bootstrap.

    Raises:
        InputError: The folder has another layout.
    """
    release = read_seed_release(folder)
    series: Sequence[ProbeSeries] = release_series(release)
    circuits = tuple(release_circuits(release))
    return Dynamics(series=tuple(series), by=by, k=k, seed=seed, circuits=circuits)
