"""Reads a run fact by fact into a track: a few facts in memory at a time, and their summaries."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.temporal.tracking import FactScores, track_fact
from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.core.parallel import ordered_map
from kcircuits.errors import IncomparableError, UsageError
from kcircuits.study.alignment import align_cells
from kcircuits.study.checked_facts import CheckedFacts
from kcircuits.study.fact_cells import FactCells, resolve_epochs, stream_facts
from kcircuits.study.meaning import meaning_of, rows_are
from kcircuits.study.run import Run
from kcircuits.study.strata import require_stratum
from kcircuits.study.track.groups import KNOWLEDGE, FactTrack
from kcircuits.study.track.track import Track

MIN_PROMPTS = 2


def track_run(
    run: Run,
    *,
    by: str | None = None,
    level: Level = "edge",
    epochs: Sequence[str] | None = None,
    facts: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[Iterable[FactCells]], Iterable[FactCells]] = iter,
) -> Track:
    """Follows the circuits of a run's facts; see ``Run.track``.

    Args:
        run: The run.
        by: Stratum key, ``relation``, or ``knowledge``.
        level: Count edges or nodes.
        epochs: References to the epochs; default all that have results.
        facts: Which facts; default all.
        seed: Of bootstrap and swapped labels.
        progress: Wraps the facts while they are read, e.g. a progress bar.

    Raises:
        IncomparableError: There is no result, cells do not compare, or no fact can be tracked.
        UsageError: There is no such epoch, fact or stratum.
    """
    if level not in ("edge", "node"):
        raise UsageError(f"level is {level!r}; expected edge or node", field="level")
    if by != KNOWLEDGE:
        require_stratum(by, run.facts)
    places = resolve_epochs(run, epochs)
    checked = CheckedFacts(progress(stream_facts(run, places, facts)), places)
    tracked, left_out = _read(checked, run.fact_ids if facts is None else facts, level, seed)
    first = checked.first
    if not tracked:
        raise IncomparableError(
            f"no fact of run {run.name} can be tracked; e.g. {_example(left_out)}",
            hint="circuits over epochs need at least 2 discovery prompts per fact",
        )
    return Track(
        run=run.name,
        epochs=places,
        level=level,
        by=by,
        method=first.provenance.method,
        params=first.provenance.params,
        meaning=meaning_of(first.provenance),
        rows_are=rows_are(first.provenance),
        fraction=run.fraction,
        n_edges=first.n_edges,
        n_prompts=min(one.n_prompts for one in tracked),
        topology=first.topology,
        facts=tracked,
        left_out=left_out,
        seed=seed,
    )


def _read(
    checked: CheckedFacts, wanted: Sequence[str], level: Level, seed: int
) -> tuple[tuple[FactTrack, ...], dict[str, str]]:
    """What is kept of each fact, and why others are left out."""
    left_out = dict.fromkeys(wanted, "has no cell")
    tracked: list[FactTrack] = []
    for fact_id, one in ordered_map(
        lambda cells: (cells.fact.id, _tracked(cells, checked.first, level, seed)), checked
    ):
        if one is None:
            left_out[fact_id] = "has a single discovery prompt, which has no halves"
            continue
        left_out.pop(fact_id, None)
        tracked.append(one)
    return tuple(tracked), left_out


def _tracked(one: FactCells, first: Cell, level: Level, seed: int) -> FactTrack | None:
    """What is kept of a fact; None where it has too few prompts."""
    cells = [cell for cell in one.cells if cell is not None]
    if len(cells[0].prompt_scores) < MIN_PROMPTS:
        return None
    aligned = align_cells(cells, first.topology)
    scores = FactScores(
        values=aligned.values,
        candidates=aligned.candidates,
        items=aligned.items(first.topology),
        has_cell=np.array([cell is not None for cell in one.cells]),
        is_known=one.is_known,
    )
    circuits = track_fact(scores, first.topology, first.n_edges, level, _generator(one.fact, seed))
    return FactTrack(
        fact=one.fact,
        circuits=circuits,
        level=level,
        n_prompts=aligned.values.shape[1],
        values=tuple({} if cell is None else cell.values for cell in one.cells),
    )


def _generator(fact: Fact, seed: int) -> np.random.Generator:
    """One generator per fact, so that a fact's numbers do not depend on the others."""
    return np.random.default_rng([seed, zlib.crc32(fact.id.encode())])


def _example(left_out: Mapping[str, str]) -> str:
    return next((f"fact {fact_id!r} {why}" for fact_id, why in left_out.items()), "there is none")
