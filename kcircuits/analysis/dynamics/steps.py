"""Which facts a step acquired, retained and forgot.

Source: Mousavi, Alghisi, Riccardi 2026, arXiv 2601.03858 (learned sets E_s, E_t).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True, kw_only=True)
class KnowledgeStep:
    """Facts by what happened to them between two epochs, in the order given.

    Attributes:
        acquired: Known at t but not at s.
        retained: Known at both.
        forgotten: Known at s but not at t.
    """

    acquired: tuple[str, ...]
    retained: tuple[str, ...]
    forgotten: tuple[str, ...]


def knowledge_step(
    fact_ids: Sequence[str], known_s: Mapping[str, bool], known_t: Mapping[str, bool]
) -> KnowledgeStep:
    """Sorts facts by whether they are known at epoch s and at epoch t."""
    return KnowledgeStep(
        acquired=tuple(fact for fact in fact_ids if known_t[fact] and not known_s[fact]),
        retained=tuple(fact for fact in fact_ids if known_t[fact] and known_s[fact]),
        forgotten=tuple(fact for fact in fact_ids if known_s[fact] and not known_t[fact]),
    )


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """How many units (entities or facts) each step acquired, retained and forgot.

    Attributes:
        learned: Units known at each epoch.
        acquired: Known at the later epoch of a step but not at the earlier one.
        retained: Known at both.
        forgotten: Known at the earlier epoch but not at the later one.
    """

    learned: Int[np.ndarray, " epoch"]
    acquired: Int[np.ndarray, " step"]
    retained: Int[np.ndarray, " step"]
    forgotten: Int[np.ndarray, " step"]


def step_counts(is_learned: Bool[np.ndarray, "unit epoch"]) -> StepCounts:
    """Counts the steps between consecutive epochs; there is one step fewer than epochs."""
    before, after = is_learned[:, :-1], is_learned[:, 1:]
    return StepCounts(
        learned=is_learned.sum(0),
        acquired=(after & ~before).sum(0),
        retained=(after & before).sum(0),
        forgotten=(before & ~after).sum(0),
    )
