"""A question as the tokens that a model answers: the chat template, an instruction, documents."""

from collections.abc import Sequence
from typing import Any

import jinja2


def question_tokens(
    tokenizer: Any, question: str, *, instruction: str = "", documents: Sequence[str] = ()
) -> list[int]:
    """The prompt up to where the model's answer begins.

    The instruction is the system message. Where the chat template has no such message (it refuses
    it, or leaves it out) the instruction stands before the question, as the seed study has it for
    OLMo. Documents go before the question in its words, ``Context: ...``. A tokenizer without a
    chat template gives plain text, ``Question: ... Answer:``, of our own.

    Args:
        tokenizer: A transformers tokenizer.
        question: What is asked.
        instruction: How to answer.
        documents: Texts to answer from, for retrieval baselines.

    Source: Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858, and the code released with it.
    """
    asked = question
    if documents:
        asked = "Context: " + "\n".join(documents) + "\n" + question
    if tokenizer.chat_template is None:
        context = "".join(f"{text}\n\n" for text in (instruction, *documents) if text)
        return list(tokenizer(f"{context}Question: {question}\nAnswer:")["input_ids"])
    text = _rendered(tokenizer, instruction, asked) if instruction else None
    if text is None:
        text = _render(tokenizer, [("user", f"{instruction} {asked}".strip())])
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def answer_text(tokenizer: Any, tokens: Sequence[int]) -> str:
    """What the model answered.

    Without a chat template only its first line: plain text goes on with a question of its own.
    """
    text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return text if tokenizer.chat_template is not None else text.partition("\n")[0]


def _rendered(tokenizer: Any, instruction: str, asked: str) -> str | None:
    """With a system message; None where the template has none."""
    try:
        text = _render(tokenizer, [("system", instruction), ("user", asked)])
    except jinja2.TemplateError:  # what templates raise on a message that they do not know
        return None
    return text if instruction in text else None


def _render(tokenizer: Any, messages: Sequence[tuple[str, str]]) -> str:
    chat = [{"role": role, "content": content} for role, content in messages]
    return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
