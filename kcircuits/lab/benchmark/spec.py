"""What a benchmark is asked to be, and how to train on it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from kcircuits.core.facts import KINDS
from kcircuits.errors import UsageError
from kcircuits.lab.benchmark.relations import RELATIONS, SPOUSE
from kcircuits.lab.real.spec import RealSpec

FREQUENCIES = ("high", "medium", "low")
HELD_OUT = "none"
"""Frequency of those whom no document tells of."""
DOCUMENTS: Mapping[str, float] = MappingProxyType({"high": 8, "medium": 4, "low": 2})
"""Documents per person and epoch, by frequency."""
ANSWERS = ("one", "several", "both")
LENGTHS = ("short", "long", "mixed")
# Kinds that go over a link between two people.
_OVER_LINKS = ("compositional", "inference")


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """What a benchmark may differ by, and still be called matched.

    Attributes:
        ks_p: Smallest p value of a Kolmogorov-Smirnov test between two groups.
        js_quantile: Share of groups dealt anew that a Jensen-Shannon divergence has to stay within.
        leaks: Largest number of documents that say what they must not.
        unequal: Largest number of clean and corrupt prompts of unequal token count.
    """

    ks_p: float = 0.05
    js_quantile: float = 0.95
    leaks: int = 0
    unequal: int = 0

    def __post_init__(self) -> None:
        for name, most in (("ks_p", 1), ("js_quantile", 1), ("leaks", None), ("unequal", None)):
            value = getattr(self, name)
            if value < 0 or (most is not None and value > most):
                raise UsageError(
                    f"{name} is {value:g}; expected 0 {'or more' if most is None else 'to 1'}",
                    field=f"tolerances.{name}",
                )


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec:
    """What to generate.

    Attributes:
        people: Number of invented people by frequency who are told of in documents.
        held_out: Number of those who are like them, but in no document.
        relations: Names of the relations that documents tell.
        facts_per_person: How many relations each person is asked for, in turn; None for all.
        exposure: Documents per person and epoch by frequency; or ``{"mean": m}`` for counts that
            are drawn from max(1, round(Exp(m))) within the bins low 1, medium 2 to 5, high more.
        documents: ``short``, each relation once; ``long``, paragraphs that tell each relation
            twice, in other words, between sentences that tell nothing; or ``mixed``, in turn.
        has_links: People are married in pairs; documents say so of one of the two.
        answers: Tokens of an answer: ``one``, ``several`` (two) or ``both``, in turn.
        n_discovery: Prompts per fact to find circuits on.
        n_evaluation: Prompts per fact to judge circuits on, and to probe with where there are no
            paraphrases for probing.
        n_candidates: Answers per relation among which the right one is ranked.
        probes: Prompts per fact to probe with, by kind; a share below 1 asks a part of the facts.
        real: Which real facts stand beside the invented people; None for none.
        real_exposure: Documents per real fact that is told.
        tolerances: What the groups may differ by.
    """

    people: Mapping[str, int]
    held_out: int = 0
    relations: tuple[str, ...] = tuple(RELATIONS)
    facts_per_person: int | None = 1
    exposure: Mapping[str, float] = dataclasses.field(default_factory=lambda: DOCUMENTS)
    documents: str = "short"
    has_links: bool = False
    answers: str = "one"
    n_discovery: int = 8
    n_evaluation: int = 4
    n_candidates: int = 24
    probes: Mapping[str, float] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    real: RealSpec | None = None
    real_exposure: int = 4
    tolerances: Tolerances = Tolerances()

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self)
        _check_exposure(self)
        _check_probes(self)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON holds them."""
        return {each.name: _plain(getattr(self, each.name)) for each in dataclasses.fields(self)}

    @property
    def groups(self) -> Mapping[str, int]:
        """Number of people by frequency, those held out last; groups without people left out."""
        sizes = {**self.people, HELD_OUT: self.held_out}
        return {frequency: n_people for frequency, n_people in sizes.items() if n_people}

    @property
    def n_people(self) -> int:
        """People of all groups."""
        return sum(self.groups.values())

    @property
    def n_asked(self) -> int:
        """Relations that each person is asked for."""
        return self.facts_per_person or len(self.relations)

    @property
    def n_memorisation(self) -> int:
        """Prompts of kind memorisation that a fact has at most."""
        return -int(-self.probes.get("memorisation", 0) // 1)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _check_names(spec: BenchmarkSpec) -> None:
    for where, given, allowed in (
        ("people", tuple(spec.people), FREQUENCIES),
        ("relations", spec.relations, tuple(RELATIONS)),
        ("probes", tuple(spec.probes), KINDS),
        ("documents", (spec.documents,), LENGTHS),
        ("answers", (spec.answers,), ANSWERS),
    ):
        for name in given:
            if name not in allowed:
                raise UsageError(
                    f"{name!r} is not known to {where}",
                    field=where,
                    hint=f"choose from {', '.join(allowed)}",
                )
    if not spec.relations or len(set(spec.relations)) < len(spec.relations):
        raise UsageError(
            f"relations are {', '.join(spec.relations) or 'none'}; expected one or more, each once",
            field="relations",
        )


def _check_numbers(spec: BenchmarkSpec) -> None:
    for frequency, n_people in {**spec.people, "held-out": spec.held_out}.items():
        if n_people < 0:
            raise UsageError(
                f"{n_people} people of frequency {frequency}; expected 0 or more", field="people"
            )
    if spec.facts_per_person is not None and not 1 <= spec.facts_per_person <= len(spec.relations):
        raise UsageError(
            f"{spec.facts_per_person} facts per person; expected all, or 1 to the number of "
            f"relations ({len(spec.relations)})",
            field="facts_per_person",
        )
    counts = {"discovery": spec.n_discovery, "evaluation": spec.n_evaluation}
    counts["paraphrase probes"] = -int(-spec.probes.get("paraphrase", 0) // 1)
    n_written = min(len(RELATIONS[name].prompts) for name in spec.relations)
    if min(spec.n_discovery, spec.n_evaluation) < 1 or sum(counts.values()) > n_written:
        told = ", ".join(f"{n} {name}" for name, n in counts.items())
        raise UsageError(
            f"prompts: {told}; expected 1 or more for discovery and for evaluation, and "
            f"{n_written} in all, which is what a relation has",
            field="prompts",
        )
    if spec.n_candidates < 2:
        raise UsageError(
            f"{spec.n_candidates} candidates; expected 2 or more", field="prompts.candidates"
        )


def _check_exposure(spec: BenchmarkSpec) -> None:
    if "mean" in spec.exposure:
        if len(spec.exposure) > 1 or not 0 < spec.exposure["mean"] < 1000:
            raise UsageError(
                f"exposure is {dict(spec.exposure)}; expected a mean above 0 and below 1000, alone",
                field="exposure",
            )
    else:
        for frequency in spec.people:
            count = spec.exposure.get(frequency, 0)
            if count != int(count) or count < 1:
                raise UsageError(
                    f"people of frequency {frequency} are told in {count:g} documents; expected a "
                    "whole number, 1 or more",
                    field="exposure",
                )
    if spec.real_exposure < 1:
        raise UsageError(
            f"real facts are told in {spec.real_exposure} documents; expected 1 or more",
            field="real.exposure",
        )


def _check_probes(spec: BenchmarkSpec) -> None:
    for kind, n_prompts in spec.probes.items():
        if n_prompts < 0 or (n_prompts > 1 and n_prompts != int(n_prompts)):
            raise UsageError(
                f"{n_prompts:g} prompts of kind {kind}; expected a whole number, or a share of the "
                "facts below 1",
                field=f"probes.{kind}",
            )
        n_written = {
            "compositional": min(len(RELATIONS[name].compositional) for name in spec.relations),
            "inverse": min(len(RELATIONS[name].inverse) for name in spec.relations),
            "inference": len(SPOUSE.prompts),
        }.get(kind, n_prompts)
        if n_prompts > n_written:
            raise UsageError(
                f"{n_prompts:g} prompts of kind {kind}; there are {n_written}",
                field=f"probes.{kind}",
            )
        if n_prompts and kind in _OVER_LINKS and not spec.has_links:
            raise UsageError(
                f"prompts of kind {kind} ask over links, and there are none",
                field=f"probes.{kind}",
                hint="set links: true, or leave them out",
            )
    told = [n for name, n in spec.exposure.items() if name in spec.people] or [1]
    if spec.n_memorisation > min(told):
        raise UsageError(
            f"{spec.n_memorisation} prompts of kind memorisation; some people are told in "
            f"{min(told):g} documents",
            field="probes.memorisation",
            hint="ask for no more than the fewest documents of a person",
        )
