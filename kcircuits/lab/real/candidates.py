"""Which answers of a relation a right one is ranked among.

Those of one token cost a prompt nothing. So many of several join them where the answer itself has
several, and as many as it takes where there are fewer than ``MIN_CANDIDATES`` in all: each costs
every prompt a row of its own.
"""

from collections.abc import Mapping

import numpy as np

from kcircuits.core.batch import Answer

N_SEVERAL, MIN_CANDIDATES = 3, 12


def candidate_answers(
    tokens: Mapping[str, Answer], rng: np.random.Generator
) -> Mapping[str, tuple[str, ...]]:
    """Answers to rank among, beside the own one, where that has ``one`` token or ``several``.

    Args:
        tokens: Those of each answer; none begins with all tokens of another.
        rng: Draws among answers of several tokens.
    """
    one = sorted(answer for answer, ids in tokens.items() if len(ids) == 1)
    several = rng.permutation(sorted(set(tokens) - set(one))).tolist()
    n_missing = max(0, MIN_CANDIDATES - len(one))
    return {
        "one": (*one, *several[:n_missing]),
        "several": (*one, *several[: max(n_missing, N_SEVERAL)]),
    }
