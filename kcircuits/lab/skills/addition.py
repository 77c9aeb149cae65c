"""Addition after four solved examples: of digits with a one-digit sum, and of two-digit numbers.

The options of a one-digit sum are the ten digits, and every pair of digits is asked. Larger sums
would have more digits, and so more tokens, than small ones, where the total log-probability is not
comparable. Two-digit sums have two digits, and so have all options: the neighbours of the sum, and
a sum with the wrong tens. SmolLM2-135M chooses among lettered options no better than by chance,
but of these numbers it prefers the right one in half of the cases.
"""

from typing import Any

import numpy as np

from kcircuits.lab.skills.skill import Choice, choice_skill

N_SHOTS = 4
N_TWO_DIGIT = 36


def one_digit_items(tokenizer: Any, rng: np.random.Generator) -> list[Choice]:
    """All 55 sums of two digits up to 9, after the same four examples."""
    del tokenizer
    pairs = [(a, b) for a in range(10) for b in range(10 - a)]
    shots = [pairs[i] for i in rng.choice(len(pairs), N_SHOTS, replace=False)]
    options = tuple(f" {digit}" for digit in range(10))
    return [
        Choice(prompt=_prompt(shots, pair), options=options, answer=sum(pair)) for pair in pairs
    ]


def two_digit_items(tokenizer: Any, rng: np.random.Generator) -> list[Choice]:
    """Sums of two-digit numbers up to 98, among four options, after the same four examples."""
    del tokenizer
    pairs = [(a, b) for a in range(10, 89) for b in range(10, 99 - a)]
    drawn = [pairs[i] for i in rng.choice(len(pairs), N_SHOTS + N_TWO_DIGIT, replace=False)]
    shots, asked = drawn[:N_SHOTS], drawn[N_SHOTS:]
    items = []
    for pair in asked:
        total = sum(pair)
        tens = 10 if total < 30 or (total < 90 and rng.random() < 0.5) else -10
        options = rng.permutation([total, total - 1, total + 1, total + tens]).tolist()
        items.append(
            Choice(
                prompt=_prompt(shots, pair),
                options=tuple(f" {option}" for option in options),
                answer=options.index(total),
            )
        )
    return items


def _prompt(shots: list[tuple[int, int]], pair: tuple[int, int]) -> str:
    told = [f"{a} + {b} = {a + b}\n" for a, b in shots]
    return "".join(told) + f"{pair[0]} + {pair[1]} ="


ADDITION = choice_skill("addition", "one-digit sums, 4 examples, 10 options", one_digit_items)
TWO_DIGIT_ADDITION = choice_skill(
    "two-digit-addition", "two-digit sums, 4 examples, 4 options", two_digit_items
)
