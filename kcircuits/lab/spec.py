"""What a benchmark is asked to be, and what it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kcircuits.errors import UsageError
from kcircuits.lab.relations import RELATIONS

DOCUMENTS: Mapping[str, int] = MappingProxyType({"high": 8, "medium": 4, "low": 2, "none": 0})
"""Documents per person and epoch, by frequency."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec:
    """What to generate.

    Attributes:
        people: Number of invented people by frequency (the keys of ``DOCUMENTS``); those of
            frequency ``none`` are in no document: held out.
        relations: Names of the relations that documents tell; each person is asked for one of
            them, in turn.
        n_discovery: Prompts per fact to find circuits on.
        n_evaluation: Prompts per fact to judge and probe with.
        n_candidates: Answers per relation among which the right one is ranked.
    """

    people: Mapping[str, int]
    relations: tuple[str, ...] = tuple(RELATIONS)
    n_discovery: int = 8
    n_evaluation: int = 4
    n_candidates: int = 24

    def __post_init__(self) -> None:
        unknown = [name for name in self.people if name not in DOCUMENTS]
        unknown += [name for name in self.relations if name not in RELATIONS]
        if unknown:
            raise UsageError(
                f"{unknown[0]!r} is neither a frequency nor a relation",
                field="people" if unknown[0] in self.people else "relations",
                hint=f"frequencies: {', '.join(DOCUMENTS)}; relations: {', '.join(RELATIONS)}",
            )
        n_prompts = len(RELATIONS["birthplace"].prompts)
        if not 1 <= self.n_discovery + self.n_evaluation <= n_prompts:
            raise UsageError(
                f"{self.n_discovery} discovery and {self.n_evaluation} evaluation prompts; a "
                f"relation has {n_prompts} prompts in all",
                field="n_discovery",
            )


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Someone or something with a value for each of its relations."""

    subject: str
    values: Mapping[str, str]
    frequency: str = "none"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A training text about one subject."""

    subject: str
    frequency: str
    text: str
