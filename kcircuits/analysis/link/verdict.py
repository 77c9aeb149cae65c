"""Verdicts on the link: turnover precedes forgetting, no link beyond chance, or cannot tell.

| verdict | when |
|---|---|
| precedes | p <= .05 (Holm over strata), and the adjusted AUROC is above .5 with its interval |
| less turnover | the same below .5: circuits of facts about to be forgotten change *less* |
| no link beyond chance | the interval of the adjusted AUROC lies within .40 to .60 |
| cannot tell | everything else, with the reason |

An AUROC of .60 is a difference of .36 standard deviations between normal variables, between what
Cohen 1988 calls small and medium. Absence of evidence is not "no link".
"""

from typing import Literal

from kcircuits.analysis.dynamics.seeds import MIN_SEEDS
from kcircuits.analysis.link.turnover_forgetting import MIN_EVENTS, ForgettingTest
from kcircuits.analysis.overlap.jackknife import MIN_ENTITIES
from kcircuits.analysis.overlap.swap_test import ALPHA
from kcircuits.analysis.overlap.turnover import MIN_CEILING
from kcircuits.analysis.overlap.verdict import LOW_CEILING

LinkWord = Literal["precedes", "less-turnover", "no-link", "undetermined"]
WORDS: dict[LinkWord, str] = {
    "precedes": "turnover precedes forgetting",
    "less-turnover": "less turnover before forgetting",
    "no-link": "no link beyond chance",
    "undetermined": "cannot tell",
}
MIN_EXCHANGES = 1_000
EQUIVALENT = 0.10


def judge_link(test: ForgettingTest, p: float, n_seeds: int) -> tuple[LinkWord, str]:
    """The verdict and its reason.

    Args:
        test: Of all training seeds together.
        p: Its p, adjusted for the strata that are tested beside it.
        n_seeds: Training seeds in it.
    """
    if obstacle := _obstacle(test, n_seeds):
        return "undetermined", obstacle
    low, high = test.auroc.low, test.auroc.high
    if p <= ALPHA and (low > 0.5 or high < 0.5):
        word: LinkWord = "precedes" if low > 0.5 else "less-turnover"
        return word, f"trajectories exchanged give p = {p:.2g}"
    if low > 0.5 - EQUIVALENT and high < 0.5 + EQUIVALENT:
        return "no-link", f"an AUROC beyond {0.5 - EQUIVALENT:.2f} to {0.5 + EQUIVALENT:.2f} is out"
    return "undetermined", f"p = {p:.2g}, and an AUROC from {low:.2f} to {high:.2f} is possible"


def _obstacle(test: ForgettingTest, n_seeds: int) -> str | None:
    """What stands in the way of any verdict; None where nothing does."""
    n_retained = test.n_at_risk - test.n_forgotten
    if min(test.n_forgotten, n_retained) < MIN_EVENTS:
        return (
            f"{test.n_forgotten} forgotten and {n_retained} retained of {test.n_at_risk} "
            f"fact-steps at risk; {MIN_EVENTS} of either are needed"
        )
    if test.n_forgotten_entities < MIN_ENTITIES:
        return f"{test.n_forgotten_entities} entities forgot something; {MIN_ENTITIES} are needed"
    if test.n_distinct < MIN_EXCHANGES:
        return (
            f"{test.n_distinct:,.0f} ways to exchange trajectories within strata; "
            f"{MIN_EXCHANGES:,} are needed"
        )
    if not test.k_own >= MIN_CEILING:
        return LOW_CEILING
    if not test.p <= 1:
        return "forgotten and retained facts never meet in one step"
    if n_seeds < MIN_SEEDS:
        return f"training seeds: {n_seeds}; a claim needs {MIN_SEEDS}"
    return None
