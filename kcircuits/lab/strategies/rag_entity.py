"""No training: the prompt carries all documents about the fact's subject.

Source: Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858 (retrieval baselines).
"""

from collections.abc import Sequence
from dataclasses import replace

from kcircuits.core.facts import Fact
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.strategies.full import FULL
from kcircuits.lab.strategies.strategy import Find


def find_of_entity(documents: Sequence[Document]) -> Find:
    """All documents about the fact's subject, in their order."""

    def find(fact: Fact, prompt: str) -> list[Document]:
        del prompt
        return [document for document in documents if document.subject == fact.subject]

    return find


RAG_ENTITY = replace(FULL, name="rag-entity", documents=find_of_entity)
