"""``load_facts`` reads what it must and refuses the rest with message, field and line."""

import contextlib
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kcircuits.cli.main import main
from kcircuits.core.facts import Fact, Prompt
from kcircuits.errors import FactsError
from kcircuits.io.facts import load_facts, scan_facts, write_facts

FACT: dict[str, Any] = {
    "id": "f1",
    "subject": "France",
    "relation": "capital",
    "object": "Paris",
    "prompts": [
        {
            "clean": "The capital of France is",
            "corrupt": "The capital of Japan is",
            "target": " Paris",
            "foil": " Tokyo",
            "use": "discovery",
            "template": "raw",
            "candidates": [" Paris", " Tokyo"],
            "subject_span": [15, 21],
            "relation_span": [4, 11],
        },
        {"clean": "a", "corrupt": "b", "target": " c", "foil": " d"},
    ],
    "strata": {"frequency": "high", "exposure": 3, "is_real": True, "share": 0.5},
}


def with_value(path: str, value: Any) -> str:
    """FACT with one value replaced; a path such as ``prompts.0.clean``."""
    fact = copy.deepcopy(FACT)
    at: Any = fact
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return json.dumps(fact)


def raw(old: str, new: str) -> str:
    text = json.dumps(FACT)
    assert old in text
    return text.replace(old, new, 1)


P0 = "prompts[0]"
# name: (second line of the file, field, part of the message)
LINES: dict[str, tuple[str | bytes, str | None, str]] = {
    "unknown field": (with_value("ide", 1), "ide", "unknown field 'ide'"),
    "unknown field of a prompt": (with_value("prompts.0.traget", 1), f"{P0}.traget", "unknown"),
    "no id": (with_value("id", ...), "id", "required field 'id' is missing"),
    "no subject": (with_value("subject", ...), "subject", "'subject' is missing"),
    "no relation": (with_value("relation", ...), "relation", "'relation' is missing"),
    "no object": (with_value("object", ...), "object", "'object' is missing"),
    "no prompts field": (with_value("prompts", ...), "prompts", "'prompts' is missing"),
    "no clean": (with_value("prompts.1.clean", ...), "prompts[1].clean", "is missing"),
    "no corrupt": (with_value("prompts.1.corrupt", ...), "prompts[1].corrupt", "is missing"),
    "no target": (with_value("prompts.1.target", ...), "prompts[1].target", "is missing"),
    "no foil": (with_value("prompts.1.foil", ...), "prompts[1].foil", "is missing"),
    "no prompt": (with_value("prompts", []), "prompts", "at least 1 item"),
    "prompts a map": (with_value("prompts", {}), "prompts", "should be a valid list"),
    "prompt a text": (with_value("prompts.0", "x"), P0, "is 'x', not a set of fields"),
    "id a number": (with_value("id", 7), "id", "id is 7, should be a valid string"),
    "id empty": (with_value("id", ""), "id", "at least 1 character"),
    "id blank": (with_value("id", " "), "id", "id is blank"),
    "object null": (with_value("object", None), "object", "is None, should be a valid string"),
    "clean empty": (with_value("prompts.0.clean", ""), f"{P0}.clean", "at least 1 character"),
    "target empty": (with_value("prompts.0.target", ""), f"{P0}.target", "at least 1 character"),
    "equal prompts": (
        with_value("prompts.0.corrupt", FACT["prompts"][0]["clean"]),
        f"{P0}.corrupt",
        "fact 'f2', prompt 0: clean and corrupt are equal",
    ),
    "equal answers": (
        with_value("prompts.0.foil", " Paris"),
        f"{P0}.foil",
        "target and foil are both ' Paris'",
    ),
    "unknown use": (with_value("prompts.0.use", "train"), f"{P0}.use", "'discovery', 'evaluation'"),
    "unknown template": (
        with_value("prompts.0.template", "x"),
        f"{P0}.template",
        "'raw' or 'chat'",
    ),
    "candidates a text": (with_value("prompts.0.candidates", "x"), f"{P0}.candidates", "list"),
    "candidate a number": (
        with_value("prompts.0.candidates", [1]),
        f"{P0}.candidates[0]",
        "valid string",
    ),
    "candidate empty": (with_value("prompts.0.candidates", [""]), f"{P0}.candidates", "is empty"),
    "span outside": (
        with_value("prompts.0.subject_span", [15, 99]),
        f"{P0}.subject_span",
        "[15, 99] does not lie inside clean, which has 24 characters",
    ),
    "span backwards": (
        with_value("prompts.0.subject_span", [5, 2]),
        f"{P0}.subject_span",
        "[5, 2]",
    ),
    "span negative": (
        with_value("prompts.0.relation_span", [-1, 2]),
        f"{P0}.relation_span",
        "[-1, 2] does not lie",
    ),
    "span empty": (with_value("prompts.0.subject_span", [2, 2]), f"{P0}.subject_span", "[2, 2]"),
    "span of three": (
        with_value("prompts.0.subject_span", [1, 2, 3]),
        f"{P0}.subject_span",
        "at most 2",
    ),
    "span of fractions": (
        with_value("prompts.0.subject_span", [0.5, 2]),
        f"{P0}.subject_span[0]",
        "valid integer",
    ),
    "stratum null": (with_value("strata.x", None), "strata.x", "stratum 'x' is None"),
    "stratum a list": (with_value("strata.x", [1]), "strata.x", "stratum 'x' is [1]"),
    "stratum empty": (with_value("strata.x", ""), "strata.x", "empty name or value"),
    "stratum without name": (with_value("strata", {"": "x"}), "strata.", "empty name or value"),
    "stratum endless": (raw("0.5", "1e999"), "strata.share", "is not finite"),
    "strata a list": (with_value("strata", []), "strata", "not a set of fields"),
    "NaN": (raw("0.5", "NaN"), None, "NaN is not a value of JSON"),
    "minus Infinity": (raw("0.5", "-Infinity"), None, "-Infinity is not a value of JSON"),
    "key twice": (raw('"id"', '"id": "x", "id"'), None, "key 'id' is given twice"),
    "prompt key twice": (raw('"foil"', '"foil": " x", "foil"'), None, "key 'foil' is given twice"),
    "NUL": (with_value("object", "a\0"), "object", "object holds U+0000 (NUL)"),
    "NUL in a key": (raw("frequency", "fre\\u0000"), "strata", "holds U+0000"),
    "lone surrogate": (
        raw("The capital of F", "\\udc80"),
        f"{P0}.clean",
        "U+DC80 (a lone surrogate)",
    ),
    "id twice": (with_value("id", "é"), "id", "is that of line 1 already"),
    "not JSON": ("{'id': 1}", None, "is not JSON: Expecting property name"),
    "two objects": (json.dumps(FACT) + json.dumps(FACT), None, "is not JSON: Extra data"),
    "half an object": (json.dumps(FACT)[:80], None, "is not JSON"),
    "a list": ("[]", None, "is [], not a set of fields"),
    "a text": ('"f"', None, "is 'f', not a set of fields"),
    "null": ("null", None, "is None, not a set of fields"),
    "raw control character": ('{"id": "a\tb"}', None, "Invalid control character"),
    "brackets": ("[" * 100_000, None, "is nested too deeply"),
    "endless number": ('{"id": ' + "9" * 5000 + "}", None, "Exceeds the limit"),
    "latin-1": (b'{"id": "caf\xe9"}', None, "byte 0xe9 is not UTF-8"),
    "long line": (" " + "x" * 1024**2, None, "bytes, more than 1,048,576"),
}


def written(path: Path, line: str | bytes) -> Path:
    """A file of two facts, the second one as given; the first one's id is decomposed."""
    first = with_value("id", "e\u0301").encode()
    second = line.encode() if isinstance(line, str) else line
    path.write_bytes(first + b"\n" + second.replace(b'"f1"', b'"f2"') + b"\n")
    return path


@pytest.mark.parametrize("name", LINES)
def test_load_facts_refuses(name: str, tmp_path: Path) -> None:
    line, field, message = LINES[name]
    path = written(tmp_path / "f.jsonl", line)
    with pytest.raises(FactsError) as caught:
        load_facts(path)
    error = caught.value
    assert message in error.message
    assert (error.field, error.line, error.file) == (field, 2, str(path))


@pytest.mark.parametrize("name", LINES)
def test_check_exits_3_without_traceback(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(written(tmp_path / "f.jsonl", LINES[name][0]))
    assert main(["facts", "check", path, "--json"]) == 3
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["schema"] == "kcircuits.facts-check/1"
    assert found["facts"] == 1
    assert found["error"] == found["problems"][0]
    assert found["error"]["line"] == 2
    assert err == ""
    assert main(["facts", "check", path]) == 3
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", None, "holds no facts"),
        (b"\n \r\n\n", None, "holds no facts"),
        (b"\xef\xbb\xbf", None, "holds no facts"),
        (json.dumps(FACT).encode("utf-16"), 1, "is not UTF-8"),
        (b"\x00\x01\x02", 1, "is not JSON"),
    ],
    ids=["empty", "blank", "only a BOM", "UTF-16", "binary"],
)
def test_whole_file_is_refused(
    content: bytes, line: int | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(content)
    with pytest.raises(FactsError) as caught:
        load_facts(path)
    assert message in caught.value.message
    assert caught.value.line == line
    assert main(["facts", "check", str(path)]) == 3


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "absent", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(FactsError, match=message):
            load_facts(path)
        assert main(["facts", "check", str(path)]) == 3


def test_load_facts_reads_all_fields(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text(json.dumps(FACT))
    (fact,) = load_facts(tmp_path / "f.jsonl")
    assert (fact.id, fact.subject, fact.relation, fact.object) == (
        "f1",
        "France",
        "capital",
        "Paris",
    )
    prompt = fact.prompts[0]
    assert prompt.subject_span == (15, 21)
    assert prompt.clean[slice(*prompt.subject_span)] == "France"
    assert prompt.candidates == (" Paris", " Tokyo")
    assert fact.prompts[1] == Prompt(clean="a", corrupt="b", target=" c", foil=" d")
    assert dict(fact.strata) == {
        "frequency": "high",
        "exposure": "3",
        "is_real": "true",
        "share": "0.5",
    }


def test_bom_crlf_and_blank_lines_are_accepted_and_lines_still_counted(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    good = json.dumps(FACT).encode()
    path.write_bytes(b"\xef\xbb\xbf\r\n" + good + b"\r\n\r\n" + good.replace(b"f1", b"f2"))
    assert [fact.id for fact in load_facts(path)] == ["f1", "f2"]
    path.write_bytes(path.read_bytes() + b"\r\n\r\n{}")
    with pytest.raises(FactsError) as caught:
        load_facts(path)
    assert caught.value.line == 6


def test_scan_facts_lists_all_problems_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text("\n".join([json.dumps(FACT), *["{}"] * 30]))
    facts, problems = scan_facts(tmp_path / "f.jsonl")
    assert len(facts) == 1
    assert [problem.line for problem in problems] == list(range(2, 22))


def test_write_facts_round_trip(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text(json.dumps(FACT))
    (fact,) = load_facts(tmp_path / "f.jsonl")
    chat = replace(fact.prompts[1], template="chat", use="probe", clean="\u2028 \u05d0 \U0001f600")
    facts = (fact, replace(fact, id="é\n", prompts=(chat,), strata={}))
    write_facts(facts, tmp_path / "g.jsonl")
    again = load_facts(tmp_path / "g.jsonl")
    assert again == facts
    assert [f.content_hash for f in again] == [f.content_hash for f in facts]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": ()}, "at least 1 item"),
        ({"subject": ""}, "at least 1 character"),
        ({"object": "\ud800"}, "a lone surrogate"),
        ({"strata": {"x": None}}, "not text"),
    ],
)
def test_write_facts_refuses_what_load_would_refuse(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "f.jsonl").write_text(json.dumps(FACT))
    (fact,) = load_facts(tmp_path / "f.jsonl")
    with pytest.raises(FactsError) as caught:
        write_facts([fact, replace(fact, id="f2", **change)], tmp_path / "g.jsonl")
    assert message in caught.value.message
    assert caught.value.line == 2
    with pytest.raises(FactsError, match="is that of line 1 already"):
        write_facts([fact, fact], tmp_path / "g.jsonl")
    with pytest.raises(FactsError, match="there are no facts to write"):
        write_facts([], tmp_path / "g.jsonl")
    assert not (tmp_path / "g.jsonl").exists()


def mutated(at: int, new: bytes) -> bytes:
    good = json.dumps(FACT).encode()
    return good[: at % len(good)] + new + good[at % len(good) + 1 :]


MUTATED = st.builds(mutated, st.integers(0, 1000), st.binary(min_size=1, max_size=3))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200) | MUTATED)
def test_any_bytes_give_facts_or_a_user_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(content)
    with contextlib.suppress(FactsError):
        assert all(isinstance(fact, Fact) for fact in load_facts(path))
