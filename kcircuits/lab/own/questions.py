"""Facts of one's own as rows: subject, relation, object, and prompts with ``{subject}``.

A fact may stand in several rows, with other prompts in each; what they say of it has to agree.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from kcircuits.core.facts import KINDS, Use
from kcircuits.lab.own.table import Row

NAMED = ("id", "subject", "relation", "object", "prompts", "use", "kind", "template")
"""Fields with a meaning of their own; others but ``prompt``, ``prompt_2``, ... are strata."""
_CHOICES: Mapping[str, Sequence[str]] = {
    "use": get_args(Use),
    "kind": KINDS,
    "template": ("raw", "chat"),
}


@dataclass(frozen=True, kw_only=True)
class Wording:
    """One prompt of a fact.

    Attributes:
        row: Where it stands.
        field: In which field.
        text: With ``{subject}``.
        options: Of ``use``, ``kind`` and ``template`` those that are given.
    """

    row: Row
    field: str
    text: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A fact before it has corrupt prompts.

    Attributes:
        id: Unique.
        subject: About whom.
        relation: What is asked.
        object: The answer.
        strata: Fields without another meaning.
        wordings: Its prompts.
    """

    id: str
    subject: str
    relation: str
    object: str
    strata: Mapping[str, str]
    wordings: tuple[Wording, ...]

    @property
    def row(self) -> Row:
        """The first row that tells it."""
        return self.wordings[0].row


def read_questions(rows: Sequence[Row]) -> list[Question]:
    """The facts of rows, in the order of their first rows.

    Raises:
        InputError: The first row that breaks a rule, or does not agree with one before.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        key = (row.text("subject"), row.text("relation"), row.text("object"))
        groups.setdefault(key, []).append(row)
    questions: list[Question] = []
    taken: dict[str, Row] = {}
    for (subject, relation, answer), mine in groups.items():
        wordings = [wording for row in mine for wording in _wordings(row)]
        name = _id(mine, taken, f"{relation}-{subject}".lower().replace(" ", "-"))
        taken[name] = mine[0]
        questions.append(
            Question(
                id=name,
                subject=subject,
                relation=relation,
                object=answer,
                strata=_strata(mine),
                wordings=_distinct(wordings),
            )
        )
    return questions


def _wordings(row: Row) -> Iterator[Wording]:
    """The prompts of a row: ``prompt``, ``prompt_2``, ..., or the list ``prompts``."""
    options = {name: row.text(name) for name in _CHOICES if name in row.fields}
    for name, value in options.items():
        if value not in _CHOICES[name]:
            row.refuse(f"{name} is {value!r}", name, f"choose from {', '.join(_CHOICES[name])}")
    found = [(name, value) for name, value in row.fields.items() if _is_prompt(name)]
    listed = row.fields.get("prompts", [])
    if not isinstance(listed, list):
        row.refuse("prompts is not a list", "prompts", "write a list, or fields prompt, prompt_2")
    found += [(f"prompts[{i}]", value) for i, value in enumerate(listed)]
    if not found:
        row.refuse("has no prompt", "prompt", "add a field prompt with {subject} in its text")
    for name, value in found:
        text = row.checked(name, value)
        if text.count("{subject}") != 1:
            row.refuse(
                f"{name} holds {{subject}} {text.count('{subject}')} times",
                name,
                "write {subject} once, where the subject stands",
            )
        yield Wording(row=row, field=name, text=text, options=options)


def _distinct(wordings: Iterable[Wording]) -> tuple[Wording, ...]:
    """The wordings of a fact; InputError where one is there twice.

    A circuit would be judged on the very prompt that it was found on, and the prompt count double.
    """
    first: dict[tuple[str, Any], Wording] = {}
    for wording in wordings:
        key = (wording.text, wording.options.get("template", "raw"))
        if (before := first.setdefault(key, wording)) is not wording:
            fact = ", ".join(wording.row.text(each) for each in ("subject", "relation", "object"))
            wording.row.refuse(
                f"fact ({fact}): {wording.field} has the wording of line {before.row.line}, "
                f"{before.field}: {wording.text!r}",
                wording.field,
                "remove one of the two, or word it otherwise",
            )
    return tuple(first.values())


def _is_prompt(name: str) -> bool:
    return name == "prompt" or (name.startswith("prompt_") and name[7:].isdigit())


def _id(rows: Sequence[Row], taken: Mapping[str, Row], default: str) -> str:
    """The id that rows give, or a new one."""
    given = [row for row in rows if "id" in row.fields]
    if not given:
        n_more = 2
        name = default
        while name in taken:
            name, n_more = f"{default}-{n_more}", n_more + 1
        return name
    name = given[0].text("id")
    for row in given:
        if row.text("id") != name:
            row.refuse(f"id is {row.text('id')!r}, and {name!r} before", "id", "give a fact one id")
    if name in taken:
        line = taken[name].line
        given[0].refuse(f"id {name!r} is that of line {line}", "id", "give each fact its own id")
    return name


def _strata(rows: Sequence[Row]) -> Mapping[str, str]:
    """The other fields, which all rows of a fact have alike where they have them."""
    strata: dict[str, str] = {}
    for row in rows:
        for name, value in row.fields.items():
            if name in NAMED or _is_prompt(name):
                continue
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                row.refuse(f"{name} is {value!r}", name, "give text or a number")
            if strata.setdefault(name, str(value)) != str(value):
                row.refuse(
                    f"{name} is {value!r}, and {strata[name]!r} in another row of the fact",
                    name,
                    "let the rows of a fact agree",
                )
    return strata
