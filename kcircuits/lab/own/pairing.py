"""Corrupt prompts for facts of one's own, from the other subjects of the relation.

The corrupt subject has another answer, whose first token differs, and leaves the prompt's number
of tokens as it is. Subjects of the same split come first; the partner changes from prompt to
prompt, so that no circuit hangs on one.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from kcircuits.core.batch import Answer
from kcircuits.core.facts import Fact, Prompt
from kcircuits.errors import FactsError
from kcircuits.lab.own.questions import Question, Wording
from kcircuits.lab.real.candidates import candidate_answers
from kcircuits.lab.real.real_facts import answer_tokens, distinct_answers
from kcircuits.models.prompts import encode_prompts


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What became of the questions.

    Attributes:
        facts: Those with a corrupt prompt for one wording at least.
        left_out: An error for each wording that has none, in the order of questions.
    """

    facts: tuple[Fact, ...]
    left_out: tuple[FactsError, ...]


def pair_questions(questions: Sequence[Question], tokenizer: Any, seed: int = 0) -> Paired:
    """Facts with clean and corrupt prompts that a tokenizer aligns.

    Args:
        questions: Of any number of relations.
        tokenizer: Of the model that will be asked.
        seed: Of the candidates, where a relation has many answers of several tokens.

    Raises:
        FactsError: The first prompt that the tokenizer does not cut as it must be, partner or no.
    """
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.relation].append(question)
    peers = {
        name: _Peers.of(tokenizer, group, np.random.default_rng([seed, number]))
        for number, (name, group) in enumerate(groups.items())
    }
    facts: list[Fact] = []
    left_out: list[FactsError] = []
    for question in questions:
        fact, problems = peers[question.relation].fact(question)
        left_out += problems
        if fact is not None:
            _check(tokenizer, fact, question)
            facts.append(fact)
    return Paired(facts=tuple(facts), left_out=tuple(left_out))


@dataclass(frozen=True, kw_only=True)
class _Peers:
    """The questions of a relation, with what the tokenizer makes of them.

    Attributes:
        questions: All of them.
        tokens: Of the answers that can be told apart.
        candidates: Answers to rank among, by ``answer_tokens``.
        lengths: Tokens of each wording about each subject.
    """

    questions: Sequence[Question]
    tokens: Mapping[str, Answer]
    candidates: Mapping[str, tuple[str, ...]]
    lengths: Mapping[tuple[str, str], int]

    @classmethod
    def of(cls, tokenizer: Any, group: Sequence[Question], rng: np.random.Generator) -> "_Peers":
        tokens = distinct_answers(tokenizer, (question.object for question in group))
        subjects = dict.fromkeys(question.subject for question in group)
        wordings = dict.fromkeys(wording.text for each in group for wording in each.wordings)
        keys = [(text, subject) for text in wordings for subject in subjects]
        ids = tokenizer([about(text, subject) for text, subject in keys])["input_ids"]
        return cls(
            questions=group,
            tokens=tokens,
            candidates=candidate_answers(tokens, rng),
            lengths=dict(zip(keys, map(len, ids), strict=True)),
        )

    def fact(self, question: Question) -> tuple[Fact | None, list[FactsError]]:
        """The fact with the prompts that have a partner, and an error for each other one."""
        prompts: list[Prompt] = []
        problems: list[FactsError] = []
        for number, wording in enumerate(question.wordings):
            found = self._partners(question, wording)
            if isinstance(found, FactsError):
                problems.append(found)
            else:
                prompts.append(self._prompt(question, wording, found[number % len(found)]))
        if not prompts:
            return None, problems
        kind = answer_tokens(self.tokens[question.object])
        fact = Fact(
            id=question.id,
            subject=question.subject,
            relation=question.relation,
            object=question.object,
            prompts=tuple(prompts),
            strata=MappingProxyType({**question.strata, "answer_tokens": kind}),
        )
        return fact, problems

    def _partners(self, question: Question, wording: Wording) -> list[Question] | FactsError:
        """Who may be asked for in the corrupt prompt, beginning after the question."""
        if question.object not in self.tokens:
            return _problem(
                wording,
                f"the tokens of {question.object!r} begin with all those of another answer",
                "object",
                "choose answers of which none begins with another",
            )
        place = self.questions.index(question)
        others = [
            other
            for other in (*self.questions[place + 1 :], *self.questions[:place])
            if other.subject != question.subject and other.object in self.tokens
        ]
        n_tokens = self.lengths[wording.text, question.subject]
        even = [o for o in others if self.lengths[wording.text, o.subject] == n_tokens]
        first = self.tokens[question.object][0]
        found = [
            other
            for other in even
            if self.tokens[other.object][0] != first
            and {other.subject, other.object}.isdisjoint((question.subject, question.object))
        ]
        if not found:
            return _problem(
                wording,
                f"{question.subject!r} has no partner: of {len(others)} other facts of "
                f"{question.relation!r}, {len(even)} leave the prompt at {n_tokens} tokens"
                + (", but their answers begin with the same token" if even else ""),
                wording.field,
                "add a subject of as many tokens, or leave the prompt out (--skip-unpaired)",
            )
        split = question.strata.get("split")
        same = [other for other in found if other.strata.get("split") == split]
        return same or found

    def _prompt(self, question: Question, wording: Wording, partner: Question) -> Prompt:
        kind = answer_tokens(self.tokens[question.object])
        among = dict.fromkeys((*self.candidates[kind], question.object))
        start = wording.text.index("{subject}")
        return Prompt(
            clean=about(wording.text, question.subject),
            corrupt=about(wording.text, partner.subject),
            target=f" {question.object}",
            foil=f" {partner.object}",
            candidates=tuple(f" {answer}" for answer in among),
            subject_span=(start, start + len(question.subject)),
            **wording.options,
        )


def about(text: str, subject: str) -> str:
    """A wording about a subject."""
    return text.replace("{subject}", subject)


def _problem(wording: Wording, message: str, field: str, hint: str) -> FactsError:
    row = wording.row
    return FactsError(message, file=row.file, line=row.line, field=field, hint=hint)


def _check(tokenizer: Any, fact: Fact, question: Question) -> None:
    """FactsError with file and line where the tokenizer breaks a rule of ``encode_prompts``."""
    _, problems = encode_prompts(tokenizer, [fact], max_problems=1)
    if problems:
        raise _problem(
            question.wordings[0],
            problems[0].message,
            problems[0].field or "prompt",
            problems[0].hint or "correct the prompt",
        )
