"""A controlled benchmark: invented people told in documents, asked in prompts never told.

Each group of people has a frequency, the number of documents that tell of each of its people per
epoch. Groups are generated in pairs in all but that: person i of every group has the same
sequence of sentences and of relations, and the groups draw their answers from the same values, so
that a difference between strata is one of frequency alone. Names and answers are single tokens,
so the prompts about all people align.

Source: biographies as in Ou et al. 2025, arXiv:2502.11196, with paired instead of independent
sampling of the groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kcircuits.core.facts import Fact
from kcircuits.lab.document import Document
from kcircuits.lab.names import invent_names
from kcircuits.lab.pairs import answers, pair_facts
from kcircuits.lab.relations import RELATIONS
from kcircuits.lab.spec import DOCUMENTS, BenchmarkSpec, Entity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Facts to ask for and documents to train on."""

    facts: tuple[Fact, ...]
    documents: tuple[Document, ...]


def generate(spec: BenchmarkSpec, tokenizer: "PreTrainedTokenizerBase", seed: int) -> Benchmark:
    """The benchmark of a seed: one fact per person, documents for those that are told.

    Raises:
        UsageError: The tokenizer has too few single-token names or answers.
    """
    people = invent_people(spec, tokenizer, seed)
    facts: list[Fact] = []
    documents: list[Document] = []
    for frequency, n_documents in DOCUMENTS.items():
        group = [person for person in people if person.frequency == frequency]
        split = "trained" if n_documents else "held-out"
        strata = {"type": "invented", "frequency": frequency, "split": split}
        asked = [RELATIONS[spec.relations[i % len(spec.relations)]] for i in range(len(group))]
        facts += pair_facts(group, asked, spec, tokenizer, strata, f"{frequency}-")
        for row, person in enumerate(group):
            documents += tell(person, spec.relations, n_documents, [seed, row])
    return Benchmark(facts=tuple(facts), documents=tuple(documents))


def invent_people(
    spec: BenchmarkSpec, tokenizer: "PreTrainedTokenizerBase", seed: int
) -> list[Entity]:
    """People of all groups, each with a value for every relation."""
    rng = np.random.default_rng(seed)
    names = iter(invent_names(tokenizer, sum(spec.people.values()), rng))
    largest = max(spec.people.values(), default=0)
    pools = {
        name: np.resize(
            rng.permutation(answers(RELATIONS[name], tokenizer, spec.n_candidates)), largest
        )
        for name in spec.relations
    }
    people: list[Entity] = []
    for frequency, n_people in spec.people.items():
        columns = {name: rng.permutation(pool[:n_people]) for name, pool in pools.items()}
        for i in range(n_people):
            values = {name: str(column[i]) for name, column in columns.items()}
            people.append(Entity(subject=next(names), values=values, frequency=frequency))
    return people


def tell(
    person: Entity, relations: Sequence[str], n_documents: int, key: Sequence[int]
) -> list[Document]:
    """Texts that each state every relation of a person once, in other words and another order.

    Args:
        person: Whom to tell of.
        relations: What to tell.
        n_documents: How many texts.
        key: Seeds the choice of sentences; persons with the same key are told alike.
    """
    rng = np.random.default_rng(list(key))
    chosen = {name: rng.permutation(len(RELATIONS[name].statements)) for name in relations}
    orders = [rng.permutation(relations) for _ in range(max(DOCUMENTS.values()))]
    documents: list[Document] = []
    for i in range(n_documents):
        order = [str(name) for name in orders[i % len(orders)]]
        places = {name: int(chosen[name][i % len(chosen[name])]) for name in order}
        documents.append(
            Document(
                subject=person.subject,
                frequency=person.frequency,
                text=_text(person, places),
                tagged=_text(person, places, tagged=True),
                sentences=tuple(f"{name} {place}" for name, place in places.items()),
            )
        )
    return documents


def _text(person: Entity, places: Mapping[str, int], *, tagged: bool = False) -> str:
    """The statements of some relations, in order; with named entities between tags."""

    def named(text: str, tag: str | None) -> str:
        return f"<{tag}> {text} </>" if tagged and tag else text

    told = (
        RELATIONS[name]
        .statements[place]
        .format(
            subject=named(person.subject, "PERSON"),
            value=named(person.values[name], RELATIONS[name].tag),
        )
        for name, place in places.items()
    )
    return " ".join(told)
