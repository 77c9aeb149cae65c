"""The seed study's three out-of-domain sets, from a folder: asked and scored as the study did.

Greedy, 25 new tokens, chat template with the set's instruction. Of the answer the first number, or
the first of the letters, is taken (the whole answer where there is none) and has to equal the
reference exactly. So "The answer is C" counts, and "Cats" counts as C.

Source: Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858, and the code released with it, whose
instructions these are.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcircuits.errors import UsageError
from kcircuits.lab.probing.chat import answer_text, question_tokens
from kcircuits.lab.probing.generation import end_tokens, generate
from kcircuits.lab.probing.open_questions import MAX_NEW_TOKENS
from kcircuits.lab.probing.seed_files import MATH, MMLU, SOCIAL_IQA, read_items
from kcircuits.lab.skills.skill import Score, Setting, Skill, items_hash

_BRIEF = "Be brief. Do not add any explanation. Only "


@dataclass(frozen=True, kw_only=True)
class SeedSet:
    """One of the sets.

    Attributes:
        name: Name of the skill.
        summary: A line for help and docs.
        file: The file in the folder.
        instruction: The system message.
        letters: The letters of the options; empty where the answer is a number.
        first: What the reference calls the first option.
    """

    name: str
    summary: str
    file: str
    instruction: str
    letters: str = ""
    first: int = 0


def extract(seed_set: SeedSet, answer: str) -> str:
    """What is compared with the reference."""
    found = re.search(f"[{seed_set.letters}]" if seed_set.letters else "[0-9]+", answer)
    if found is None:
        return answer
    if seed_set.letters:
        return str(ord(found.group()) - ord("A") + seed_set.first)
    return found.group()


def seed_skill(seed_set: SeedSet) -> Skill:
    """A set as a skill."""

    def check(setting: Setting) -> object:
        return read_items(_file(seed_set, setting.folder))

    def measure(model: Any, tokenizer: Any, setting: Setting) -> Score:
        items = read_items(_file(seed_set, setting.folder))
        instruction = seed_set.instruction
        prompts = [question_tokens(tokenizer, q, instruction=instruction) for q, _ in items]
        found = generate(
            model,
            prompts,
            max_new_tokens=MAX_NEW_TOKENS,
            ends=end_tokens(model, tokenizer),
            batch_size=setting.batch_size,
            progress=setting.progress,
        )
        right = [
            float(extract(seed_set, answer_text(tokenizer, tokens)) == reference)
            for tokens, (_, reference) in zip(found, items, strict=True)
        ]
        return Score(per_item=tuple(right), items=items_hash(items))

    return Skill(
        name=seed_set.name,
        summary=seed_set.summary,
        measure=measure,
        check=check,
        is_default=False,
    )


def _file(seed_set: SeedSet, folder: Path | None) -> Path:
    if folder is None:
        raise UsageError(
            f"skill {seed_set.name!r} needs a folder with {seed_set.file}",
            field="folder",
            hint="give --folder DIR, `data` of the seed study's repository",
        )
    return folder / seed_set.file


SEED_MATH = seed_skill(
    SeedSet(
        name="math",
        summary="the seed study's sums and differences (--folder)",
        file=MATH,
        instruction=_BRIEF + "provide the final result without the equation.",
    )
)
SEED_MMLU = seed_skill(
    SeedSet(
        name="mmlu",
        summary="MMLU as the seed study asks it (--folder)",
        file=MMLU,
        instruction=_BRIEF + "answer with 'A', 'B', 'C', or 'D'.",
        letters="ABCD",
    )
)
SEED_SOCIAL_IQA = seed_skill(
    SeedSet(
        name="social-iqa",
        summary="the seed study's part of SocialIQA (--folder)",
        file=SOCIAL_IQA,
        instruction=_BRIEF + "answer with 'A', 'B', or 'C'.",
        letters="ABC",
        first=1,
    )
)
