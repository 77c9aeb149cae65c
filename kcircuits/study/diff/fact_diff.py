"""One fact between two epochs: its cells side by side, its overlap, its verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.overlap.turnover import FactOverlap, compare_fact
from kcircuits.analysis.overlap.verdict import Verdict, judge_facts
from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact
from kcircuits.core.parallel import ordered_map
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError
from kcircuits.study.alignment import align_cells
from kcircuits.study.strata import stratum_of
from kcircuits.study.templates import templates_of


@dataclass(frozen=True, kw_only=True)
class FactDiff:
    """One fact between two epochs.

    Attributes:
        fact: The fact.
        templates: Template of each discovery prompt: its clean text without the subject; of each
            fold of them, those of its prompts.
        known: Known at the first and at the second epoch.
        candidates: Flat edge indices.
        scores: Mean signed score over the discovery prompts at each epoch; 0 where not kept.
        is_kept: Whether the edge was large enough at each epoch for its scores to be kept.
        overlap: Overlap of its circuits.
        verdict: Its verdict within the step.
    """

    fact: Fact
    templates: tuple[str, ...]
    known: tuple[bool, bool]
    candidates: Int[np.ndarray, " candidate"]
    scores: Float[np.ndarray, "2 candidate"]
    is_kept: Bool[np.ndarray, "2 candidate"]
    overlap: FactOverlap
    verdict: Verdict

    @property
    def is_compared(self) -> bool:
        """It enters means and tests: known at both epochs, or nothing changed at all."""
        return all(self.known) or self.overlap.is_identical

    def without_items(self) -> "FactDiff":
        """The same without edges and nodes: all that statistics of many steps need to hold."""
        overlap = replace(self.overlap, edges=np.empty((3, 0)), nodes=np.empty((3, 0)))
        return replace(
            self,
            candidates=np.empty(0, dtype=np.int64),
            scores=np.empty((2, 0), dtype=np.float32),
            is_kept=np.empty((2, 0), dtype=bool),
            overlap=overlap,
        )

    def stratum(self, by: str | None) -> str:
        """The fact's stratum under a key, or its relation; ``all`` without a key."""
        return stratum_of(self.fact, by)


def pair_cells(
    cells_from: Sequence[Cell], cells_to: Sequence[Cell], epochs: tuple[str, str]
) -> dict[str, tuple[Cell, Cell]]:
    """The two cells of each fact that has both, in the order of the first epoch.

    Raises:
        IncomparableError: No fact has both.
    """
    later = {cell.fact_id: cell for cell in cells_to}
    pairs = {
        cell.fact_id: (cell, later[cell.fact_id]) for cell in cells_from if cell.fact_id in later
    }
    if not pairs:
        raise IncomparableError(
            f"no fact has a cell at both {epochs[0]!r} and {epochs[1]!r} "
            f"({len(cells_from)} and {len(cells_to)} cells)",
            field="epoch",
            hint=f"compute them first: kcircuits run --epochs {','.join(epochs)}",
        )
    return pairs


def compare_facts(
    pairs: Mapping[str, tuple[Cell, Cell]],
    facts: Mapping[str, Fact],
    epochs: tuple[str, str],
    level: Level,
) -> tuple[FactDiff, ...]:
    """Compares each fact's two cells and judges all facts as one step.

    Args:
        pairs: Comparable cells, see ``check_comparable``.
        facts: Facts by id.
        epochs: Names of the two epochs, for the reasons given.
        level: Compare edges or nodes.
    """
    topology = next(iter(pairs.values()))[0].topology  # one object: its names are cached in it
    compare = lambda fact_id: compare_cells(facts[fact_id], pairs[fact_id], topology, level)  # noqa: E731
    return judge_step(list(ordered_map(compare, pairs)), epochs)


def judge_step(drafts: Sequence[FactDiff], epochs: tuple[str, str]) -> tuple[FactDiff, ...]:
    """Facts compared between two epochs, judged as one step.

    Args:
        drafts: From ``compare_cells``.
        epochs: Names of the two epochs, for the reasons given.
    """
    verdicts = judge_facts(
        [draft.overlap for draft in drafts], [_left_out(draft, epochs) for draft in drafts]
    )
    return tuple(
        replace(draft, verdict=verdict) for draft, verdict in zip(drafts, verdicts, strict=True)
    )


def group_by_stratum(members: Sequence[FactDiff], by: str | None) -> dict[str, list[FactDiff]]:
    """The facts of each stratum under a key; strata by name."""
    strata: dict[str, list[FactDiff]] = {}
    for one in members:
        strata.setdefault(one.stratum(by), []).append(one)
    return dict(sorted(strata.items()))


def compare_cells(
    fact: Fact, pair: tuple[Cell, Cell], topology: Topology, level: Level
) -> FactDiff:
    """A fact not judged yet; drops the scores of single prompts, which are most of the memory."""
    scores = align_cells(pair, topology)
    return FactDiff(
        fact=fact,
        templates=templates_of(fact, pair[0]),
        known=(pair[0].is_known, pair[1].is_known),
        candidates=scores.candidates,
        scores=scores.values.mean(1),
        is_kept=scores.is_candidate,
        overlap=compare_fact(scores.values, pair[0].n_edges, scores.items(topology), level),
        verdict=Verdict(word="undetermined", reason="not judged yet"),
    )


def _left_out(draft: FactDiff, epochs: tuple[str, str]) -> str | None:
    unknown = [epoch for known, epoch in zip(draft.known, epochs, strict=True) if not known]
    return f"fact not known at {' and '.join(dict.fromkeys(unknown))}" if unknown else None
