"""The subjects of a relation that a tokenizer can ask and a model knows, or not.

A subject is usable where its answer follows each of its sentences without changing how they are
cut, and where another subject of equal token counts in all sentences has another answer: only
such two can be each other's clean and corrupt prompts.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from kcircuits.core.batch import Answer
from kcircuits.core.facts import Fact
from kcircuits.errors import UsageError
from kcircuits.lab.probing.probes import probe_model
from kcircuits.lab.real.candidates import candidate_answers
from kcircuits.lab.real.prompts import Asking, Numbers, prompts_of
from kcircuits.lab.real.real_facts import answer_tokens, distinct_answers
from kcircuits.lab.real.relation import ToldRelation
from kcircuits.models.prompts import tokenize_facts

# Subjects of one relation that a model is asked about, by the tokens of their answers; a longer
# table is drawn from. Each candidate of several tokens costs every prompt a row of its own.
MAX_SUBJECTS: Mapping[str, int] = MappingProxyType({"one": 160, "several": 72})


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A subject of a relation.

    Attributes:
        relation: What is asked.
        subject: About whom.
        answer: The right one.
        tokens: Those of the answer.
        shape: Tokens of each prompt about the subject; equal shapes align.
        among: Answers of the relation to rank the own among.
        prior: What the model knows of it, a name of ``PRIORS``; empty before it is asked.
    """

    relation: ToldRelation
    subject: str
    answer: str
    tokens: Answer
    shape: tuple[int, ...]
    among: tuple[str, ...]
    prior: str = ""


def usable_entries(relation: ToldRelation, tokenizer: Any, rng: np.random.Generator) -> list[Entry]:
    """The usable subjects of a relation in random order, those with answers of one token first."""
    tokens = distinct_answers(tokenizer, relation.objects.values())
    among = candidate_answers(tokens, rng)
    drawn: dict[str, list[str]] = {kind: [] for kind in MAX_SUBJECTS}
    for subject in rng.permutation(sorted(relation.objects)).tolist():
        if (answer := relation.objects[subject]) in tokens:
            drawn[answer_tokens(tokens[answer])].append(subject)
    order = [s for kind, subjects in drawn.items() for s in subjects[: MAX_SUBJECTS[kind]]]
    entries = [
        Entry(
            relation=relation,
            subject=subject,
            answer=relation.objects[subject],
            tokens=tokens[relation.objects[subject]],
            shape=shape,
            among=among[answer_tokens(tokens[relation.objects[subject]])],
        )
        for subject, shape in _shapes(relation, order, tokenizer).items()
    ]
    by_shape: dict[tuple[int, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_shape[entry.shape].append(entry)
    return [e for e in entries if any(can_pair(e, other) for other in by_shape[e.shape])]


def can_pair(entry: Entry, other: Entry) -> bool:
    """Whether the one can be asked for in the corrupt prompts of the other.

    Their answers begin with other tokens, and neither subject is the other's answer: a model that
    repeats what it has read would be taken for one that knows.
    """
    return (
        entry.shape == other.shape
        and entry.tokens[0] != other.tokens[0]
        and {entry.subject, entry.answer}.isdisjoint((other.subject, other.answer))
    )


def with_priors(
    entries: Sequence[Entry], model: Any, tokenizer: Any, numbers: Numbers
) -> list[Entry]:
    """The entries with what a model knows of them, by their evaluation prompts.

    A prompt is known by the rule of all probes: its answer ranks first among the candidates.
    """
    if not entries:
        return []
    n_evaluation = numbers.n_evaluation
    questions = replace(numbers, n_discovery=0, n_paraphrases=0, n_verbatim=0)
    facts = [_question(i, entries, questions) for i in range(len(entries))]
    n_known = dict.fromkeys((fact.id for fact in facts), 0)
    for row in probe_model(model, tokenize_facts(tokenizer, facts)):
        n_known[row["fact"]] += row["known"]
    return [
        replace(entry, prior=prior_of(n_known[fact.id], n_evaluation))
        for entry, fact in zip(entries, facts, strict=True)
    ]


def prior_of(n_known: int, n_prompts: int) -> str:
    """``known``: more than half of the prompts; ``unknown``: none; ``partly``: between."""
    if not 0 <= n_known <= n_prompts or not n_prompts:
        raise UsageError(
            f"{n_known} of {n_prompts} prompts are known; expected at least one prompt",
            field="n_evaluation",
        )
    if 2 * n_known > n_prompts:
        return "known"
    return "partly" if n_known else "unknown"


def count_priors(entries: Iterable[Entry]) -> Mapping[str, Mapping[str, int]]:
    """Numbers of entries by relation, then by prior."""
    counts: dict[str, dict[str, int]] = {}
    for entry in entries:
        of_relation = counts.setdefault(entry.relation.name, {})
        of_relation[entry.prior] = of_relation.get(entry.prior, 0) + 1
    return counts


def _question(place: int, entries: Sequence[Entry], numbers: Numbers) -> Fact:
    """A fact with the evaluation prompts alone."""
    entry = entries[place]
    same = (o for o in entries if o.relation.name == entry.relation.name and can_pair(entry, o))
    asking = Asking(
        subject=entry.subject,
        target=entry.answer,
        partners=((other := next(same)).subject,),
        foils=(other.answer,),
        candidates=(*entry.among, entry.answer),
    )
    return Fact(
        id=f"{entry.relation.name}-{place}",
        subject=entry.subject,
        relation=entry.relation.name,
        object=entry.answer,
        prompts=prompts_of(entry.relation, asking, numbers),
    )


def _shapes(
    relation: ToldRelation, subjects: Sequence[str], tokenizer: Any
) -> Mapping[str, tuple[int, ...]]:
    """Token counts of all prompts about each subject whose answer follows all of them cleanly."""
    templates = (*relation.asked.prompts, *relation.paraphrases, *relation.verbatim)
    prompts = [text.format(subject=subject) for subject in subjects for text in templates]
    answers = [f" {relation.objects[subject]}" for subject in subjects for _ in templates]
    if not prompts:
        return {}
    ids = tokenizer(prompts)["input_ids"]
    told = tokenizer([a + b for a, b in zip(prompts, answers, strict=True)])["input_ids"]
    found: dict[str, tuple[int, ...]] = {}
    for row, subject in enumerate(subjects):
        mine = slice(row * len(templates), (row + 1) * len(templates))
        pairs = list(zip(ids[mine], told[mine], strict=True))
        if all(len(whole) > len(part) and whole[: len(part)] == part for part, whole in pairs):
            found[subject] = tuple(len(part) for part, _ in pairs)
    return found
