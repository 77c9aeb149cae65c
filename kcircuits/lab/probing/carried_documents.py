"""Prompts that carry documents: what a model answers that may look things up.

A cloze prompt is the documents, each on lines of its own, an empty line, and the prompt; an open
question has them in the seed study's words (``kcircuits.lab.probing.chat``). What is too long for
the model loses its last documents, as few as possible.

Source: Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858 (retrieval baselines).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from kcircuits.core.facts import Fact, Prompt, Span
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.own.table import read_table
from kcircuits.lab.probing.chat import question_tokens
from kcircuits.lab.probing.open_questions import INSTRUCTION, MAX_NEW_TOKENS, OpenQuestion
from kcircuits.lab.strategies.strategy import Find

logger = logging.getLogger(__name__)

FIELDS = tuple(field.name for field in fields(Document))
"""What a row of documents may have: what ``lab build`` writes."""

# Fact and number of the prompt -> documents that it carries, and that it would have carried.
Carried = Mapping[tuple[str, int], "Documents"]


@dataclass(frozen=True, kw_only=True)
class Documents:
    """What a prompt carries: texts, and how many of those found had no room."""

    texts: tuple[str, ...]
    n_dropped: int


def read_documents(path: Path) -> list[Document]:
    """The documents of a file that somebody wrote, or that ``lab build`` made.

    Args:
        path: JSONL or CSV with ``subject`` and ``text``, and maybe other fields of a
            ``documents.jsonl``.

    Raises:
        InputError: No file, nothing in it, or the first row that is no document.
        FileAccessError: The file cannot be read.
    """
    rows = read_table(path)
    for row in rows:
        row.allow(FIELDS)
    return [
        Document(
            subject=row.text("subject"),
            frequency=row.text("frequency") if "frequency" in row.fields else "",
            text=row.text("text"),
            sentences=row.texts("sentences"),
        )
        for row in rows
    ]


def facts_with_documents(
    facts: Sequence[Fact], find: Find, tokenizer: Any, n_ctx: int | None
) -> tuple[list[Fact], Carried]:
    """The facts with documents in the prompts that probes ask.

    Prompts for discovery stay as they are, unless a fact has no others.

    Args:
        facts: What is asked.
        find: Of a strategy.
        tokenizer: Counts tokens.
        n_ctx: Tokens that the model reads; None where it has no bound.
    """
    carried: dict[tuple[str, int], Documents] = {}
    told = []
    for fact in facts:
        prompts = list(fact.prompts)
        asked = [i for i in range(len(prompts)) if fact.use_of(i) != "discovery"]
        for i in asked or range(len(prompts)):
            prompt = fact.prompts[i]
            texts = tuple(document.text for document in find(fact, prompt.clean))

            def n_tokens(texts: Sequence[str], prompt: Prompt = prompt) -> int:
                answers = (prompt.target, *prompt.candidates)
                longest = max(len(_ids(tokenizer, answer, alone=False)) for answer in answers)
                return len(_ids(tokenizer, _with(texts, prompt.clean))) + longest

            carried[fact.id, i] = found = _fitting(texts, n_tokens, n_ctx)
            prompts[i] = _carrying(prompt, found.texts)
        told.append(replace(fact, prompts=tuple(prompts)))
    _say(carried, n_ctx)
    return told, carried


def questions_with_documents(
    questions: Sequence[OpenQuestion],
    facts: Sequence[Fact],
    find: Find,
    tokenizer: Any,
    n_ctx: int | None,
) -> tuple[list[OpenQuestion], Carried]:
    """The questions with documents; found by the prompt that each was made of."""
    by_id = {fact.id: fact for fact in facts}
    carried: dict[tuple[str, int], Documents] = {}
    told = []
    for question in questions:
        fact = by_id[question.fact]
        prompt = fact.prompts[question.prompt_idx].clean
        texts = tuple(document.text for document in find(fact, prompt))

        def n_tokens(texts: Sequence[str], question: OpenQuestion = question) -> int:
            asked = question_tokens(
                tokenizer, question.question, instruction=INSTRUCTION, documents=texts
            )
            return len(asked) + MAX_NEW_TOKENS

        found = _fitting(texts, n_tokens, n_ctx)
        carried[question.fact, question.prompt_idx] = found
        told.append(replace(question, documents=found.texts))
    _say(carried, n_ctx)
    return told, carried


def _carrying(prompt: Prompt, texts: Sequence[str]) -> Prompt:
    offset = len(_with(texts, ""))

    def moved(span: Span | None) -> Span | None:
        return None if span is None else (span[0] + offset, span[1] + offset)

    return replace(
        prompt,
        clean=_with(texts, prompt.clean),
        corrupt=_with(texts, prompt.corrupt),
        subject_span=moved(prompt.subject_span),
        relation_span=moved(prompt.relation_span),
    )


def _with(texts: Sequence[str], prompt: str) -> str:
    return "\n".join(texts) + "\n\n" + prompt if texts else prompt


def _fitting(
    texts: tuple[str, ...], n_tokens: Callable[[Sequence[str]], int], n_ctx: int | None
) -> Documents:
    kept = texts
    while kept and n_ctx is not None and n_tokens(kept) > n_ctx:
        kept = kept[:-1]
    return Documents(texts=kept, n_dropped=len(texts) - len(kept))


def _say(carried: Carried, n_ctx: int | None) -> None:
    dropped = [each.n_dropped for each in carried.values() if each.n_dropped]
    if dropped:
        logger.warning(
            "%d of %d prompts are too long for the %s tokens that the model reads: %d documents "
            "are left out",
            len(dropped),
            len(carried),
            n_ctx,
            sum(dropped),
        )


def _ids(tokenizer: Any, text: str, *, alone: bool = True) -> list[int]:
    return list(tokenizer(text, add_special_tokens=alone)["input_ids"])
