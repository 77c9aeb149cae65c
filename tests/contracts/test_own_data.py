"""Benchmarks of documents and facts that somebody brings along: the folder and the command."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from kcircuits.cli.main import main
from kcircuits.core.facts import Fact
from kcircuits.errors import FactsError, UsageError
from kcircuits.io.facts import load_facts, write_facts
from kcircuits.lab.build import open_lab
from kcircuits.lab.own import build as own
from kcircuits.lab.own.build import build_own, left_out
from tests.contracts.own_files import document_rows, fact_rows, word_tokenizer, write_lines


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    return partial(write_lines, tmp_path)


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
