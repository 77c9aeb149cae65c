"""The probes that the seed study released, read from a folder that the user names.

Never part of this project: its probes quote Wikipedia and SocialIQA. The folder is ``data/`` of
the public repository of Mousavi, Alghisi and Riccardi 2026 (arXiv:2601.03858). MMLU is not in it
(the study took it from the Hub); put its test rows beside the others as ``mmlu_probes.json``, a
list of ``question, choices, answer`` (0 to 3).
"""

import json
from pathlib import Path
from typing import Any

from kcircuits.errors import InputError
from kcircuits.io.input_file import decode, read_bounded
from kcircuits.lab.probing.open_questions import OpenQuestion

VALIDATION, MATH = "validation_probes.json", "math_probes.json"
MMLU, SOCIAL_IQA = "mmlu_probes.json", "reasoning_probes.json"

# Kinds of validation probes, and the names that the file gives them, in the study's order.
KINDS = {
    "factual": "Factual Question",
    "time-sensitive": "Time-Sensitive Question",
    "temporal": "Temporal Understanding Question",
    "entity-linking": "Entity Linking Question",
    "rephrased": "Rephrased Questions",
}
_LARGEST = 64 * 2**20

# Question and reference of an item.
Item = tuple[str, str]


def read_validation_probes(folder: str | Path) -> list[OpenQuestion]:
    """The open questions of ``validation_probes.json``; ``fact`` is the entity.

    Raises:
        InputError: No such file, or another form.
    """
    path = Path(folder) / VALIDATION
    content = _content(path)
    try:
        asked = [
            (entity, kind, probe["question"], probe["answer"])
            for entity, probes in content.items()
            for kind, name in KINDS.items()
            for probe in probes.get(name, ())
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise _other_form(path, error) from error
    numbers: dict[str, int] = {}
    questions = []
    for entity, kind, question, answer in asked:
        number = numbers[entity] = numbers.get(entity, -1) + 1
        questions.append(
            OpenQuestion(
                fact=entity, prompt_idx=number, kind=kind, question=question, answer=answer
            )
        )
    return questions


def read_items(path: Path) -> list[Item]:
    """Question and reference of each item of one of the three out-of-domain sets.

    Raises:
        InputError: No such file, or another form.
    """
    content = _content(path)
    try:
        if path.name == MATH:
            return [(probe["question"], str(probe["answer"])) for probe in content.values()]
        if path.name == MMLU:
            return [
                (f"Q: {probe['question']}\n{_lettered(probe['choices'])}", str(probe["answer"]))
                for probe in content
            ]
        return [
            (
                f"Context: {probe['context']} Q: {probe['question']}\n"
                + _lettered([probe[f"answer{letter}"] for letter in "ABC"]),
                str(probe["answer"]),
            )
            for probe in content
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise _other_form(path, error) from error


def _content(path: Path) -> Any:
    hint = "name the folder `data` of the seed study's repository"
    content = decode(
        read_bounded(path, limit=_LARGEST, error=InputError, hint=hint), error=InputError, file=path
    )
    try:
        return json.loads(content)
    except ValueError as error:
        line = getattr(error, "lineno", None)
        raise InputError(
            f"is not JSON: {error}", file=path, line=line, hint="copy it again"
        ) from error


def _lettered(choices: list[str]) -> str:
    return "\n".join(f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(choices))


def _other_form(path: Path, error: Exception) -> InputError:
    return InputError(
        f"does not have the form of the seed study's {path.name} ({type(error).__name__}: {error})",
        file=path,
        hint="copy it again from `data` of that study's repository",
    )
