"""No training: the prompt carries the document that states the fact.

What a model answers that need not find the text, but only read it. Source: Mousavi, Alghisi,
Riccardi 2026, arXiv:2601.03858 (retrieval baselines).
"""

from collections.abc import Sequence
from dataclasses import replace

from kcircuits.core.facts import Fact
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.strategies.full import FULL
from kcircuits.lab.strategies.strategy import Find


def find_gold(documents: Sequence[Document]) -> Find:
    """The first document about the fact's subject that states it.

    It states the fact where it holds its object and, where its sentences are named, one of the
    fact's relation. A fact that no document states has none.
    """

    def find(fact: Fact, prompt: str) -> list[Document]:
        del prompt
        stating = (d for d in documents if d.subject == fact.subject and _states(d, fact))
        return [document for document, _ in zip(stating, range(1), strict=False)]

    return find


def _states(document: Document, fact: Fact) -> bool:
    relations = {sentence.rpartition(" ")[0] for sentence in document.sentences}
    return fact.object in document.text and (not relations or fact.relation in relations)


RAG_GOLD = replace(FULL, name="rag-gold", documents=find_gold)
