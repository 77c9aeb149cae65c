"""Which facts a step acquired, retained and forgot.

Source: Mousavi, Alghisi, Riccardi 2026, arXiv 2601.03858 (learned sets E_s, E_t).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
