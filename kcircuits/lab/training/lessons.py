"""What every epoch shows: the documents that a strategy chooses, and general text to replay."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kcircuits.analysis.dynamics.series import PARAPHRASE
from kcircuits.core.facts import Fact
from kcircuits.errors import UsageError
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.strategies import Strategy
from kcircuits.lab.training.general_text import sample_texts

TokenIds = list[int]
# General texts at hand, as a multiple of what an epoch replays.
_POOL = 2


class Lessons:
    """The token rows of each epoch of a training.

    Args:
        strategy: Says what is shown.
        documents: All documents.
        model: The untrained model, which general text is sampled from.
        tokenizer: Cuts texts into tokens.
        seed: Of what is replayed.
        max_tokens: Longer documents are parts of so many tokens, and the rest.

    Raises:
        UsageError: The strategy shows tagged documents, and one has no tags.
    """

    def __init__(
        self,
        strategy: Strategy,
        documents: Sequence[Document],
        model: Any,
        tokenizer: Any,
        seed: int,
        max_tokens: int | None = None,
    ) -> None:
        self.strategy, self.documents, self.seed = strategy, documents, seed
        texts = [getattr(document, strategy.shows) for document in documents]
        if "" in texts:
            place = texts.index("")
            raise UsageError(
                f"document {place} has no {strategy.shows}, which {strategy.name} shows",
                field="documents",
                hint="give every document its text, and for annotated also its tagged text",
            )
        self._rows = [_parts(row, max_tokens) for row in tokenizer(texts)["input_ids"]]
        n_pool = _POOL * self._n_replayed(len(documents))
        self._general = sample_texts(model, tokenizer, n_pool, seed) if n_pool else []

    def rows(self, epoch: int, recall: Mapping[str, float]) -> list[TokenIds]:
        """What an epoch shows; nothing where all subjects are learned.

        Args:
            epoch: Its number.
            recall: Of each subject, after the epoch before.
        """
        places = self.strategy.choose(self.documents, recall)
        chosen = [part for i in places for part in self._rows[i]]
        n_replayed = self._n_replayed(len(places))
        drawn = np.random.default_rng([self.seed, epoch]).permutation(len(self._general))
        return chosen + [self._general[i] for i in drawn[:n_replayed]]

    @property
    def n_most(self) -> int:
        """Rows that an epoch has at most."""
        return sum(map(len, self._rows)) + self._n_replayed(len(self._rows))

    def _n_replayed(self, n_documents: int) -> int:
        share = self.strategy.replay_share
        return round(n_documents * share / (1 - share))


def _parts(row: TokenIds, max_tokens: int | None) -> list[TokenIds]:
    """A document in order; a last token that is left alone predicts nothing, and goes."""
    if max_tokens is None or len(row) <= max_tokens:
        return [row]
    parts = [row[i : i + max_tokens] for i in range(0, len(row), max_tokens)]
    return [part for part in parts if len(part) > 1]


def recall_by_subject(
    rows: Iterable[Mapping[str, Any]], facts: Iterable[Fact]
) -> Mapping[str, float]:
    """Mean recall over each subject's open questions.

    A subject without any has the share of its paraphrases that are known, or of all its probes
    where none is a paraphrase. What was true of a subject before documents tell otherwise does not
    count: a model that has learned the new answer no longer gives it.

    Args:
        rows: Of one epoch.
        facts: The facts that were asked.
    """
    facts = tuple(facts)
    subject_of = {fact.id: fact.subject for fact in facts}
    replaced = {fact.id for fact in facts if fact.strata.get("told") == "before"}
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["fact"] in replaced:
            continue
        of_subject, recall = found[subject_of[row["fact"]]], row.get("recall")
        if recall is not None:
            of_subject["open"].append(float(recall))
        elif row.get("kind", PARAPHRASE) == PARAPHRASE:
            of_subject[PARAPHRASE].append(float(row["known"]))
        else:
            of_subject["other"].append(float(row["known"]))
    deciding = {
        subject: next(values[name] for name in ("open", PARAPHRASE, "other") if name in values)
        for subject, values in found.items()
    }
    return {subject: sum(values) / len(values) for subject, values in deciding.items()}
