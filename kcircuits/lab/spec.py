"""What a benchmark is asked to be, what it is made of, and how to train on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from kcircuits.errors import UsageError
from kcircuits.lab.relations import RELATIONS
from kcircuits.lab.strategies import STRATEGIES

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
        for frequency, n_people in self.people.items():
            if n_people < 0:
                raise UsageError(
                    f"{n_people} people of frequency {frequency}; expected 0 or more",
                    field="people",
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
class TrainSpec:
    """How to train.

    Attributes:
        strategy: A name of ``STRATEGIES``.
        n_epochs: Epochs after the untrained one.
        lr: Constant learning rate.
        batch_size: Documents per optimiser step.
        seed: Of the order of documents, and of new weights where a strategy adds some.
        precision: ``float32``, ``bfloat16`` (autocast; the weights stay float32), or ``auto``,
            the faster of the two in one timed step on this machine.
        save_dtype: Data type of saved weights; None is the strategy's own. Training starts from
            weights rounded to it, so that epoch 0 is exactly where training begins.
        skills: What is measured at every epoch beside the probes: names for ``measure_skills``.
    """

    strategy: str = "full"
    n_epochs: int = 8
    lr: float = 1e-4
    batch_size: int = 8
    seed: int = 0
    precision: str = "float32"
    save_dtype: str | None = None
    skills: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        allowed: dict[str, Sequence[str | None]] = {
            "strategy": tuple(STRATEGIES),
            "precision": ("float32", "bfloat16", "auto"),
            "save_dtype": ("float32", "bfloat16", None),
        }
        for field, values in allowed.items():
            if getattr(self, field) not in values:
                raise UsageError(
                    f"{field} {getattr(self, field)!r} does not exist",
                    field=field,
                    hint=f"choose from {', '.join(str(v) for v in values if v)}",
                )
        for field, low in (("n_epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, field) < low:
                raise UsageError(
                    f"{field} is {getattr(self, field)}; expected {low} or more", field=field
                )
        if not 0 < self.lr < 1:
            raise UsageError(f"lr is {self.lr:g}; expected a number in (0, 1)", field="lr")
