"""What a skill is, and the scoring that most skills share: choosing the likeliest option."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kcircuits.errors import UsageError
from kcircuits.lab.probing.generation import BATCH_SIZE, Progress
from kcircuits.lab.probing.likelihood import Tokens, continuation_logprobs


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How skills are measured.

    Attributes:
        seed: Draws the items; the same seed gives the same items, whatever the batch size.
        batch_size: Rows per forward pass.
        folder: Where the seed study's files lie, for its skills.
        include_path: Where local tasks of the lm-evaluation-harness lie.
        progress: Called with a number of rows that were done.
    """

    seed: int = 0
    batch_size: int = BATCH_SIZE
    folder: Path | None = None
    include_path: Path | None = None
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result of a skill.

    Attributes:
        per_item: Of each item 1 where it was answered rightly, else 0 (a harness task may give
            what lies between).
        items: A hash of the items; two scores may be paired item by item where it is the same.
    """

    per_item: tuple[float, ...]
    items: str

    @property
    def accuracy(self) -> float:
        """Mean over the items."""
        return float(np.mean(self.per_item))


@dataclass(frozen=True, kw_only=True)
class Skill:
    """A name, and how it is measured.

    Attributes:
        name: As rows and the command line name it.
        summary: A line for help and docs.
        measure: Model, tokenizer and setting to score.
        check: Raises what is wrong with a setting before a model is asked, or loaded.
        is_default: Whether it belongs to the suite that needs no file and no extra.
    """

    name: str
    summary: str
    measure: Callable[[Any, Any, Setting], Score]
    check: Callable[[Setting], object] = lambda _: None
    is_default: bool = True


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A prompt and its options; without a prompt the options are whole texts.

    Attributes:
        prompt: Text before the options.
        options: Verbatim continuations, with their leading space.
        answer: Index of the right one.
    """

    prompt: str = ""
    options: tuple[str, ...]
    answer: int


def choice_skill(
    name: str, summary: str, make: Callable[[Any, np.random.Generator], Sequence[Choice]]
) -> Skill:
    """A skill whose items are answered by the option with the largest total log-probability.

    Args:
        name: Name of the skill.
        summary: A line for help and docs.
        make: Tokenizer and generator to items.
    """

    def measure(model: Any, tokenizer: Any, setting: Setting) -> Score:
        items = make(tokenizer, np.random.default_rng(setting.seed))
        return score_choices(model, tokenizer, items, setting, name=name)

    return Skill(name=name, summary=summary, measure=measure)


def score_choices(
    model: Any, tokenizer: Any, items: Sequence[Choice], setting: Setting, *, name: str
) -> Score:
    """Which items the model answers rightly.

    Items that the tokenizer at hand cannot ask fairly (see ``encode_choice``) are left out. A tie
    is no right answer.

    Raises:
        UsageError: No item is left.
    """
    encoded = [(item, encode_choice(tokenizer, item)) for item in items]
    kept = [(item, tokens) for item, tokens in encoded if tokens is not None]
    if not kept:
        raise UsageError(
            f"skill {name!r} has no item that this tokenizer can ask",
            field="skills",
            hint="leave this skill out; the model's vocabulary lacks its words",
        )
    logprobs = continuation_logprobs(
        model,
        [tokens for _, tokens in kept],
        batch_size=setting.batch_size,
        progress=setting.progress,
    )
    right = [
        float(all(own[item.answer] > own[i] for i in range(len(own)) if i != item.answer))
        for (item, _), own in zip(kept, logprobs, strict=True)
    ]
    return Score(
        per_item=tuple(right),
        items=items_hash([(item.prompt, item.options, item.answer) for item, _ in kept]),
    )


def encode_choice(tokenizer: Any, item: Choice) -> tuple[Tokens, list[Tokens]] | None:
    """Prompt and options as token ids; None where the tokenizer cannot ask the item fairly.

    It can where no word is unknown to it, the options do not change how the prompt is split, no
    two options are the same tokens, and, after a prompt, all have the same number of tokens: of a
    shorter one the total log-probability is larger for that alone. Whole texts follow the token
    that begins a text (or ends one, where there is none), and may differ in length.
    """
    prompt = tuple(tokenizer(item.prompt)["input_ids"]) if item.prompt else _start(tokenizer)
    options = []
    for option in item.options:
        if item.prompt:
            whole = tuple(tokenizer(item.prompt + option)["input_ids"])
        else:
            whole = prompt + tuple(tokenizer(option, add_special_tokens=False)["input_ids"])
        if whole[: len(prompt)] != prompt or tokenizer.unk_token_id in whole[len(prompt) :]:
            return None
        options.append(whole[len(prompt) :])
    is_fair = not item.prompt or len(set(map(len, options))) == 1
    if not prompt or not is_fair or not all(options) or len(set(options)) < len(options):
        return None
    return prompt, options


def items_hash(items: Sequence[object]) -> str:
    """Twelve hexadecimal digits that name these items in this order."""
    return hashlib.sha256(json.dumps(list(items)).encode()).hexdigest()[:12]


def _start(tokenizer: Any) -> Tokens:
    starts = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next(((token,) for token in starts if token is not None), ())
