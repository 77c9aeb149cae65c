"""YAML without its traps: no duplicate keys, aliases, anchors, merges or tags; bounded depth.

Every failure of the parser becomes one ManifestError with file and line.
"""

from pathlib import Path
from typing import Any

import yaml

from kcircuits.errors import ManifestError
from kcircuits.io.input_file import Location, decode, forbidden_character, shown

MAX_DEPTH = 20
_MERGE = "tag:yaml.org,2002:merge"


def parse_yaml(content: bytes, file: Path) -> tuple[Any, dict[Location, int]]:
    """The data of one YAML document and the line of each of its values.

    Args:
        content: UTF-8, with or without a byte order mark.
        file: Named in errors.

    Raises:
        ManifestError: Whatever is wrong with the YAML.
    """
    text = decode(content, error=ManifestError, file=file).removeprefix("\ufeff")
    try:
        _check_events(text, file)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise ManifestError(
                "is empty", file=file, line=1, hint="write one with kcircuits manifest init"
            )
        lines: dict[Location, int] = {}
        _check_node(node, (), lines, file)
        return loader.construct_document(node), lines
    except yaml.reader.ReaderError as cause:
        raise ManifestError(
            f"character U+{cause.character:04X} is not allowed in YAML",
            file=file,
            line=text[: cause.position].count("\n") + 1,
            hint="remove the character",
        ) from None
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        raise ManifestError(
            f"is not YAML: {cause.problem or cause.context}",
            file=file,
            line=None if mark is None else mark.line + 1,
            hint="correct the syntax at that line",
        ) from None


def _check_events(text: str, file: Path) -> None:
    """Refuse what the composer would follow or recurse into, before it does."""
    depth = n_documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        n_documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        # Aliases have an anchor too: the one that they repeat.
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        problem = None
        if anchor:
            problem = f"anchors and aliases ({shown(anchor)}) are not allowed"
        elif tag:
            problem = f"tags ({shown(tag)}) are not allowed"
        elif depth > MAX_DEPTH:
            problem = f"is nested deeper than {MAX_DEPTH} levels"
        elif n_documents > 1:
            problem = "holds more than one YAML document"
        if problem:
            mark: Any = event.start_mark  # always there for text; the stubs allow None
            raise ManifestError(
                problem, file=file, line=mark.line + 1, hint="write the values out plainly"
            )


def _check_node(node: Any, at: Location, lines: dict[Location, int], file: Path) -> None:
    lines[at] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _check_node(item, (*at, i), lines, file)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = _key(key, file)
            line = key.start_mark.line + 1
            if name in seen:
                raise ManifestError(
                    f"key {shown(name)} is given twice, first in line {seen[name]}",
                    file=file,
                    field=name,
                    line=line,
                    hint="keep one of the two",
                )
            seen[name] = line
            _check_node(value, (*at, name), lines, file)
            lines[(*at, name)] = line
    else:
        _check_scalar(node, file)


def _key(key: Any, file: Path) -> str:
    line = key.start_mark.line + 1
    if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
        kind = "merge keys (<<)" if isinstance(key, yaml.ScalarNode) else "compound keys"
        raise ManifestError(
            f"{kind} are not allowed", file=file, line=line, hint="write the values out plainly"
        )
    if key.tag != "tag:yaml.org,2002:str":
        raise ManifestError(
            f"key {shown(key.value)} is not text", file=file, line=line, hint="put it in quotes"
        )
    _check_scalar(key, file)
    return key.value


def _check_scalar(node: Any, file: Path) -> None:
    line = node.start_mark.line + 1
    if character := forbidden_character(node.value):
        raise ManifestError(
            f"text holds {character}", file=file, line=line, hint="remove the character"
        )
    try:
        yaml.SafeLoader("").construct_object(node)
    except (ValueError, OverflowError) as cause:  # no such date; a number of 5,000 digits
        raise ManifestError(
            f"value {shown(node.value)} cannot be read: {cause}",
            file=file,
            line=line,
            hint="put it in quotes to make it text",
        ) from None
