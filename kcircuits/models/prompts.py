"""Facts as token ids: what the tokenizer must do for circuits to mean what they claim.

Metrics read the logits after the last token of the clean prompt, and after each token of an
answer but its last. So three things have to hold, and are checked for every prompt: the
continuation does not change how the prompt itself is split (the tokens of clean + target begin
with the tokens of clean); clean and corrupt have the same number of tokens, so that positions
correspond; and of the answers that are compared none begins with all tokens of another.

Special tokens are those that the tokenizer adds by default. With the template ``chat`` the prompt
is one user message in the tokenizer's chat template, up to where the model's answer begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from jaxtyping import Int

from kcircuits.core.batch import Answer, PromptBatch
from kcircuits.core.facts import Fact, Prompt, Span
from kcircuits.errors import FactsError, UsageError
from kcircuits.io.input_file import shown

if TYPE_CHECKING:
    from kcircuits.models import Model


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt as token ids; ``candidates`` holds the target, or nothing.

    ``subject``, ``text`` and ``relation`` say of each token whether it is one of them.
    """

    fact_idx: int
    prompt_idx: int
    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    target: Answer
    foil: Answer
    candidates: tuple[Answer, ...]
    subject: tuple[bool, ...]
    text: tuple[bool, ...]
    relation: tuple[bool, ...]


def tokenize(model: "Model", facts: Sequence[Fact]) -> PromptBatch:
    """All prompts of all facts as the model's token ids, padded on the right with 0.

    Raises:
        UsageError: The model has no tokenizer, or there are no facts.
        FactsError: A prompt breaks a rule of this module, is longer than the model's context, or
            has a token without a row in the embedding; names fact, prompt, counts and remedy.
    """
    batch = tokenize_facts(model.tokenizer, facts)
    config: Any = model.hooked.cfg
    for row, candidates in enumerate(batch.candidates):
        place = _place(facts[batch.fact_idx[row]], int(batch.prompt_idx[row]))
        answers = (batch.targets[row], batch.foils[row], *candidates)
        prompts = int(batch.clean[row].max()), int(batch.corrupt[row].max())
        largest = max(*prompts, *(max(answer) for answer in answers))
        if largest >= config.d_vocab:
            raise FactsError(
                f"{place}: token id {largest} is beyond the {config.d_vocab} rows of the embedding",
                hint="use the tokenizer that belongs to this checkpoint",
            )
        n_tokens = int(batch.lengths[row]) + max(map(len, answers)) - 1
        if n_tokens > config.n_ctx:
            raise FactsError(
                f"{place}: {n_tokens} tokens, but the model reads {config.n_ctx}",
                hint="shorten the prompt",
            )
    return batch


def tokenize_facts(tokenizer: Any, facts: Sequence[Fact]) -> PromptBatch:
    """All prompts of all facts as token ids of a transformers tokenizer.

    Rows are in the order of facts and their prompts; ``uses`` is filled in for all of them.

    Raises:
        UsageError: There is no tokenizer, there are no facts, or one is given twice.
        FactsError: The first prompt that breaks a rule of this module.
    """
    ids = [fact.id for fact in facts]
    if twice := next((name for name in ids if ids.count(name) > 1), None):
        raise UsageError(f"fact {twice!r} is given twice", field="facts", hint="give it once")
    rows, problems = encode_prompts(tokenizer, facts, max_problems=1)
    if problems:
        raise problems[0]
    return PromptBatch(
        clean=_padded([row.clean for row in rows]),
        corrupt=_padded([row.corrupt for row in rows]),
        lengths=np.array([len(row.clean) for row in rows], dtype=np.int64),
        targets=tuple(row.target for row in rows),
        foils=tuple(row.foil for row in rows),
        fact_idx=np.array([row.fact_idx for row in rows], dtype=np.int64),
        fact_ids=tuple(fact.id for fact in facts),
        prompt_idx=np.array([row.prompt_idx for row in rows], dtype=np.int64),
        uses=tuple(facts[row.fact_idx].use_of(row.prompt_idx) for row in rows),
        candidates=tuple(row.candidates for row in rows),
        subject_mask=_padded([row.subject for row in rows]).astype(bool),
        text_mask=_padded([row.text for row in rows]).astype(bool),
        relation_mask=_padded([row.relation for row in rows]).astype(bool),
        kinds=tuple(
            facts[row.fact_idx].prompts[row.prompt_idx].kind or "paraphrase" for row in rows
        ),
    )


def encode_prompts(
    tokenizer: Any, facts: Sequence[Fact], *, max_problems: int = 20
) -> tuple[list[EncodedPrompt], list[FactsError]]:
    """The prompts that follow the rules, and the errors of those that do not.

    Raises:
        UsageError: There is no tokenizer, or there are no facts.
    """
    if tokenizer is None:
        raise UsageError(
            "there is no tokenizer, so text cannot become token ids",
            field="tokenizer",
            hint="give token ids with PromptBatch.from_tokens(clean, corrupt, target_foil), or "
            "put the tokenizer's files into the model's folder",
        )
    if not facts:
        raise UsageError("there are no facts", field="facts", hint="give at least one")
    rows: list[EncodedPrompt] = []
    problems: list[FactsError] = []
    for fact_idx, fact in enumerate(facts):
        for prompt_idx in range(len(fact.prompts)):
            try:
                rows.append(_encode(tokenizer, fact, fact_idx, prompt_idx))
            except FactsError as problem:
                problems.append(problem)
                if len(problems) == max_problems:
                    return rows, problems
    return rows, problems


def _encode(tokenizer: Any, fact: Fact, fact_idx: int, prompt_idx: int) -> EncodedPrompt:
    prompt = fact.prompts[prompt_idx]
    place = _place(fact, prompt_idx)
    is_raw = prompt.template == "raw"
    clean, corrupt = (
        text if is_raw else _chat(tokenizer, text, place) for text in (prompt.clean, prompt.corrupt)
    )
    texts = [clean, corrupt, clean + prompt.target, corrupt + prompt.foil]
    # The foil is read at the clean prompt's answer too, where it must split alike.
    texts += [clean + answer for answer in (prompt.foil, *prompt.candidates)]
    ids = tokenizer(texts, add_special_tokens=is_raw)["input_ids"]
    _check_pair(ids[0], ids[1], place)
    target = _answer(ids[0], ids[2], "target", prompt.target, place)
    foil = _answer(ids[1], ids[3], "foil", prompt.foil, place)
    if foil != _answer(ids[0], ids[4], "foil", prompt.foil, place):
        _refuse(
            place,
            "foil",
            f"foil {shown(prompt.foil)} begins with other tokens after clean than after corrupt",
            "end clean and corrupt alike",
        )
    _check_distinct([(target, prompt.target), (foil, prompt.foil)], "foil", place)
    spans = (_subject_span(fact, prompt), (0, len(prompt.clean)), prompt.relation_span)
    subject, text, relation = _tokens_of(tokenizer, prompt, clean, len(ids[0]), spans)
    return EncodedPrompt(
        fact_idx=fact_idx,
        prompt_idx=prompt_idx,
        clean=tuple(ids[0]),
        corrupt=tuple(ids[1]),
        target=target,
        foil=foil,
        candidates=_candidates(prompt, ids[0], ids[5:], target, place),
        subject=subject,
        text=text,
        relation=relation,
    )


def _tokens_of(
    tokenizer: Any, prompt: Prompt, text: str, n_tokens: int, spans: Sequence[Span | None]
) -> list[tuple[bool, ...]]:
    """For each span of the clean prompt, which tokens of the whole text overlap it.

    None do where there is no span, or the tokenizer does not tell where its tokens are.
    """
    nowhere = (False,) * n_tokens
    offset = text.find(prompt.clean)
    if offset < 0 or not getattr(tokenizer, "is_fast", False):
        return [nowhere] * len(spans)
    encoded = tokenizer(
        text, add_special_tokens=prompt.template == "raw", return_offsets_mapping=True
    )
    places = encoded["offset_mapping"]
    if len(places) != n_tokens:
        return [nowhere] * len(spans)
    return [
        nowhere
        if span is None
        else tuple(start < span[1] + offset and end > span[0] + offset for start, end in places)
        for span in spans
    ]


def _subject_span(fact: Fact, prompt: Prompt) -> Span | None:
    """Where the subject is: the prompt's ``subject_span``, else its first mention."""
    if prompt.subject_span is not None or fact.subject not in prompt.clean:
        return prompt.subject_span
    start = prompt.clean.index(fact.subject)
    return start, start + len(fact.subject)


def _check_distinct(answers: Sequence[tuple[Answer, str]], field: str, place: str) -> None:
    """Refuses an answer that begins with all tokens of another: which is meant, nobody can tell."""
    ordered = sorted(answers)
    for (shorter, a), (longer, b) in pairwise(ordered):
        if longer[: len(shorter)] == shorter:
            _refuse(
                place,
                field,
                f"{shown(a)} and {shown(b)} cannot be told apart: the tokens of one begin with "
                f"those of the other ({', '.join(map(str, shorter))})",
                "choose answers of which none is the beginning of another",
            )


def _check_pair(clean: list[int], corrupt: list[int], place: str) -> None:
    if len(clean) != len(corrupt):
        _refuse(
            place,
            "corrupt",
            f"clean has {len(clean)} tokens, corrupt {len(corrupt)}",
            "choose a corrupt subject of equal token count",
        )
    if not clean or clean == corrupt:
        problem = "and corrupt have the same tokens" if clean else "has no tokens"
        _refuse(place, "clean", f"clean {problem}", "write another text")


def _candidates(
    prompt: Prompt, clean: list[int], ids: list[list[int]], target: Answer, place: str
) -> tuple[Answer, ...]:
    """Tokens of the candidates, each once, the target's among them."""
    if not prompt.candidates:
        return ()
    answers = {target: prompt.target}
    for text, tokens in zip(prompt.candidates, ids, strict=True):
        answers.setdefault(_answer(clean, tokens, "candidates", text, place), text)
    _check_distinct(list(answers.items()), "candidates", place)
    return tuple(answers)


def _answer(prompt: list[int], whole: list[int], field: str, text: str, place: str) -> Answer:
    """Tokens of a continuation; FactsError if it is not a verbatim continuation."""
    n_tokens = len(prompt)
    if whole[:n_tokens] == prompt and len(whole) > n_tokens:
        return tuple(whole[n_tokens:])
    common = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b),
        min(n_tokens, len(whole)),
    )
    return _refuse(
        place,
        field,
        f"{field} {shown(text)} is no verbatim continuation: alone the prompt has {n_tokens} "
        f"tokens, followed by it {len(whole)}, of which {common} agree",
        "begin the continuation with its space and end the prompt without one",
    )


def _chat(tokenizer: Any, text: str, place: str) -> str:
    """The text as one user message in the tokenizer's chat template."""
    if not getattr(tokenizer, "chat_template", None):
        _refuse(
            place,
            "template",
            "template is 'chat', but the tokenizer has no chat template",
            "use template raw, or a model with a chat template",
        )
    message = [{"role": "user", "content": text}]
    try:
        return tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    except Exception as cause:  # a template is a program, written by the checkpoint's author
        return _refuse(
            place,
            "template",
            f"the chat template failed: {type(cause).__name__}: {cause}",
            "use template raw, or correct the checkpoint's chat template",
        )


def _refuse(place: str, field: str, message: str, hint: str) -> NoReturn:
    raise FactsError(f"{place}: {message}", field=field, hint=hint)


def _place(fact: Fact, prompt_idx: int) -> str:
    return f"fact {shown(fact.id)}, prompt {prompt_idx}"


def _padded(rows: Sequence[tuple[int, ...] | tuple[bool, ...]]) -> Int[np.ndarray, "prompt pos"]:
    padded = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded
