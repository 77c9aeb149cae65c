"""Tables that somebody brings along: files of rows, documents, facts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kcircuits.errors import InputError
from kcircuits.lab.own.documents import read_documents
from kcircuits.lab.own.table import read_table
from tests.contracts.own_files import questions, write_lines


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    return partial(write_lines, tmp_path)


# Tables


def test_csv_and_jsonl_are_read_alike(write: Callable[..., Path]) -> None:
    rows = [{"subject": "A, B", "text": 'He said "no".'}, {"subject": "C", "text": "two\nlines"}]
    table = write("a.csv", "subject,text", '"A, B","He said ""no""."', "", 'C,"two', 'lines"')
    lines = write("a.jsonl", *rows)
    assert [dict(row.fields) for row in read_table(table)] == rows
    assert [dict(row.fields) for row in read_table(lines)] == rows
    assert [row.line for row in read_table(table)] == [2, 4]
    tabs = write("a.tsv", "subject\ttext", "A, B\tx")
    assert [dict(row.fields) for row in read_table(tabs)] == [{"subject": "A, B", "text": "x"}]
    empty = write("b.csv", "subject,text,tagged", "A,x,")
    assert [dict(row.fields) for row in read_table(empty)] == [{"subject": "A", "text": "x"}]


@pytest.mark.parametrize(
    ("name", "lines", "line", "message"),
    [
        ("a.txt", ("x",), None, "a file of kind '.txt'"),
        ("a.jsonl", ("",), None, "holds no rows"),
        ("a.csv", ("subject,text",), None, "holds no rows"),
        ("a.jsonl", ('{"a": 1}', "{"), 2, "is not JSON"),
        ("a.jsonl", ('{"a": 1, "a": 2}',), 1, "a key is given twice"),
        ("a.jsonl", ("[1]",), 1, "not an object"),
        ("a.jsonl", ('{"a": NaN}',), 1, "NaN is not a value of JSON"),
        ("a.csv", ("a,b", "1,2", "1,2,3"), 3, "has 3 cells; the first line names 2 fields"),
        ("a.csv", ("a,a", "1,2"), 1, "'a' is named twice"),
        ("a.csv", ("a,", "1,2"), 1, "a field has no name"),
        ("a.csv", ("a,b", '1,"2'), None, "is no row of cells"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(
    write: Callable[..., Path], name: str, lines: tuple[str, ...], line: int | None, message: str
) -> None:
    path = write(name, *lines)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert caught.value.file == str(path)
    assert line is None or caught.value.line == line


FACT = {"subject": "Ann Lee", "relation": "home", "object": "York", "prompt": "{subject} is from"}
PADDED = {
    "a.csv": ("subject , relation,object, prompt", ' Ann Lee , home, "York",\t{subject} is from  '),
    "a.tsv": ("subject\trelation \tobject\tprompt", 'Ann Lee \t home\t "York"\t{subject} is from '),
    "a.jsonl": ({name: f"  {value}\u00a0 " for name, value in FACT.items()},),
}


@pytest.mark.parametrize("name", PADDED)
def test_space_around_a_text_is_no_part_of_it(write: Callable[..., Path], name: str) -> None:
    path = write(name, *PADDED[name])
    assert [dict(row.fields) for row in read_table(path)] == [FACT]
    (question,) = questions(path)
    assert (question.subject, question.relation, question.object) == ("Ann Lee", "home", "York")
    assert [wording.text for wording in question.wordings] == ["{subject} is from"]


def test_space_around_the_texts_of_a_list_is_no_part_of_them(write: Callable[..., Path]) -> None:
    path = write("a.jsonl", {"prompts": [" {subject} a ", 3], "n": 1, "x": None})
    (row,) = read_table(path)
    assert dict(row.fields) == {"prompts": ["{subject} a", 3], "n": 1, "x": None}


# Documents


def test_documents_take_their_frequency_from_their_number(write: Callable[..., Path]) -> None:
    rows = [{"subject": s, "text": f"{s} {i}"} for s, n in zip("abcd", (1, 2, 5, 6), strict=True)
            for i in range(n)]  # fmt: skip
    found = {each.subject: each.frequency for each in read_documents(write("d.jsonl", *rows))}
    assert found == {"a": "low", "b": "medium", "c": "medium", "d": "high"}
    given = write("e.csv", "subject,text,frequency,tagged", "a,x,rare,<A> x </>")
    (document,) = read_documents(given)
    assert (document.frequency, document.tagged, document.text) == ("rare", "<A> x </>", "x")


@pytest.mark.parametrize(
    ("rows", "line", "field", "message"),
    [
        ([{"subject": "a"}], 1, "text", "field 'text' is missing"),
        ([{"subject": "a", "text": "  "}], 1, "text", "text is blank"),
        ([{"subject": "a", "text": 3}], 1, "text", "text is 3, not text"),
        ([{"subject": "a", "text": "b\0"}], 1, "text", "NUL"),
        ([{"subject": "a", "text": "b", "txt": "c"}], 1, "txt", "field 'txt' is not known"),
        (
            [{"subject": "a", "text": "b", "frequency": f} for f in ("low", "high")],
            2,
            "frequency",
            "'high' here and 'low' before",
        ),
    ],
)
def test_documents_that_break_a_rule_are_refused(
    write: Callable[..., Path], rows: list[Any], line: int, field: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_documents(write("d.jsonl", *rows))
    assert (caught.value.line, caught.value.field) == (line, field)


# Facts


def test_rows_of_a_fact_come_together(write: Callable[..., Path]) -> None:
    path = write(
        "f.csv",
        "subject,relation,object,prompt,prompt_2,use,kind,source",
        "Peru,capital,Lima,The capital of {subject} is,In {subject} it is,discovery,,wiki",
        "Peru,capital,Lima,Rulers of {subject} sit in,,probe,paraphrase,",
        "Peru,capital,Cusco,Long ago {subject} had,,,,",
    )
    lima, cusco = questions(path)
    assert (lima.id, cusco.id) == ("capital-peru", "capital-peru-2")
    assert [(w.text, dict(w.options), w.row.line) for w in lima.wordings] == [
        ("The capital of {subject} is", {"use": "discovery"}, 2),
        ("In {subject} it is", {"use": "discovery"}, 2),
        ("Rulers of {subject} sit in", {"use": "probe", "kind": "paraphrase"}, 3),
    ]
    assert dict(lima.strata) == {"source": "wiki"}
    assert dict(cusco.strata) == {}
    listed = write("g.jsonl", {"subject": "a", "relation": "r", "object": "o", "id": "x",
                               "prompts": ["{subject} b", "c {subject}"], "n": 3})  # fmt: skip
    (one,) = questions(listed)
    assert (one.id, len(one.wordings), dict(one.strata)) == ("x", 2, {"n": "3"})


BASE = {"subject": "a", "relation": "r", "object": "o", "prompt": "{subject} b"}


@pytest.mark.parametrize(
    ("rows", "line", "field", "message"),
    [
        ([{**BASE, "prompt": "no slot"}], 1, "prompt", "holds {subject} 0 times"),
        ([{**BASE, "prompt": "{subject} {subject}"}], 1, "prompt", "holds {subject} 2 times"),
        ([{**BASE, "prompt": "  "}], 1, "prompt", "prompt is blank"),
        ([{k: v for k, v in BASE.items() if k != "prompt"}], 1, "prompt", "has no prompt"),
        ([{**BASE, "prompts": "x"}], 1, "prompts", "prompts is not a list"),
        ([{**BASE, "prompts": [3]}], 1, r"prompts[0]", "is 3, not text"),
        ([{**BASE, "use": "testing"}], 1, "use", "use is 'testing'"),
        ([{**BASE, "kind": "rephrased"}], 1, "kind", "kind is 'rephrased'"),
        ([{**BASE, "object": None}], 1, "object", "object is None"),
        ([{**BASE, "x": [1]}], 1, "x", r"x is \[1\]"),
        ([BASE, {**BASE, "x": "1"}, {**BASE, "x": "2"}], 3, "x", "'1' in another row"),
        ([{**BASE, "id": "i"}, {**BASE, "id": "j"}], 2, "id", "'i' before"),
        ([{**BASE, "id": "i"}, {**BASE, "subject": "b", "id": "i"}], 2, "id", "that of line 1"),
    ],
)
def test_facts_that_break_a_rule_are_refused(
    write: Callable[..., Path], rows: list[Any], line: int, field: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        questions(write("f.jsonl", *rows))
    assert (caught.value.line, caught.value.field) == (line, field)


@pytest.mark.parametrize(
    ("rows", "line", "field", "before"),
    [
        ([BASE, BASE], 2, "prompt", "line 1, prompt:"),
        ([{**BASE, "prompt_2": " {subject} b "}], 1, "prompt_2", "line 1, prompt:"),
        ([{**BASE, "prompts": ["c {subject}", "{subject} b"]}], 1, "prompts[1]", "line 1, prompt:"),
        ([{**BASE, "use": "discovery"}, {**BASE, "use": "probe"}], 2, "prompt", "line 1, prompt:"),
        ([BASE, {**BASE, "template": "raw"}], 2, "prompt", "line 1, prompt:"),
    ],
)
def test_a_wording_that_is_there_twice_is_refused(
    write: Callable[..., Path], rows: list[Any], line: int, field: str, before: str
) -> None:
    path = write("f.jsonl", *rows)
    with pytest.raises(InputError) as caught:
        questions(path)
    error = caught.value
    assert (error.file, error.line, error.field) == (str(path), line, field)
    assert error.message == f"fact (a, r, o): {field} has the wording of {before} '{{subject}} b'"


def test_facts_may_share_a_wording_and_a_template_makes_another_prompt(
    write: Callable[..., Path],
) -> None:
    rows = [BASE, {**BASE, "subject": "b"}, {**BASE, "object": "p"}, {**BASE, "template": "chat"}]
    found = questions(write("f.jsonl", *rows))
    assert [len(question.wordings) for question in found] == [2, 1, 1]
