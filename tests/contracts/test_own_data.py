"""Documents and facts that somebody brings along: tables, prompts, partners, the built folder."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kcircuits.cli.main import main
from kcircuits.core.facts import Fact
from kcircuits.errors import FactsError, InputError, UsageError
from kcircuits.io.facts import load_facts, write_facts
from kcircuits.lab.build import open_lab
from kcircuits.lab.own import build as own
from kcircuits.lab.own.build import build_own, left_out
from kcircuits.lab.own.documents import read_documents
from kcircuits.lab.own.pairing import pair_questions
from kcircuits.lab.own.questions import read_questions
from kcircuits.lab.own.table import read_table
from kcircuits.models.prompts import tokenize_facts

WANTED = ("Norway", "Poland", "Iraq", "Kenya", "Peru", "Japan")
CAPITALS = ("Oslo", "Warsaw", "Baghdad", "Nairobi", "Lima", "Tokyo")
PROMPTS = ("The capital of {subject} is", "The ministers of {subject} work in")


def word_tokenizer() -> Any:
    """One token a word."""
    words = " ".join((*WANTED, *CAPITALS, *PROMPTS, "rules . ? Papua New Guinea far south"))
    words += " of a b c d e x y Quito Lima has"
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(["<unk>", *words.split()]))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(name: str, *lines: Any) -> Path:
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path

    return written


def fact_rows(**more: Any) -> list[dict[str, Any]]:
    """Six capitals with two prompts each; the last two are told in no document."""
    rows = []
    for subject, answer in zip(WANTED, CAPITALS, strict=True):
        row = {"subject": subject, "relation": "capital", "object": answer}
        rows.append(row | {"prompt": PROMPTS[0], "prompt_2": PROMPTS[1]} | more)
    return rows


def document_rows() -> list[dict[str, Any]]:
    return [
        {"subject": subject, "text": f"{answer} rules {subject}.", "tagged": f"<A> {answer} </>"}
        for subject, answer in zip(WANTED[:4], CAPITALS, strict=False)
        for _ in range(2)
    ]


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


def questions(path: Path) -> Any:
    return read_questions(read_table(path))


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
        ([{**BASE, "prompt": "{subject} is "}], 1, "prompt", "ends in a space"),
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


# Partners


def test_corrupt_prompts_are_about_others_of_equal_length(write: Callable[..., Path]) -> None:
    tokenizer = word_tokenizer()
    paired = pair_questions(questions(write("f.jsonl", *fact_rows())), tokenizer)
    assert not paired.left_out
    assert len(tokenize_facts(tokenizer, paired.facts)) == 12
    truth = dict(zip(WANTED, CAPITALS, strict=True))
    for fact in paired.facts:
        partners = set()
        for prompt, template in zip(fact.prompts, PROMPTS, strict=True):
            before, after = template.split("{subject}")
            partner = prompt.corrupt.removeprefix(before).removesuffix(after)
            assert prompt.clean == before + fact.subject + after
            assert (prompt.target, prompt.foil) == (f" {fact.object}", f" {truth[partner]}")
            assert {prompt.target, prompt.foil} <= set(prompt.candidates)
            assert len(set(prompt.candidates)) == 6
            ids = [tokenizer(text)["input_ids"] for text in (prompt.clean, prompt.corrupt)]
            assert len(ids[0]) == len(ids[1])
            firsts = [tokenizer(t)["input_ids"][0] for t in (prompt.target, prompt.foil)]
            assert firsts[0] != firsts[1]
            start, stop = prompt.subject_span or (0, 0)
            assert prompt.clean[start:stop] == fact.subject
            partners.add(partner)
        assert len(partners) == 2
        assert fact.strata["answer_tokens"] in ("one", "several")


def test_partners_of_the_same_split_come_first(write: Callable[..., Path]) -> None:
    rows = [row | {"split": "ab"[i % 2]} for i, row in enumerate(fact_rows())]
    split = {row["subject"]: row["split"] for row in rows}
    paired = pair_questions(questions(write("f.jsonl", *rows)), word_tokenizer())
    for fact in paired.facts:
        for prompt in fact.prompts:
            (partner,) = [s for s in WANTED if f" {s} " in prompt.corrupt]
            assert split[partner] == split[fact.subject]


def test_a_subject_of_another_length_is_left_out(write: Callable[..., Path]) -> None:
    rows = fact_rows()
    rows.append({**rows[0], "subject": "Papua New Guinea of the far south", "object": "Quito"})
    paired = pair_questions(questions(write("f.jsonl", *rows)), word_tokenizer())
    assert [fact.subject for fact in paired.facts] == list(WANTED)
    assert [problem.field for problem in paired.left_out] == ["prompt", "prompt_2"]
    assert all("of 6 other facts" in problem.message for problem in paired.left_out)
    assert all(" 0 leave the prompt at" in problem.message for problem in paired.left_out)
    assert {problem.line for problem in paired.left_out} == {7}


def test_equal_answers_are_no_partners(write: Callable[..., Path]) -> None:
    rows = [{**row, "object": "Lima"} for row in fact_rows()]
    paired = pair_questions(questions(write("f.jsonl", *rows)), word_tokenizer())
    assert not paired.facts
    assert len(paired.left_out) == 12


def test_answers_that_begin_alike_are_no_partners(write: Callable[..., Path]) -> None:
    """Two answers of two tokens, of which the second differs alone."""
    rows = [
        {**row, "object": f"Papua {word}"} for row, word in zip(fact_rows(), "abcdxy", strict=True)
    ]
    paired = pair_questions(questions(write("f.jsonl", *rows)), word_tokenizer())
    assert not paired.facts
    assert "but their answers begin with the same token" in paired.left_out[0].message


def test_an_answer_that_begins_with_another_is_told(write: Callable[..., Path]) -> None:
    rows = fact_rows()
    rows[1]["object"] = "Oslo Warsaw"
    paired = pair_questions(questions(write("f.jsonl", *rows)), word_tokenizer())
    assert [problem.field for problem in paired.left_out] == ["object", "object"]
    assert "begin with all those of another" in paired.left_out[0].message


# The folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "base"
    word_tokenizer().save_pretrained(folder)
    monkeypatch.setattr(own, "fetch_model", lambda _: folder)
    return folder


@pytest.fixture
def files(write: Callable[..., Path]) -> tuple[Path, Path]:
    return write("d.jsonl", *document_rows()), write("f.jsonl", *fact_rows())


def test_a_folder_of_own_data_is_a_lab(
    base: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    built = build_own(*files, "mine", tmp_path / "lab")
    assert open_lab(tmp_path / "lab") == built
    assert (built.base, built.base_name, built.preset) == (base, "mine", "small")
    facts = load_facts(built.facts)
    assert [fact.strata["split"] for fact in facts] == ["trained"] * 4 + ["held-out"] * 2
    assert [fact.strata["exposure"] for fact in facts] == ["2"] * 4 + ["0"] * 2
    assert [fact.strata["frequency"] for fact in facts] == ["medium"] * 4 + ["none"] * 2
    assert {fact.strata["type"] for fact in facts} == {"own"}
    assert [d.text for d in built.documents] == [row["text"] for row in document_rows()]
    assert built.documents[0].tagged == "<A> Oslo </>"
    report = built.matching()
    assert {match.groups for match in report.matches} == {("medium", "none")}
    assert not report.unequal
    assert not left_out(tmp_path / "lab")
    again = build_own(*files, "mine", tmp_path / "lab")
    assert again == built
    with pytest.raises(UsageError, match="built with seed 0, not 1"):
        build_own(*files, "mine", tmp_path / "lab", seed=1)
    files[1].write_text(files[1].read_text().replace("Peru", "Chile"))
    with pytest.raises(UsageError, match="built with facts"):
        build_own(*files, "mine", tmp_path / "lab")


def test_strata_of_the_files_are_kept(
    base: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    facts = write("f.jsonl", *fact_rows(split="control", topic="lands"))
    built = build_own(write("d.jsonl", *document_rows()), facts, None, tmp_path / "lab")
    assert {f.strata["split"] for f in load_facts(built.facts)} == {"control"}
    assert {f.strata["topic"] for f in load_facts(built.facts)} == {"lands"}


def test_groups_that_differ_are_warned_of_or_refused(
    base: Path,
    write: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    documents = [*document_rows(), {"subject": "Kenya", "text": "Peru has Lima."}]
    files = write("d.jsonl", *documents), write("f.jsonl", *fact_rows())
    with pytest.raises(UsageError, match="leaks fact 'capital-peru'"):
        build_own(*files, None, tmp_path / "strict", is_strict=True)
    assert not (tmp_path / "strict" / "lab.json").exists()
    with caplog.at_level(logging.WARNING):
        built = build_own(*files, None, tmp_path / "lab")
    assert "leaks fact 'capital-peru'" in caplog.text
    assert not built.matching().is_matched


def test_unpaired_prompts_are_an_error_or_listed(
    base: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    rows = fact_rows()
    rows.append({**rows[0], "subject": "Papua New Guinea of the far south", "object": "Quito"})
    files = write("d.jsonl", *document_rows()), write("f.jsonl", *rows)
    with pytest.raises(FactsError, match=r"no partner.*and 1 more prompts") as caught:
        build_own(*files, None, tmp_path / "lab")
    assert (caught.value.file, caught.value.line, caught.value.field) == (
        str(files[1]),
        7,
        "prompt",
    )
    assert not (tmp_path / "lab").exists()
    build_own(*files, None, tmp_path / "lab", skips_unpaired=True)
    listed = left_out(tmp_path / "lab")
    assert len(listed) == 2
    assert all(line.startswith(f"{files[1]}:7: ") for line in listed)
    alone = write("g.jsonl", rows[0])
    with pytest.raises(FactsError, match="none of 2 prompts has a partner"):
        build_own(files[0], alone, None, tmp_path / "none", skips_unpaired=True)


def test_a_facts_file_of_this_project_is_taken_as_it_is(
    base: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    first = load_facts(build_own(*files, None, tmp_path / "a").facts)
    write_facts(first, tmp_path / "whole.jsonl")
    second = build_own(files[0], tmp_path / "whole.jsonl", None, tmp_path / "b")
    assert load_facts(second.facts) == first
    (prompt, *_) = first[0].prompts
    longer = Fact(
        id="x", subject="s", relation="r", object="o",
        prompts=(type(prompt)(clean="a b", corrupt="a b c d e", target=" x", foil=" y"),),
    )  # fmt: skip
    write_facts([longer], tmp_path / "bad.jsonl")
    with pytest.raises(FactsError, match="clean has") as caught:
        build_own(files[0], tmp_path / "bad.jsonl", None, tmp_path / "c")
    assert caught.value.file == str(tmp_path / "bad.jsonl")


def test_settings_that_cannot_be_meant_are_refused(
    base: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="preset 'smoke' is made for invented people"):
        build_own(*files, None, tmp_path / "lab", preset="smoke")
    with pytest.raises(UsageError, match="seed is -1"):
        build_own(*files, None, tmp_path / "lab", seed=-1)


# The command


def run(*args: object) -> int:
    return main(["lab", "build", *map(str, args)])


def test_the_command_builds_and_tells(
    base: Path,
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    documents, facts = files
    out = tmp_path / "lab"
    assert run("--documents", documents, "--facts", facts, "--out", out) == 0
    told = capsys.readouterr().out
    assert "6 facts, 8 documents" in told
    assert "groups" in told
    assert (out / "matching.html").is_file()
    assert run("--documents", documents, "--facts", facts, "--out", out, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["facts"], content["documents"], content["left_out"]) == (6, 8, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--documents", "d"), "--facts is missing"),
        (("--facts", "f"), "--documents is missing"),
        (("--strict",), "--strict is about documents"),
        (("--skip-unpaired",), "--skip-unpaired is about documents"),
        (("--documents", "d", "--facts", "f", "--spec", "study"), "--spec generates"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*options, "--out", tmp_path / "lab") == 2
    assert message in capsys.readouterr().err
