"""Reads a run fact by fact into the overlap of its epochs: a few facts in memory at a time."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kcircuits.analysis.overlap.corrected import Level
from kcircuits.study.checked_facts import CheckedFacts
from kcircuits.study.fact_cells import FactCells, resolve_epochs, stream_facts
from kcircuits.study.meaning import meaning_of, rows_are
from kcircuits.study.overlap.epoch_overlap import EpochOverlap, Source
from kcircuits.study.overlap.fact_pairs import PairOptions, read_pairs
from kcircuits.study.run import Run
from kcircuits.study.strata import require_stratum


def overlap_run(
    run: Run,
    *,
    by: str | None = None,
    level: Level = "edge",
    epochs: Sequence[str] | None = None,
    facts: Sequence[str] | None = None,
    progress: Callable[[Iterable[FactCells], int], Iterable[FactCells]] | None = None,
    n_workers: int | None = None,
    seed: int = 0,
    **options: Any,
) -> EpochOverlap:
    """Overlap between all pairs of a run's epochs; see ``Run.overlap``.

    Args:
        run: The run.
        by: Stratum key (or ``relation``) to group facts by.
        level: Compare edges or nodes.
        epochs: References to epochs; default all that have results.
        facts: Ids of facts; default all.
        progress: Wraps the stream of facts, whose number it is told.
        n_workers: Threads; the results do not depend on it.
        seed: Of the resamples.
        options: Of ``PairOptions``: ``measures``, ``pruned``, ``degree``, ``n_prompt_draws``,
            ``swaps``.

    Raises:
        UsageError: There is no such epoch, fact, stratum or option.
        IncomparableError: There are no results, or cells do not compare.
    """
    require_stratum(by, run.facts)
    chosen = resolve_epochs(run, epochs)
    n_facts = len(run.fact_ids if facts is None else facts)

    def source() -> Iterable[FactCells]:
        stream = stream_facts(run, chosen, facts)
        return stream if progress is None else progress(stream, n_facts)

    return overlap_facts(
        source,
        epochs=chosen,
        by=by,
        options=PairOptions.of(level=level, **options),
        fraction=run.fraction,
        unverified=[c.id for c in run.checkpoints if c.id in chosen and not c.is_verified],
        n_workers=n_workers,
        seed=seed,
    )


def overlap_facts(
    source: Source,
    *,
    epochs: Sequence[str],
    by: str | None = None,
    options: PairOptions | None = None,
    fraction: float | None = None,
    unverified: Sequence[str] = (),
    n_workers: int | None = None,
    seed: int = 0,
) -> EpochOverlap:
    """The same from facts with their cells.

    Args:
        source: Gives the facts, one after the other, each time that it is called.
        epochs: Names of the epochs of their cells.
        by: As in ``overlap_run``.
        options: What to work out of each fact.
        fraction: The budget as it was asked for; None works it out from the count.
        unverified: Epochs whose checkpoint declares no hash.
        n_workers: As in ``overlap_run``.
        seed: As in ``overlap_run``.
    """
    asked = PairOptions() if options is None else options
    stream = CheckedFacts(source(), epochs)
    fact_pairs = tuple(read_pairs(stream, asked, n_workers=n_workers))
    require_stratum(by, [one.fact for one in fact_pairs])
    first = stream.first
    return EpochOverlap(
        epochs=tuple(epochs),
        hashes=stream.hashes(),
        unverified=tuple(unverified),
        method=first.provenance.method,
        params=first.provenance.params,
        meaning=meaning_of(first.provenance),
        rows_are=rows_are(first.provenance),
        n_edges=first.n_edges,
        fraction=first.n_edges / first.topology.n_edges if fraction is None else fraction,
        topology=first.topology,
        options=asked,
        fact_pairs=fact_pairs,
        by=by,
        seed=seed,
        source=source,
    )
