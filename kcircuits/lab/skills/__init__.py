"""Skills outside the trained domain: the registry, one file and one line each.

``measure_skills`` asks a model and gives one row per skill. The default suite needs no download:
addition, copying, minimal pairs and commonsense sentences of our own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kcircuits.errors import UsageError
from kcircuits.lab.probing.generation import BATCH_SIZE
from kcircuits.lab.skills.addition import ADDITION, TWO_DIGIT_ADDITION
from kcircuits.lab.skills.commonsense import COMMONSENSE
from kcircuits.lab.skills.copying import COPYING
from kcircuits.lab.skills.harness import PREFIX, harness_skill
from kcircuits.lab.skills.minimal_pairs import MINIMAL_PAIRS
from kcircuits.lab.skills.seed_sets import SEED_MATH, SEED_MMLU, SEED_SOCIAL_IQA
from kcircuits.lab.skills.skill import Score, Setting, Skill

SKILLS: Mapping[str, Skill] = MappingProxyType(
    {
        skill.name: skill
        for skill in (
            ADDITION,
            TWO_DIGIT_ADDITION,
            COPYING,
            MINIMAL_PAIRS,
            COMMONSENSE,
            SEED_MATH,
            SEED_MMLU,
            SEED_SOCIAL_IQA,
        )
    }
)
DEFAULT_SKILLS = tuple(name for name, skill in SKILLS.items() if skill.is_default)

# Called with the skill's name and the number of rows that were done since the last call.
SkillProgress = Callable[[str, int], object]

__all__ = [
    "DEFAULT_SKILLS",
    "SKILLS",
    "Score",
    "Setting",
    "Skill",
    "check_skills",
    "make_setting",
    "measure_skills",
    "resolve_skills",
]


def measure_skills(
    model: Any,
    tokenizer: Any,
    names: Sequence[str] = DEFAULT_SKILLS,
    *,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    folder: str | Path | None = None,
    include_path: str | Path | None = None,
    progress: SkillProgress | None = None,
) -> list[dict[str, Any]]:
    """How well a model does what no document is about.

    The model's mode and the random state are left as they were.

    Args:
        model: A transformers model, with or without an adapter.
        tokenizer: Its tokenizer.
        names: Names in ``SKILLS``, or ``harness:TASK``.
        seed: Draws the items; rows of one seed can be compared item by item.
        batch_size: Rows per forward pass; results do not depend on it.
        folder: ``data/`` of the seed study's repository, for its skills.
        include_path: Where YAML files of local harness tasks lie.
        progress: For a progress bar.

    Returns:
        One row per skill, in the order given: ``skill``, ``n`` (items), ``accuracy`` (0 to 1),
        ``per_item`` (of each item 1 or 0; the accuracy is their mean) and ``items`` (a hash: items
        of two rows correspond one to one where it is the same).

    Raises:
        UsageError: A name that is no skill, or a skill that lacks what it needs.
        InputError: A file of the seed study is absent, or has another form.
    """
    setting = make_setting(
        seed=seed, batch_size=batch_size, folder=folder, include_path=include_path
    )
    rows = []
    for skill in check_skills(names, setting):
        advance = _advance(skill.name, progress)
        score = skill.measure(model, tokenizer, replace(setting, progress=advance))
        rows.append(
            {
                "skill": skill.name,
                "n": len(score.per_item),
                "accuracy": score.accuracy,
                "items": score.items,
                "per_item": [int(x) if x == int(x) else x for x in score.per_item],
            }
        )
    return rows


def make_setting(
    *,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    folder: str | Path | None = None,
    include_path: str | Path | None = None,
) -> Setting:
    """The setting that ``measure_skills`` makes of its arguments."""
    if seed < 0:
        raise UsageError(f"seed is {seed}; expected 0 or more", field="seed")
    return Setting(
        seed=seed,
        batch_size=batch_size,
        folder=None if folder is None else Path(folder),
        include_path=None if include_path is None else Path(include_path),
    )


def check_skills(names: Sequence[str], setting: Setting) -> list[Skill]:
    """The skills of these names, each of which has what it needs; no model is needed to know."""
    skills = resolve_skills(names)
    for skill in skills:
        skill.check(setting)
    return skills


def resolve_skills(names: Iterable[str]) -> list[Skill]:
    """The skills of these names.

    Raises:
        UsageError: A name that is no skill, one that is given twice, or none at all.
    """
    given = list(names)
    choices = f"{', '.join(SKILLS)} and {PREFIX}TASK"
    if not given:
        raise UsageError("there are no skills", field="skills", hint=f"name some of {choices}")
    skills = []
    for name in given:
        if given.count(name) > 1:
            raise UsageError(f"skill {name!r} is given twice", field="skills", hint="give it once")
        if name in SKILLS:
            skills.append(SKILLS[name])
        elif name.startswith(PREFIX) and name != PREFIX:
            skills.append(harness_skill(name))
        else:
            raise UsageError(
                f"there is no skill {name!r}; expected some of {choices}",
                field="skills",
                hint="choose from this list, or leave --skills out for the default suite",
            )
    return skills


def _advance(name: str, progress: SkillProgress | None) -> Callable[[int], object] | None:
    return None if progress is None else lambda n: progress(name, n)
