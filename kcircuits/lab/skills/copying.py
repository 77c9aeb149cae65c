"""Copying: a row of words is told and begun again; its last word is asked for.

The words are the tokenizer's own, so that each is one token and any model can be asked.
"""

from typing import Any

import numpy as np

from kcircuits.lab.skills.skill import Choice, choice_skill

N_ITEMS, N_WORDS = 40, 6
N_POOL = 400
"""Words to draw from: the first in the vocabulary, which are the commonest in most tokenizers."""


def copying_items(tokenizer: Any, rng: np.random.Generator) -> list[Choice]:
    """Rows of six words, told twice but for the last word; the options are the six."""
    pool = single_token_words(tokenizer)
    if len(pool) < N_WORDS:
        return []
    items = []
    for _ in range(N_ITEMS):
        words = [pool[i] for i in rng.choice(len(pool), N_WORDS, replace=False)]
        told = " ".join([*words, *words[:-1]])
        options = tuple(f" {words[i]}" for i in rng.permutation(N_WORDS))
        items.append(Choice(prompt=told, options=options, answer=options.index(f" {words[-1]}")))
    return items


def single_token_words(tokenizer: Any) -> list[str]:
    """Words of at least three small letters that are one token after a space, in their order."""
    words: list[str] = []
    for i in range(len(tokenizer)):
        word = tokenizer.decode([i]).strip()
        if len(word) >= 3 and word.isascii() and word.isalpha() and word.islower():
            ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
            if ids == [i]:
                words.append(word)
        if len(words) == N_POOL:
            break
    return words


COPYING = choice_skill("copying", "the last of six words, told once before", copying_items)
