"""Real facts for a benchmark: told, told otherwise, or controls, by what the model knows before.

The model is asked first (``pool``), facts are drawn by what it knows (``draw``), some get a new
answer (``updates``), and each becomes prompts and documents. An updated subject has two facts: the
one that documents tell (stratum ``told`` is ``new``), and the one that was true before
(``before``), so that the conflict of the two can be followed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from kcircuits.core.facts import Fact
from kcircuits.errors import UsageError
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.exposure import frequency_of
from kcircuits.lab.benchmark.generate import Benchmark
from kcircuits.lab.real.draw import draw
from kcircuits.lab.real.pool import Entry, can_pair, usable_entries, with_priors
from kcircuits.lab.real.prompts import MEMORISATION, PARAPHRASE, Asking, Numbers, prompts_of
from kcircuits.lab.real.real_facts import answer_tokens
from kcircuits.lab.real.relation import N_STATEMENTS, N_VERBATIM
from kcircuits.lab.real.spec import RealSpec
from kcircuits.lab.real.tables import find_relation
from kcircuits.lab.real.updates import new_answers
from kcircuits.models.prompts import tokenize_facts

# So many others a fact is asked against, where its split and the pool have them.
_N_PARTNERS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Cast:
    """An entry of the pool in the part that it plays.

    Attributes:
        entry: Subject and true answer.
        split: ``trained``, ``updated`` or ``control``; empty for one in no split.
        given: The entry whose answer the documents give to the subject; itself but for updates.
        order: Statements in the order in which documents tell them.
    """

    entry: Entry
    split: str
    given: Entry
    order: tuple[int, ...] = ()


def real_benchmark(
    spec: RealSpec,
    model: Any,
    tokenizer: Any,
    *,
    exposure: int,
    n_discovery: int,
    n_evaluation: int,
    n_probes: Mapping[str, int],
    seed: int,
) -> Benchmark:
    """Real facts and the documents that tell them.

    Strata: ``type`` (real), ``split``, ``prior``, ``frequency``, ``exposure`` (documents of the
    subject), ``answer_tokens``, and of updated facts ``told``.

    Args:
        spec: Relations, and numbers by split and prior.
        model: A transformers model for causal language modelling; it is left as it was.
        tokenizer: Of the model.
        exposure: Documents per told subject and epoch.
        n_discovery: Prompts per fact to find circuits on.
        n_evaluation: Prompts per fact to judge with; they decide the prior.
        n_probes: Prompts of use ``probe`` by kind: ``paraphrase``, and ``memorisation`` (the
            beginning of a told sentence). Other kinds are about people, and are left out.
        seed: Of all draws; 0 or more.

    Raises:
        UsageError: Too few facts of a prior, no such relation, or numbers that cannot be meant.
    """
    numbers = Numbers(
        exposure=exposure,
        n_discovery=n_discovery,
        n_evaluation=n_evaluation,
        n_paraphrases=n_probes.get(PARAPHRASE, 0),
        n_verbatim=n_probes.get(MEMORISATION, 0),
    )
    usable: list[Entry] = []
    for number, name in enumerate(spec.relations):
        relation = find_relation(name)
        numbers.require(len(relation.asked.prompts))
        usable += usable_entries(relation, tokenizer, np.random.default_rng([seed, number]))
    cast = _cast(with_priors(usable, model, tokenizer, numbers), spec, numbers, seed)
    facts = [fact for one in cast if one.split for fact in _facts(one, cast, numbers)]
    if facts:
        tokenize_facts(tokenizer, facts)
    told = [one for one in cast if one.split in ("trained", "updated")]
    documents = [document for one in told for document in _documents(one, exposure)]
    return Benchmark(facts=tuple(facts), documents=tuple(documents))


def _cast(pool: Sequence[Entry], spec: RealSpec, numbers: Numbers, seed: int) -> list[Cast]:
    """All entries in their parts: those of the splits in paired order, then the others."""
    drawn = draw(pool, spec)
    taken = {entry for group in drawn.values() for entry in group}
    spare = [entry for entry in pool if entry not in taken]
    given = dict(drawn)
    given["updated"] = new_answers(
        drawn["updated"], spare, drawn["control"], np.random.default_rng([seed, len(pool)])
    )
    cast = [
        Cast(entry=entry, split=split, given=giver, order=_order(numbers.n_verbatim, seed, place))
        for split, group in drawn.items()
        for place, (entry, giver) in enumerate(zip(group, given[split], strict=True))
    ]
    return cast + [Cast(entry=entry, split="", given=entry) for entry in spare]


def _order(n_verbatim: int, seed: int, place: int) -> tuple[int, ...]:
    """Statements in the order of telling, the same at a place of every split.

    Those whose beginnings are asked come first, so that any number of documents tells them.
    """
    rng = np.random.default_rng([seed, place])
    first = rng.permutation(N_VERBATIM)[:n_verbatim].tolist()
    return (*first, *rng.permutation([i for i in range(N_STATEMENTS) if i not in first]).tolist())


def _facts(one: Cast, cast: Sequence[Cast], numbers: Numbers) -> Iterator[Fact]:
    """The fact of a subject; of an updated one, what documents tell and what was true before."""
    entry, partners = one.entry, _partners(one, cast)
    exposure = 0 if one.split == "control" else numbers.exposure
    strata = {"type": "real", "split": one.split, "prior": entry.prior}
    strata |= {"frequency": frequency_of(exposure), "exposure": str(exposure)}
    slug = f"real-{one.split}-{entry.relation.name}-{entry.subject.lower().replace(' ', '-')}"
    is_updated = one.split == "updated"
    for told, answer in (("new", one.given), ("before", entry)) if is_updated else (("", entry),):
        asking = Asking(
            subject=entry.subject,
            target=answer.answer,
            partners=tuple(other.entry.subject for other in partners),
            foils=tuple((o.given if told == "new" else o.entry).answer for o in partners),
            candidates=(*entry.among, entry.answer, one.given.answer),
            verbatim=one.order[: numbers.n_verbatim],
        )
        kind = {"answer_tokens": answer_tokens(answer.tokens)}
        yield Fact(
            id=f"{slug}-{told}" if told else slug,
            subject=entry.subject,
            relation=entry.relation.name,
            object=answer.answer,
            prompts=prompts_of(entry.relation, asking, numbers),
            strata=MappingProxyType(strata | kind | ({"told": told} if told else {})),
        )


def _partners(one: Cast, cast: Sequence[Cast]) -> list[Cast]:
    """Who is asked for in the corrupt prompts: others of the split, else of none, else of any.

    No answer of a partner, true or told, begins like one of the subject's.
    """
    place = cast.index(one)
    others = [
        other
        for other in (*cast[place + 1 :], *cast[:place])
        if other.entry.relation.name == one.entry.relation.name
        and can_pair(one.entry, other.entry)
        and {one.entry.tokens[0], one.given.tokens[0]}.isdisjoint(
            (other.entry.tokens[0], other.given.tokens[0])
        )
    ]
    others.sort(key=lambda other: (other.split != one.split, bool(other.split)))
    if not others:
        raise UsageError(
            f"{one.entry.subject!r} has no partner of equal token counts with other answers",
            field="real",
            hint="ask for fewer facts, or for more relations",
        )
    n_same = sum(other.split == one.split for other in others)
    return others[: max(n_same, _N_PARTNERS)]


def _documents(one: Cast, exposure: int) -> Iterator[Document]:
    """So many texts, each of which states the fact once; in other words as long as there are."""
    relation, subject, value = one.entry.relation, one.entry.subject, one.given.answer
    for i in range(exposure):
        statement = one.order[i % len(one.order)]
        yield Document(
            subject=subject,
            frequency=frequency_of(exposure),
            text=relation.stated(statement, subject, value),
            tagged=relation.stated(statement, subject, value, tagged=True),
            sentences=(f"{relation.name} {statement}",),
        )
