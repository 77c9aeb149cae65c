"""LoRA on each subject's main document alone: the first one about it.

Source: Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.strategies.lora import LORA


def choose_first(documents: Sequence[Document], recall: Mapping[str, float]) -> list[int]:
    """The first document about each subject."""
    del recall
    first: dict[str, int] = {}
    for place, document in enumerate(documents):
        first.setdefault(document.subject, place)
    return list(first.values())


MAIN_DOCS = replace(LORA, name="main-docs", choose=choose_first)
