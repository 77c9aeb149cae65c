"""Reads and writes ``facts.jsonl``: one fact a line, strictly checked.

A byte order mark, CRLF line ends and blank lines are accepted; everything else that is not a fact
is refused with its line: unknown fields, duplicate keys, NaN, NUL, lone surrogates, ids that are
equal in Unicode normal form C, clean equal to corrupt, target equal to foil, spans outside the
text. What depends on a tokenizer is checked in ``kcircuits.models.prompts``.
"""

import json
import math
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from pydantic import Field

from kcircuits.core.facts import Fact, Kind, Prompt
from kcircuits.errors import FactsError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.input_file import (
    Schema,
    decode,
    forbidden_character,
    read_bounded,
    shown,
    validate,
)

MAX_BYTES = 256 * 1024**2
MAX_LINE_BYTES = 1024**2


class _PromptSchema(Schema):
    clean: str = Field(min_length=1)
    corrupt: str = Field(min_length=1)
    target: str = Field(min_length=1)
    foil: str = Field(min_length=1)
    use: Literal["discovery", "evaluation", "probe"] | None = None
    template: Literal["raw", "chat"] = "raw"
    candidates: list[str] = Field(default=[])
    subject_span: list[int] | None = Field(default=None, min_length=2, max_length=2)
    relation_span: list[int] | None = Field(default=None, min_length=2, max_length=2)
    kind: Kind | None = None


class _FactSchema(Schema):
    id: str = Field(min_length=1)
    subject: str = Field(min_length=1)
    relation: str = Field(min_length=1)
    object: str = Field(min_length=1)
    prompts: list[_PromptSchema] = Field(min_length=1)
    strata: dict[str, Any] = Field(default={})


def load_facts(path: str | Path) -> tuple[Fact, ...]:
    """The facts of a file, in order.

    Raises:
        FactsError: The first line that breaks a rule.
        FileAccessError: The file cannot be read.
    """
    facts, problems = scan_facts(path, max_problems=1)
    if problems:
        raise problems[0]
    return facts


def scan_facts(
    path: str | Path, *, max_problems: int = 20
) -> tuple[tuple[Fact, ...], tuple[FactsError, ...]]:
    """The facts that are right and the errors of the lines that are not.

    Args:
        path: A facts file.
        max_problems: Where to stop.

    Raises:
        FactsError: The file is missing or is no file, is too large, or holds no line.
        FileAccessError: The file cannot be read.
    """
    path = Path(path)
    content = read_bounded(
        path, limit=MAX_BYTES, error=FactsError, hint="check the path of the facts file"
    )
    facts: list[Fact] = []
    problems: list[FactsError] = []
    seen: dict[str, int] = {}
    for line, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            fact = _parse_line(raw, path, line)
            _check_unique(fact.id, seen, path, line)
            facts.append(fact)
        except FactsError as problem:
            problems.append(problem)
            if len(problems) == max_problems:
                break
    if not facts and not problems:
        raise FactsError("holds no facts", file=path, hint="write one JSON object a line")
    return tuple(facts), tuple(problems)


def write_facts(facts: Iterable[Fact], path: str | Path) -> None:
    """Writes facts that ``load_facts`` reads back equal; whole or not at all.

    Raises:
        FactsError: A fact breaks a rule.
        FileAccessError: The file cannot be written.
    """
    seen: dict[str, int] = {}
    lines: list[str] = []
    for line, fact in enumerate(facts, start=1):
        fields = _fields(fact)
        _fact_of(fields, Path(path), line)
        _check_unique(fact.id, seen, Path(path), line)
        lines.append(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n")
    if not lines:
        raise FactsError("there are no facts to write", file=path, hint="give at least one")
    write_atomic(path, "".join(lines))


def _parse_line(raw: bytes, path: Path, line: int) -> Fact:
    if len(raw) > MAX_LINE_BYTES:
        raise FactsError(
            f"the line has {len(raw):,} bytes, more than {MAX_LINE_BYTES:,}",
            file=path,
            line=line,
            hint="write one fact a line, with fewer prompts or candidates",
        )
    text = decode(raw, error=FactsError, file=path, first_line=line)
    try:
        data = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except json.JSONDecodeError as cause:
        raise FactsError(
            f"is not JSON: {cause.msg} at column {cause.colno}",
            file=path,
            line=line,
            hint="write one whole JSON object a line",
        ) from None
    except (ValueError, RecursionError) as cause:
        problem = "is nested too deeply" if isinstance(cause, RecursionError) else str(cause)
        raise FactsError(problem, file=path, line=line, hint="correct that line") from None
    return _fact_of(data, path, line)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {shown(twice)} is given twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a value of JSON")


def _fact_of(data: Any, path: Path, line: int) -> Fact:
    for field, text in _texts(data):
        if character := forbidden_character(text):
            raise FactsError(
                f"{field or 'a key'} holds {character}",
                file=path,
                field=field or None,
                line=line,
                hint="remove the character",
            )
    record = validate(_FactSchema, data, error=FactsError, file=path, line_of=lambda _: line)
    for field in ("id", "subject", "relation", "object"):
        if not getattr(record, field).strip():
            raise FactsError(f"{field} is blank", file=path, field=field, line=line, hint="name it")
    for i, prompt in enumerate(record.prompts):
        _check_prompt(record.id, i, prompt, path, line)
    return Fact(
        id=record.id,
        subject=record.subject,
        relation=record.relation,
        object=record.object,
        prompts=tuple(
            Prompt(
                **prompt.model_dump(exclude={"candidates", "subject_span", "relation_span"}),
                candidates=tuple(prompt.candidates),
                subject_span=_span(prompt.subject_span),
                relation_span=_span(prompt.relation_span),
            )
            for prompt in record.prompts
        ),
        strata=MappingProxyType(
            {key: _stratum(key, value, path, line) for key, value in record.strata.items()}
        ),
    )


def _texts(data: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a value, keys included, with the name of the field that holds them."""
    stack = [(field, data)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, list):
            stack += [(f"{name}[{i}]", item) for i, item in enumerate(value)]
        elif isinstance(value, dict):
            for key, item in value.items():
                yield name, key
                stack.append((f"{name}.{key}" if name else key, item))


def _check_prompt(fact_id: str, i: int, prompt: _PromptSchema, path: Path, line: int) -> None:
    def refuse(field: str, message: str, hint: str) -> NoReturn:
        name = f"prompts[{i}].{field}"
        message = f"fact {shown(fact_id)}, prompt {i}: {message}"
        raise FactsError(message, file=path, field=name, line=line, hint=hint)

    if prompt.clean == prompt.corrupt:
        refuse("corrupt", "clean and corrupt are equal", "ask for another subject in corrupt")
    if prompt.target == prompt.foil:
        refuse(
            "foil",
            f"target and foil are both {shown(prompt.target)}",
            "choose a corrupt subject whose answer differs",
        )
    if "" in prompt.candidates:
        refuse("candidates", "a candidate is empty", "remove it")
    for field in ("subject_span", "relation_span"):
        span = getattr(prompt, field)
        if span is not None and not 0 <= span[0] < span[1] <= len(prompt.clean):
            refuse(
                field,
                f"{field} {span} does not lie inside clean, which has {len(prompt.clean)} "
                "characters",
                "give [start, end] in characters, end excluded",
            )


def _check_unique(fact_id: str, seen: dict[str, int], path: Path, line: int) -> None:
    same = unicodedata.normalize("NFC", fact_id)
    if same in seen:
        raise FactsError(
            f"id {shown(fact_id)} is that of line {seen[same]} already (ids are compared in "
            "Unicode normal form C)",
            file=path,
            field="id",
            line=line,
            hint="give each fact its own id",
        )
    seen[same] = line


def _stratum(key: str, value: Any, path: Path, line: int) -> str:
    """The value as text: true and false as in JSON, numbers as Python writes them."""
    problem = None
    if not isinstance(value, str | int | float):
        problem = f"is {shown(value)}, not text, a number, true or false"
    elif isinstance(value, float) and not math.isfinite(value):
        problem = "is not finite"
    elif not key or value == "":
        problem = "has an empty name or value"
    if problem:
        raise FactsError(
            f"stratum {shown(key)} {problem}",
            file=path,
            field=f"strata.{key}",
            line=line,
            hint="give each stratum a name and one value",
        )
    return str(value).lower() if isinstance(value, bool) else str(value)


def _span(span: list[int] | None) -> tuple[int, int] | None:
    return None if span is None else (span[0], span[1])


def _fields(fact: Fact) -> dict[str, Any]:
    """A fact as JSON, without the fields that have their default value."""
    prompts: list[dict[str, Any]] = []
    for prompt in fact.prompts:
        fields: dict[str, Any] = {
            name: getattr(prompt, name) for name in ("clean", "corrupt", "target", "foil")
        }
        fields["use"] = prompt.use
        fields["template"] = None if prompt.template == "raw" else prompt.template
        fields["candidates"] = list(prompt.candidates) or None
        fields["subject_span"] = prompt.subject_span and list(prompt.subject_span)
        fields["relation_span"] = prompt.relation_span and list(prompt.relation_span)
        fields["kind"] = prompt.kind
        prompts.append({name: value for name, value in fields.items() if value is not None})
    return {
        "id": fact.id,
        "subject": fact.subject,
        "relation": fact.relation,
        "object": fact.object,
        "prompts": prompts,
        "strata": dict(fact.strata),
    }
