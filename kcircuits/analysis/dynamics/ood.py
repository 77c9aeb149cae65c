"""Change of out-of-domain skills since the untrained model, with items paired.

The same items are asked at every epoch, so that the interval of a change draws items and takes
both outcomes of each: the difficulty of an item drops out.

Source: METHODS.md section 7; Efron and Tibshirani 1993 (percentile bootstrap). The seed study's OOD
average is the mean of MMLU and SocialIQA (arXiv 2601.03858, table 4).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kcircuits.analysis.dynamics.draws import ratio_interval
from kcircuits.analysis.dynamics.series import Skill

# Names of the seed study's sets, as this toolkit and its release spell them.
SEED_SKILLS = {"math": "math", "mmlu": "mmlu", "socialiqa": "social_iqa"}


@dataclass(frozen=True, kw_only=True)
class SkillChange:
    """Accuracy at each epoch minus accuracy at the first.

    Attributes:
        change: In shares of 1.
        low: Lower ends of 95% intervals over paired items; NaN where items were not kept.
        high: Upper ends.
        n_items: Items paired; 0 where items were not kept.
    """

    change: Float[np.ndarray, " epoch"]
    low: Float[np.ndarray, " epoch"]
    high: Float[np.ndarray, " epoch"]
    n_items: int


def seed_skill(name: str) -> str | None:
    """The column of the seed's table that a skill belongs to; None for other skills."""
    return SEED_SKILLS.get("".join(char for char in name.lower() if char.isalnum()))


def ood_average(skills: Mapping[str, Skill], n_epochs: int) -> Float[np.ndarray, " epoch"]:
    """Mean accuracy out of domain; NaN at epochs where a skill was not measured.

    Of MMLU and SocialIQA where the run has both, as in the seed study; else of all skills.
    """
    by_column = {seed_skill(name): skill.accuracy for name, skill in skills.items()}
    if "mmlu" in by_column and "social_iqa" in by_column:
        return (by_column["mmlu"] + by_column["social_iqa"]) / 2
    if not skills:
        return np.full(n_epochs, np.nan)
    return np.mean([skill.accuracy for skill in skills.values()], axis=0)


def skill_change(skill: Skill, *, seed: int = 0) -> SkillChange:
    """Change since the first epoch; without an interval at epochs whose items were not kept."""
    change = skill.accuracy - skill.accuracy[0]
    low, high = np.full(len(change), np.nan), np.full(len(change), np.nan)
    if skill.per_item is None:
        return SkillChange(change=change, low=low, high=high, n_items=0)
    n_items = len(skill.per_item)
    differences = skill.per_item - skill.per_item[:, :1]
    there = np.asarray(np.isfinite(differences).all(0))
    if n_items and there.any():
        _, low[there], high[there] = ratio_interval(
            differences[:, there], np.ones(n_items), np.arange(n_items), seed=seed
        )
    return SkillChange(change=change, low=low, high=high, n_items=n_items)
