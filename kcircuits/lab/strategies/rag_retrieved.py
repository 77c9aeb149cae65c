"""No training: the prompt carries the documents that BM25 finds for it among all.

Lucene's variant (k1 1.5, b .75, no stemming), as the library bm25s computes it; three documents.

Source: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond"; Lu
2024, arXiv:2407.03618 (bm25s); Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858 (retrieval
baselines; the study does not say with what it retrieves, nor how many documents).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import bm25s
import numpy as np

from kcircuits.core.facts import Fact
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.strategies.full import FULL
from kcircuits.lab.strategies.strategy import Find

N_RETRIEVED = 3
K1, B = 1.5, 0.75


def find_by_bm25(documents: Sequence[Document]) -> Find:
    """The documents with the largest scores for a prompt; of equal ones the earlier.

    Documents that share no word with the prompt are left out.
    """
    told = _words([document.text for document in documents])
    there = {word for words in told for word in words}
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    if there:
        index.index(told, show_progress=False)

    def find(fact: Fact, prompt: str) -> list[Document]:
        del fact
        asked = [word for word in _words([prompt])[0] if word in there]
        if not asked:
            return []
        scores = index.get_scores(asked)
        best = np.argsort(-scores, kind="stable")[:N_RETRIEVED]
        return [documents[i] for i in best if scores[i] > 0]

    return find


def _words(texts: Sequence[str]) -> list[list[str]]:
    """Lower-cased words of two letters or more, without the commonest English ones."""
    words = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    return cast("list[list[str]]", words)


RAG_RETRIEVED = replace(FULL, name="rag-retrieved", documents=find_by_bm25)
