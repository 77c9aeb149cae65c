"""Real facts as clean and corrupt prompts that one tokenizer can align: a pool to be probed.

Subjects of real facts have the token counts that they have, so the corrupt subject is chosen per
prompt among those that leave the prompt's token count as it is. It has another answer, whose
first token differs; and neither subject is the other's answer, since a model that merely repeats
what it has read would then be taken for one that knows. The partner changes from prompt to prompt,
so that no circuit hangs on one partner.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from kcircuits.core.batch import Answer
from kcircuits.core.facts import Fact, Prompt, Span
from kcircuits.lab.real.world import N_DISCOVERY, WORLD, RealRelation
from kcircuits.models.prompts import encode_prompts

# Facts of each relation in the pool, by the tokens of their answers. Every candidate of several
# tokens costs each prompt of its relation a row of its own, so there are fewer of those.
POOL_SIZES: Mapping[str, int] = MappingProxyType({"one": 8, "several": 6})


def real_facts(
    tokenizer: Any, seed: int = 0, relations: Iterable[RealRelation] = tuple(WORLD.values())
) -> tuple[Fact, ...]:
    """The pool: at most ``POOL_SIZES`` facts of each relation, drawn from all usable ones.

    Strata: ``type`` (real), ``template`` (raw), ``answer_tokens`` (one, several).

    Args:
        tokenizer: Says which subjects align, and how many tokens an answer has.
        seed: Of the draw and the order of the partners; 0 or more.
        relations: What to ask.
    """
    return tuple(
        fact
        for number, relation in enumerate(relations)
        for fact in _Asked.of(tokenizer, relation, np.random.default_rng([seed, number])).facts()
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The drawn subjects of a relation, with what the tokenizer makes of them.

    Attributes:
        tokenizer: Of the model.
        relation: What is asked.
        subjects: The drawn ones, in the order of partners.
        answers: Tokens of the candidates: all answers of one token, and those of the subjects.
        lengths: Tokens of each prompt about each subject.
    """

    tokenizer: Any
    relation: RealRelation
    subjects: tuple[str, ...]
    answers: Mapping[str, Answer]
    lengths: Sequence[Mapping[str, int]]

    @classmethod
    def of(cls, tokenizer: Any, relation: RealRelation, rng: np.random.Generator) -> "_Asked":
        order: list[str] = rng.permutation(sorted(relation.objects)).tolist()
        answers = distinct_answers(tokenizer, relation.objects.values())
        drawn: dict[str, list[str]] = {kind: [] for kind in POOL_SIZES}
        for subject in order:
            if (answer := relation.objects[subject]) in answers:
                drawn[answer_tokens(answers[answer])].append(subject)
        kept = [s for kind, subjects in drawn.items() for s in subjects[: POOL_SIZES[kind]]]
        texts = [[_told(prompt, subject) for subject in kept] for prompt in relation.prompts]
        asked = {relation.objects[subject] for subject in kept}
        return cls(
            tokenizer=tokenizer,
            relation=relation,
            subjects=tuple(kept),
            answers={a: ids for a, ids in answers.items() if len(ids) == 1 or a in asked},
            lengths=[
                dict(zip(kept, map(len, tokenizer(row)["input_ids"]), strict=True))
                for row in texts
                if row
            ],
        )

    def facts(self) -> list[Fact]:
        """The facts that have a partner for every prompt and are cut alike with every answer."""
        built = (self._fact(subject) for subject in self.subjects)
        facts = [fact for fact in built if fact is not None]
        return [fact for fact in facts if not encode_prompts(self.tokenizer, [fact])[1]]

    def _fact(self, subject: str) -> Fact | None:
        prompts: list[Prompt] = []
        for number in range(len(self.relation.prompts)):
            partners = self._partners(subject, number)
            if not partners:
                return None
            prompts.append(self._prompt(subject, partners[number % len(partners)], number))
        answer = self.relation.objects[subject]
        kind = answer_tokens(self.answers[answer])
        return Fact(
            id=f"{self.relation.name}-{subject.lower().replace(' ', '-')}",
            subject=subject,
            relation=self.relation.name,
            object=answer,
            prompts=tuple(prompts),
            strata=MappingProxyType({"type": "real", "template": "raw", "answer_tokens": kind}),
        )

    def _partners(self, subject: str, number: int) -> list[str]:
        """Who may be asked for in the corrupt prompt, beginning after the subject."""
        objects = self.relation.objects
        first = self.answers[objects[subject]][0]
        place = self.subjects.index(subject)
        return [
            other
            for other in (*self.subjects[place + 1 :], *self.subjects[:place])
            if self.lengths[number][other] == self.lengths[number][subject]
            and self.answers[objects[other]][0] != first
            and {other, objects[other]}.isdisjoint((subject, objects[subject]))
        ]

    def _prompt(self, subject: str, partner: str, number: int) -> Prompt:
        template, objects = self.relation.prompts[number], self.relation.objects
        start = template.index("{subject}")
        return Prompt(
            clean=_told(template, subject),
            corrupt=_told(template, partner),
            target=f" {objects[subject]}",
            foil=f" {objects[partner]}",
            use="discovery" if number < N_DISCOVERY else "evaluation",
            candidates=tuple(f" {answer}" for answer in self.answers),
            subject_span=(start, start + len(subject)),
            relation_span=relation_span(self.relation, template, subject),
        )


def answer_tokens(answer: Answer) -> str:
    """The stratum of an answer."""
    return "one" if len(answer) == 1 else "several"


def distinct_answers(tokenizer: Any, answers: Iterable[str]) -> Mapping[str, Answer]:
    """Tokens of each answer after a space; without those that begin with all tokens of another."""
    texts = sorted(set(answers))
    ids = tokenizer([f" {text}" for text in texts], add_special_tokens=False)["input_ids"]
    tokens = {text: tuple(answer) for text, answer in zip(texts, ids, strict=True)}
    whole = set(tokens.values())
    return {
        text: answer
        for text, answer in tokens.items()
        if not any(answer[:n] in whole for n in range(1, len(answer)))
    }


def _told(template: str, subject: str) -> str:
    return template.format(subject=subject)


def relation_span(relation: RealRelation, template: str, subject: str) -> Span | None:
    """Where the relation is named in the prompt about a subject."""
    word = next((word for word in relation.words if word in template), None)
    if word is None:
        return None
    start = template.index(word)
    if start > template.index("{subject}"):
        start += len(subject) - len("{subject}")
    return start, start + len(word)
