"""Turnover and knowledge of a run's facts side by side, read from its cells and its probes.

Known is what the cells say (the rule that every diff goes by). How *safely* a fact is known is
measured twice: by the mean log-probability of the answer over its probe prompts, which the cells
hold, and by the share of these prompts that are answered, from ``probes.jsonl`` where the run has
one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.dynamics.events import NEVER, fact_events
from kcircuits.analysis.dynamics.series import ProbeSeries, deciding_probes, fact_means
from kcircuits.analysis.link.trajectories import CircuitSeries, Trajectories, circuit_series
from kcircuits.analysis.overlap.corrected import Level
from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.study.alignment import align_cells, check_comparable
from kcircuits.study.dynamics.sources import run_series
from kcircuits.study.fact_cells import FactCells, stream_facts
from kcircuits.study.run import Run
from kcircuits.study.strata import stratum_of

# Entities exchange trajectories within these strata, where facts have them.
WITHIN = ("split", "frequency", "exposure")
# Two steps and what comes after: the least that shows anything forgotten.
MIN_EPOCHS = 3


@dataclass(frozen=True, kw_only=True)
class LinkSource:
    """One training run.

    Attributes:
        run: The run.
        model: Name of the base model, where known.
        strategy: Training strategy, where known.
        seed: Of the training, where known.
        epochs: Ids of the epochs at which every fact was scored.
        facts: The facts that enter.
        left_out: Facts that do not, with the reason.
        first_cell: A cell, for what all have in common.
        trajectories: Turnover and knowledge of the facts; overlaps count edges.
        acquired: Flat indices of the edges, and indices of the nodes, that replicate where each
            fact is first known; None where it never is, or is from the start.
    """

    run: Run
    model: str | None
    strategy: str | None
    seed: int | None
    epochs: tuple[str, ...]
    facts: tuple[Fact, ...]
    left_out: dict[str, str]
    first_cell: Cell
    trajectories: Trajectories
    acquired: tuple[dict[Level, Int[np.ndarray, " item"]] | None, ...]

    @property
    def topology(self) -> Topology:
        """The graph."""
        return self.first_cell.topology

    @property
    def skipped(self) -> tuple[str, ...]:
        """Epochs that are not complete yet, and stay out."""
        return tuple(epoch for epoch in self.run.epochs if epoch not in self.epochs)


def read_source(run: Run, within: Sequence[str]) -> LinkSource:
    """Reads a run.

    Args:
        run: The run.
        within: Strata within which entities exchange trajectories.

    Raises:
        IncomparableError: Fewer than three epochs are complete, or no fact has all its cells.
        UsageError: The folder holds the probes of several trainings.
        InputError: A probe is missing, or twice there.
    """
    epochs = _complete_epochs(run)
    series = _series_of(run)
    kept: list[_OneFact] = []
    left_out: dict[str, str] = {}
    first: Cell | None = None
    for found in stream_facts(run, epochs):
        cells = [cell for cell in found.cells if cell is not None]
        if len(cells) < len(epochs):
            left_out[found.fact.id] = "a cell has failed"
            continue
        first = first or cells[0]
        check_comparable([first, *cells])
        if len(cells[0].prompt_idx) < 2:
            left_out[found.fact.id] = "one discovery prompt has no halves"
            continue
        kept.append(_read_fact(found, cells, first.topology))
    if first is None or not kept:
        raise IncomparableError(
            f"run {run.name} has no fact with cells at all of {', '.join(epochs)}",
            hint="look for what failed with `kcircuits status`",
        )
    facts = tuple(one.fact for one in kept)
    margins = [np.stack([one.logprob for one in kept])]
    if series is not None:
        margins.append(_known_shares(series, run, epochs, facts))
    return LinkSource(
        run=run,
        model=series.model if series else None,
        strategy=series.strategy if series else None,
        seed=series.seed if series else None,
        epochs=epochs,
        facts=facts,
        left_out=left_out,
        first_cell=first,
        acquired=tuple(one.acquired for one in kept),
        trajectories=_trajectories(kept, margins, within),
    )


def cell_label(fact: Fact, keys: Sequence[str]) -> str:
    """Where a fact's entity exchanges its trajectories: ``split trained, exposure 6``."""
    return ", ".join(f"{key} {stratum_of(fact, key)}" for key in keys) or "all"


@dataclass(frozen=True, kw_only=True)
class _OneFact:
    fact: Fact
    circuits: CircuitSeries
    is_known: Bool[np.ndarray, " epoch"]
    logprob: Float[np.ndarray, " epoch"]
    acquired: dict[Level, Int[np.ndarray, " item"]] | None


def _trajectories(
    kept: Sequence[_OneFact], margins: Sequence[np.ndarray], within: Sequence[str]
) -> Trajectories:
    """The series of all facts; a margin that is not there for every fact and epoch is none."""
    known = np.stack([one.is_known for one in kept])
    there = [values for values in margins if np.isfinite(values).all()]
    return Trajectories(
        k_own=np.stack([one.circuits.k_own for one in kept]),
        k_st=np.stack([one.circuits.k_st for one in kept]),
        ceiling=np.stack([one.circuits.ceiling for one in kept]),
        is_known=known,
        margin=np.stack(there, axis=-1) if there else np.zeros((*known.shape, 0)),
        entities=tuple(one.fact.subject for one in kept),
        cells=tuple(cell_label(one.fact, within) for one in kept),
        relations=tuple(one.fact.relation for one in kept),
    )


def _read_fact(found: FactCells, cells: Sequence[Cell], topology: Topology) -> _OneFact:
    aligned = align_cells(cells, topology)
    acquisition = int(fact_events(found.is_known[None]).acquisition_idx[0])
    circuits = circuit_series(
        aligned.values, cells[0].n_edges, aligned.items(topology), at=max(acquisition, 0)
    )
    edges, nodes = (circuits.replicated[level] for level in ("edge", "node"))
    is_acquired = acquisition not in (NEVER, 0)
    return _OneFact(
        fact=found.fact,
        circuits=circuits,
        is_known=found.is_known,
        logprob=np.array([_logprob(cell) for cell in cells]),
        acquired={"edge": aligned.candidates[edges], "node": nodes} if is_acquired else None,
    )


def _logprob(cell: Cell) -> float:
    value = cell.values.get("logprob")
    return np.nan if value is None else float(value)


def _complete_epochs(run: Run) -> tuple[str, ...]:
    """The epochs at which every fact has been scored."""
    epochs = tuple(e for e in run.epochs if len(run.rows(e)) == len(run.fact_ids))
    if len(epochs) < MIN_EPOCHS:
        raise IncomparableError(
            f"run {run.name} has {len(epochs)} epochs with the circuits of all facts; expected "
            f"at least {MIN_EPOCHS}: a step, and the epoch after it",
            field="epoch",
            hint="finish the sweep with `kcircuits run`",
        )
    return epochs


def _series_of(run: Run) -> ProbeSeries | None:
    """The probes of the run's training; None where it has none."""
    if not (run.path / "probes.jsonl").is_file():
        return None
    found = run_series(run.path)
    if len(found) > 1:
        names = "; ".join(series.name for series in found)
        raise UsageError(
            f"{run.path} holds the probes of {len(found)} trainings ({names}); its circuits are of "
            "one",
            field="run",
            hint="give each training a run folder of its own",
        )
    return found[0]


def _known_shares(
    series: ProbeSeries, run: Run, epochs: Sequence[str], facts: Sequence[Fact]
) -> Float[np.ndarray, "fact epoch"]:
    """Share of the probes that decide whether a fact is known which are answered.

    Raises:
        IncomparableError: An epoch or a fact was not probed.
    """
    place = {fact_id: i for i, fact_id in enumerate(series.fact_ids)}
    column = {epoch: i for i, epoch in enumerate(series.epochs.tolist())}
    at = [run.checkpoint(epoch).epoch for epoch in epochs]
    missing = [e for e, number in zip(epochs, at, strict=True) if number not in column]
    missing += [fact.id for fact in facts if fact.id not in place]
    if missing:
        raise IncomparableError(
            f"probes.jsonl of run {run.name} has no row for {missing[0]}, whose circuits are there",
            hint="probe the checkpoints again with `kcircuits lab probe`",
        )
    rows = deciding_probes(series, np.ones(len(series.fact_idx), dtype=bool))
    shares = fact_means(
        series.is_known[rows].astype(float), series.fact_idx[rows], len(series.fact_ids)
    )
    return shares[[place[fact.id] for fact in facts]][:, [column[number] for number in at]]
