"""Open questions: answered by greedy generation, scored by ROUGE-1, learned above a threshold.

As in the seed study (Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858, and the code released with
it): chat template with the instruction as system message, greedy, 25 new tokens, ROUGE-1 recall
and f1 of the whole answer without stemming; an entity is learned when the mean recall over its
questions reaches 0.6.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from kcircuits.analysis.dynamics.series import is_learned
from kcircuits.core.facts import Fact
from kcircuits.errors import UsageError
from kcircuits.lab.probing.chat import answer_text, question_tokens
from kcircuits.lab.probing.generation import BATCH_SIZE, Progress, end_tokens, generate

INSTRUCTION = "Answer the following question using as few words as possible."
"""The seed's."""
MAX_NEW_TOKENS = 25
"""The seed's."""
KNOWN_BY_RECALL = "mean-recall-0.6"
"""Name of the rule in rows of ``probes.jsonl``."""


@dataclass(frozen=True, kw_only=True)
class OpenQuestion:
    """A question with its answer.

    Attributes:
        fact: Whose mean recall decides what is known: a fact's id, or the seed's entity.
        prompt_idx: Number of the question within ``fact``.
        kind: What the question probes, e.g. ``factual`` or ``open``.
        question: The text that is asked.
        answer: The reference.
        documents: Texts to put into the prompt.
    """

    fact: str
    prompt_idx: int
    kind: str
    question: str
    answer: str
    documents: tuple[str, ...] = ()


def questions_about(facts: Iterable[Fact], n_per_fact: int | None = None) -> list[OpenQuestion]:
    """Facts as open questions: their sentences for probing (else for evaluation) to be completed.

    The reference is the fact's object, so paraphrases alone are asked. A prompt that ends with a
    question mark is asked as it is.

    Args:
        facts: What to ask for.
        n_per_fact: Questions per fact at most, the first ones; None for all.

    Raises:
        UsageError: A negative number of questions.
    """
    if n_per_fact is not None and n_per_fact < 0:
        raise UsageError(
            f"n_per_fact is {n_per_fact}; expected 0 or more questions for each fact",
            field="n_per_fact",
            hint="give 0 to ask none, or None to ask all",
        )
    questions = []
    for fact in facts:
        asking = [i for i, each in enumerate(fact.prompts) if each.kind in (None, "paraphrase")]
        by_use = (set(fact.prompt_indices(use)) for use in ("probe", "evaluation"))
        of_use = ([i for i in asking if i in mine] for mine in by_use)
        for i in next(filter(None, of_use), asking)[:n_per_fact]:
            clean = fact.prompts[i].clean
            asked = clean if clean.rstrip().endswith("?") else f"Complete the sentence: {clean}"
            questions.append(
                OpenQuestion(
                    fact=fact.id, prompt_idx=i, kind="open", question=asked, answer=fact.object
                )
            )
    return questions


def ask_open_questions(
    model: Any,
    tokenizer: Any,
    questions: Sequence[OpenQuestion],
    *,
    instruction: str = INSTRUCTION,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Rows of ``probes.jsonl``, but for what names the checkpoint and the run.

    Args:
        model: A transformers model, with or without an adapter.
        tokenizer: Its tokenizer.
        questions: What to ask.
        instruction: How to answer; the system message.
        max_new_tokens: Most tokens of an answer.
        batch_size: Rows per forward pass; answers do not depend on it.
        progress: Called with the number of questions that were answered since the last call.

    Returns:
        One row per question, in order: ``fact, prompt_idx, kind, logprob, prob, rank,
        candidate_rank`` (None, as nothing is scored by probability), ``known`` (of the row's fact:
        its mean recall reaches 0.6), ``known_rule``, ``recall``, ``f1`` (ROUGE-1, 0 to 1) and
        ``answer`` (what was generated).

    Raises:
        UsageError: There are no questions, or a prompt leaves no room for the answer.
    """
    if not questions:
        raise UsageError("there are no questions", field="questions", hint="give at least one")
    prompts = [
        question_tokens(tokenizer, q.question, instruction=instruction, documents=q.documents)
        for q in questions
    ]
    found = generate(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        ends=end_tokens(model, tokenizer),
        batch_size=batch_size,
        progress=progress,
    )
    answers = [answer_text(tokenizer, tokens) for tokens in found]
    scores = rouge_1(answers, [question.answer for question in questions])
    rows = [_row(*each) for each in zip(questions, answers, scores, strict=True)]
    learned = learned_by_recall(rows)
    return [row | {"known": learned[row["fact"]]} for row in rows]


def _row(question: OpenQuestion, answer: str, score: tuple[float, float]) -> dict[str, Any]:
    """A row of one question, but for whether its fact is known: that takes all its questions."""
    recall, f1 = score
    return {
        "fact": question.fact,
        "prompt_idx": question.prompt_idx,
        "kind": question.kind,
        "logprob": None,
        "prob": None,
        "rank": None,
        "candidate_rank": None,
        "known_rule": KNOWN_BY_RECALL,
        "recall": recall,
        "f1": f1,
        "answer": answer,
    }


def probes_by_questions(
    tokenizer: Any, facts: Iterable[Fact], n_per_fact: int | None = None
) -> Callable[[Any], list[dict[str, Any]]]:
    """What asks a model about facts at every moment of a training: model to rows.

    Arguments as in ``questions_about``; rows as in ``ask_open_questions``.
    """
    questions = questions_about(facts, n_per_fact)
    return lambda model: ask_open_questions(model, tokenizer, questions)


def rouge_1(answers: Sequence[str], references: Sequence[str]) -> list[tuple[float, float]]:
    """ROUGE-1 recall and f1 of each answer, 0 to 1.

    Words are lower-cased runs of ASCII letters and digits, counted with repetition; recall is the
    share of the reference's words that the answer has, f1 the harmonic mean with the share of the
    answer's words that the reference has. A reference without such words has recall 0.
    """
    scorer = RougeScorer(["rouge1"], use_stemmer=False)
    pairs = zip(references, answers, strict=True)
    scores = [scorer.score(target, prediction)["rouge1"] for target, prediction in pairs]
    return [(float(score.recall), float(score.fmeasure)) for score in scores]


def learned_by_recall(
    rows: Iterable[Mapping[str, Any]], entity_of: Mapping[str, str] | None = None
) -> dict[str, bool]:
    """Which entities are learned: their mean recall over all their rows reaches 0.6.

    Args:
        rows: Rows of ``ask_open_questions``, of one epoch.
        entity_of: The entity of each fact; without it each fact is judged alone.
    """
    recalls: dict[str, list[float]] = {}
    for row in rows:
        entity = row["fact"] if entity_of is None else entity_of[row["fact"]]
        recalls.setdefault(entity, []).append(row["recall"])
    return {name: bool(is_learned(np.mean(values))) for name, values in recalls.items()}
