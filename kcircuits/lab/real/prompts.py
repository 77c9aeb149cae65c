"""Prompts about one real subject against others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from kcircuits.core.facts import Kind, Prompt, Use
from kcircuits.errors import UsageError
from kcircuits.lab.real.real_facts import relation_span
from kcircuits.lab.real.relation import N_PARAPHRASES, N_VERBATIM, ToldRelation

PARAPHRASE: Kind = "paraphrase"
MEMORISATION: Kind = "memorisation"


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What the prompts about a subject are made of.

    Attributes:
        subject: Of the clean prompts.
        target: Its answer.
        partners: Subjects of the corrupt prompts, in turn.
        foils: Their answers.
        candidates: Answers to rank among.
        verbatim: Statements whose beginnings are asked, as they are told.
    """

    subject: str
    target: str
    partners: tuple[str, ...]
    foils: tuple[str, ...]
    candidates: tuple[str, ...]
    verbatim: tuple[int, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """How many documents and prompts each fact has.

    Attributes:
        exposure: Documents per told subject and epoch.
        n_discovery: Prompts to find circuits on.
        n_evaluation: Prompts to judge with, and to tell what a model knows.
        n_paraphrases: Prompts of use ``probe`` in words of their own.
        n_verbatim: Prompts of use ``probe`` that begin a told sentence.
    """

    exposure: int
    n_discovery: int
    n_evaluation: int
    n_paraphrases: int = 0
    n_verbatim: int = 0

    def require(self, n_prompts: int) -> None:
        """UsageError where a relation with so many prompts has too few sentences."""
        n_asked = self.n_discovery + self.n_evaluation
        if self.n_discovery < 0 or self.n_evaluation < 1 or n_asked > n_prompts:
            raise UsageError(
                f"{self.n_discovery} discovery and {self.n_evaluation} evaluation prompts; a real "
                f"relation has {n_prompts} in all, and needs one for evaluation at least, to say "
                "what a model knows",
                field="prompts",
            )
        if not 0 <= self.n_paraphrases <= N_PARAPHRASES:
            raise UsageError(
                f"{self.n_paraphrases} paraphrases; real relations have {N_PARAPHRASES}",
                field=f"probes.{PARAPHRASE}",
            )
        if self.exposure < 1:
            raise UsageError(f"exposure is {self.exposure}; expected 1 or more", field="exposure")
        n_told = min(N_VERBATIM, self.exposure)
        if not 0 <= self.n_verbatim <= n_told:
            raise UsageError(
                f"{self.n_verbatim} prompts for memorisation; the documents of a fact have "
                f"{n_told} different sentences to begin",
                field=f"probes.{MEMORISATION}",
                hint=f"ask for at most {n_told}, or tell each fact more often",
            )


def prompts_of(relation: ToldRelation, asking: Asking, numbers: Numbers) -> tuple[Prompt, ...]:
    """All prompts about a subject: discovery, evaluation, paraphrases, then verbatim ones."""
    prompts = relation.asked.prompts
    first, last = prompts[: numbers.n_discovery], prompts[-numbers.n_evaluation :]
    verbatim = [relation.verbatim[place] for place in asking.verbatim]
    rows: tuple[tuple[Sequence[str], Use, Kind | None], ...] = (
        (first, "discovery", None),
        (last, "evaluation", None),
        (relation.paraphrases[: numbers.n_paraphrases], "probe", PARAPHRASE),
        (verbatim, "probe", MEMORISATION),
    )
    candidates = tuple(f" {answer}" for answer in dict.fromkeys(asking.candidates))
    turn = count()
    return tuple(
        _prompt(relation, asking, next(turn), text, use, kind, candidates)
        for texts, use, kind in rows
        for text in texts
    )


def _prompt(
    relation: ToldRelation,
    asking: Asking,
    number: int,
    template: str,
    use: Use,
    kind: Kind | None,
    candidates: tuple[str, ...],
) -> Prompt:
    turn = number % len(asking.partners)
    start = template.index("{subject}")
    return Prompt(
        clean=template.format(subject=asking.subject),
        corrupt=template.format(subject=asking.partners[turn]),
        target=f" {asking.target}",
        foil=f" {asking.foils[turn]}",
        use=use,
        candidates=candidates,
        subject_span=(start, start + len(asking.subject)),
        relation_span=relation_span(relation.asked, template, asking.subject),
        kind=kind,
    )
