"""Facts of a track, and the groups that its tables have a row for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from kcircuits.analysis.dynamics.draws import ratio_interval
from kcircuits.analysis.overlap.corrected import Level
from kcircuits.analysis.temporal.tracking import CircuitTrack
from kcircuits.core.facts import Fact
from kcircuits.study.strata import strata_of

KNOWLEDGE = "knowledge"
# With fewer entities a percentile interval is far too short: 5 hold 85% (see ``core.bootstrap``).
MIN_ENTITIES = 5
ACQUIRED, KNOWN_BEFORE, NEVER_KNOWN = "acquired", "known before", "never known"


@dataclass(frozen=True, kw_only=True)
class FactTrack:
    """A fact and its circuits over epochs.

    Attributes:
        fact: The fact.
        circuits: What is kept of its circuits.
        level: Whether its spells, overlaps and swapped labels count edges or nodes.
        n_prompts: Discovery prompts, or folds of them.
        values: Scalars of its cell at each epoch (``Cell.values``); empty without a cell.
    """

    fact: Fact
    circuits: CircuitTrack
    level: Level
    n_prompts: int
    values: tuple[Mapping[str, float | None], ...]

    @property
    def acquisition(self) -> int | None:
        """Place of the first epoch at which it is known; None if it never is."""
        known = self.circuits.is_known
        return int(known.argmax()) if known.any() else None

    @property
    def knowledge(self) -> str:
        """Acquired during the run, known at its first epoch, or never known."""
        if self.acquisition is None:
            return NEVER_KNOWN
        first = int(self.circuits.has_cell.argmax())
        return KNOWN_BEFORE if self.acquisition == first else ACQUIRED


def groups_of(facts: Sequence[FactTrack], by: str | None) -> dict[str, list[FactTrack]]:
    """The facts of each stratum; by ``knowledge`` unless the facts have such a stratum."""
    if by == KNOWLEDGE and not any(by in one.fact.strata for one in facts):
        groups = {name: [] for name in (ACQUIRED, KNOWN_BEFORE, NEVER_KNOWN)}
        for one in facts:
            groups[one.knowledge].append(one)
        return {name: members for name, members in groups.items() if members}
    places = strata_of([one.fact for one in facts], by)
    return {name: [facts[i] for i in members] for name, members in places.items()}


def stacked(members: Sequence[FactTrack], part: Callable[[CircuitTrack], np.ndarray]) -> np.ndarray:
    """A part of the circuits of each fact, one after the other."""
    return np.stack([part(one.circuits) for one in members])


def subjects(members: Sequence[FactTrack]) -> Shaped[np.ndarray, " fact"]:
    """The entity of each fact."""
    return np.array([one.fact.subject for one in members])


def mean_interval(
    values: np.ndarray, is_counted: np.ndarray, entities: np.ndarray, seed: int
) -> tuple[float, float, float]:
    """Mean over the facts that count and have a value, with its 95% interval over entities.

    NaN without a fact; without an interval for fewer than 5 entities.
    """
    chosen = is_counted & np.isfinite(values)
    if not chosen.any():
        return np.nan, np.nan, np.nan
    kept = values[chosen].astype(float)
    if len(np.unique(entities[chosen])) < MIN_ENTITIES:
        return float(kept.mean()), np.nan, np.nan
    mean, low, high = ratio_interval(kept, np.ones(len(kept)), entities[chosen], seed=seed)
    return float(mean), float(low), float(high)
