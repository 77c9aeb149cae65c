"""A controlled benchmark: invented people told in documents, asked in prompts never told.

Each group of people has a frequency, the number of documents that tell of each of its people per
epoch; people who are held out are in none. Groups are generated in pairs in all but that: person i
of every group has the same sequence of sentences and of relations, and the groups draw their
answers from the same values, so that a difference between strata is one of frequency alone. Names
and answers have equal token counts, so the prompts about all people align.

Source: biographies as in Ou et al. 2025, arXiv:2502.11196, with paired instead of independent
sampling of the groups.
"""

from dataclasses import dataclass
from typing import Any

from kcircuits.core.facts import Fact
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.pairs import Group, ask_group, check_alignment
from kcircuits.lab.benchmark.people import answers_of, invent_people
from kcircuits.lab.benchmark.probe_prompts import probe_prompts
from kcircuits.lab.benchmark.spec import HELD_OUT, BenchmarkSpec
from kcircuits.lab.benchmark.telling import tell


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Facts to ask for and documents to train on."""

    facts: tuple[Fact, ...]
    documents: tuple[Document, ...]


def generate(spec: BenchmarkSpec, tokenizer: Any, seed: int) -> Benchmark:
    """The invented part of a benchmark: facts of all people, documents for those that are told.

    Args:
        spec: What to generate; its real facts are not made here.
        tokenizer: Says which names and answers can be used.
        seed: Decides everything.

    Raises:
        UsageError: The tokenizer has too few names or answers, cuts prompts unequally, or a group
            is too small.
    """
    people, answers = invent_people(spec, tokenizer, seed), answers_of(spec, tokenizer)
    facts: list[Fact] = []
    documents: list[Document] = []
    for frequency in spec.groups:
        entities = [person for person in people if person.frequency == frequency]
        facts += ask_group(
            Group(entities=entities, spec=spec, answers=answers),
            strata={
                "type": "invented",
                "split": "held-out" if frequency == HELD_OUT else "trained",
            },
            prefix=f"{frequency}-",
            extra=probe_prompts(seed),
        )
        for row, person in enumerate(entities):
            documents += tell(person, spec, seed, row)
    check_alignment(facts, tokenizer)
    return Benchmark(facts=tuple(facts), documents=tuple(documents))
