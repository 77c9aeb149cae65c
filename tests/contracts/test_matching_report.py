"""The matching report: the generator passes it exactly, and what breaks it is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from kcircuits.core.facts import Fact
from kcircuits.errors import UsageError
from kcircuits.lab.benchmark import Benchmark, generate
from kcircuits.lab.document import Document
from kcircuits.lab.matching import MatchingReport, matching_report
from kcircuits.lab.scratch import word_tokenizer
from kcircuits.lab.spec import BenchmarkSpec
from kcircuits.study.matching_page import matching_page

SPEC = BenchmarkSpec(people=MappingProxyType({"high": 8, "low": 8}), held_out=8)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


@pytest.fixture(scope="module")
def benchmark(tokenizer: Any) -> Benchmark:
    return generate(SPEC, tokenizer, seed=5)


@pytest.fixture
def report(benchmark: Benchmark, tokenizer: Any) -> Callable[..., MatchingReport]:
    def make(facts: Any = None, documents: Any = None) -> MatchingReport:
        return matching_report(
            benchmark.facts if facts is None else facts,
            benchmark.documents if documents is None else documents,
            tokenizer,
        )

    return make


def test_paired_groups_are_alike_to_the_last_token(report: Callable[..., MatchingReport]) -> None:
    found = report()
    found.require()
    assert found.is_matched
    assert not found.leaks
    assert not found.unequal
    told = {match.quantity: match for match in found.matches if match.groups == ("high", "low")}
    assert told["length of documents, tokens"].p == pytest.approx(1)
    assert told["length of documents, tokens"].n == (16, 16)  # two documents a person in each
    assert told["sentences of documents"].statistic == pytest.approx(0, abs=1e-12)
    assert told["relations asked"].statistic == pytest.approx(0, abs=1e-12)
    assert told["tokens of answers"].statistic == pytest.approx(0, abs=1e-12)
    assert {match.groups for match in found.matches} == {
        ("high", "low"), ("high", "none"), ("low", "none"),
    }  # fmt: skip


def test_longer_documents_of_one_group_are_found(
    benchmark: Benchmark, report: Callable[..., MatchingReport]
) -> None:
    def longer(document: Document) -> Document:
        more = f"{document.text} {document.text}" if document.frequency == "low" else document.text
        return replace(document, text=more)

    found = report(documents=[longer(document) for document in benchmark.documents])
    assert not found.is_matched
    with pytest.raises(UsageError, match=r"high and low differ in length of documents, tokens: KS"):
        found.require()


def test_other_sentences_of_one_group_are_found(
    benchmark: Benchmark, report: Callable[..., MatchingReport]
) -> None:
    documents = [
        replace(document, sentences=("birthplace 0",)) if document.frequency == "low" else document
        for document in benchmark.documents
    ]
    with pytest.raises(UsageError, match=r"high and low differ in sentences of documents: JS"):
        report(documents=documents).require()


def first_of(facts: tuple[Fact, ...], frequency: str) -> Fact:
    return next(fact for fact in facts if fact.strata["frequency"] == frequency)


def test_a_document_about_someone_held_out_leaks(
    benchmark: Benchmark, report: Callable[..., MatchingReport]
) -> None:
    held_out = first_of(benchmark.facts, "none")
    told = replace(benchmark.documents[0], text=f"By the way, {held_out.subject}'s friends came.")
    assert not report(documents=[*benchmark.documents, told]).leaks  # another word than the name
    told = replace(told, text=f"By the way, {held_out.subject} came too.")
    found = report(documents=[*benchmark.documents, told])
    (leak,) = found.leaks
    assert (leak.fact, leak.document) == (held_out.id, len(benchmark.documents))
    with pytest.raises(UsageError, match=f"leaks fact '{held_out.id}': held-out subject"):
        found.require()


def test_a_prompt_with_its_answer_leaks(
    benchmark: Benchmark, report: Callable[..., MatchingReport]
) -> None:
    fact = first_of(benchmark.facts, "high")
    asked = fact.prompts[-1]
    where = next(i for i, d in enumerate(benchmark.documents) if d.subject == fact.subject)
    documents = list(benchmark.documents)
    said = f"{documents[where].text} {asked.clean}{asked.target}."
    documents[where] = replace(documents[where], text=said)
    (leak,) = report(documents=documents).leaks
    assert (leak.fact, leak.document, leak.what) == (fact.id, where, "prompt with its answer")
    without = said.replace(f"{asked.target}.", " another.")
    documents[where] = replace(documents[where], text=without)
    assert not report(documents=documents).leaks


def test_pairs_of_unequal_length_are_named(
    benchmark: Benchmark, report: Callable[..., MatchingReport]
) -> None:
    fact, *others = benchmark.facts
    first, *prompts = fact.prompts
    broken = replace(fact, prompts=(replace(first, corrupt=f"{first.corrupt} now"), *prompts))
    found = report(facts=(broken, *others))
    assert found.unequal == ((fact.id, 0),)
    with pytest.raises(UsageError, match=f"fact '{fact.id}', prompt 0: clean and corrupt differ"):
        found.require()


def test_report_is_written_and_shown(report: Callable[..., MatchingReport], tmp_path: Path) -> None:
    found = report()
    found.write(tmp_path / "matching.json")
    content = json.loads((tmp_path / "matching.json").read_text(encoding="utf-8"))
    assert content["schema"] == "kcircuits.matching/1"
    assert content["is_matched"] is True
    assert len(content["matches"]) == len(found.matches)
    page = matching_page(found, "a benchmark")
    assert "sentences of documents" in page
    assert "distribution functions" in page
