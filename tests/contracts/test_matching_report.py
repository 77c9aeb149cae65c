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
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.generate import Benchmark, generate
from kcircuits.lab.benchmark.matching import MatchingReport, matching_report
from kcircuits.lab.benchmark.spec import BenchmarkSpec, Tolerances
from kcircuits.lab.scratch import word_tokenizer
from kcircuits.plots.matching import MAX_CATEGORIES, OTHERS, shares_figure
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


def test_leaks_stand_on_the_page(
    benchmark: Benchmark, report: Callable[..., MatchingReport]
) -> None:
    held_out = first_of(benchmark.facts, "none")
    told = replace(benchmark.documents[0], text=f"{held_out.subject} came too.")
    page = matching_page(report(documents=[*benchmark.documents, told]), "a benchmark")
    assert "held-out subject" in page
    assert held_out.id in page


def test_other_orders_and_tokens_of_one_group_are_found(
    benchmark: Benchmark, report: Callable[..., MatchingReport]
) -> None:
    def changed(change: Callable[[Document], Document]) -> list[Document]:
        return [change(d) if d.frequency == "low" else d for d in benchmark.documents]

    def told_first(document: Document) -> Document:
        ordered = tuple(sorted(document.sentences))
        return replace(document, sentences=ordered)

    with pytest.raises(UsageError, match="differ in relations of documents, in order"):
        report(documents=changed(told_first)).require()
    other = changed(lambda d: replace(d, text="and " * len(d.text.split())))
    broken = {m.quantity for m in report(documents=other).matches if not m.is_matched}
    assert "tokens of documents, without names" in broken
    long = changed(lambda d: replace(d, length="long"))
    broken = {m.quantity for m in report(documents=long).matches if not m.is_matched}
    assert broken == {"kinds of documents"}


def test_a_person_told_of_less_often_than_stated_is_named(
    benchmark: Benchmark, report: Callable[..., MatchingReport]
) -> None:
    found = report(documents=benchmark.documents[1:])
    assert found.miscounted == (benchmark.facts[0].id,)
    more = report(documents=[*benchmark.documents, benchmark.documents[-1]])
    told = benchmark.documents[-1].subject
    assert more.miscounted == tuple(f.id for f in benchmark.facts if f.subject == told)
    with pytest.raises(UsageError, match="is told of more or less often than its exposure"):
        found.require()


def test_tolerances_decide_what_fails(benchmark: Benchmark, tokenizer: Any) -> None:
    held_out = first_of(benchmark.facts, "none")
    told = replace(benchmark.documents[0], text=f"{held_out.subject} came too.", subject="x")
    first, *prompts = held_out.prompts
    broken = replace(held_out, prompts=(replace(first, corrupt=f"{first.corrupt} now"), *prompts))
    facts = [broken if fact is held_out else fact for fact in benchmark.facts]

    def passes(**allowed: Any) -> bool:
        found = matching_report(
            facts, [*benchmark.documents, told], tokenizer, tolerances=Tolerances(**allowed)
        )
        return found.is_matched

    assert passes(leaks=1, unequal=1)
    assert not passes(leaks=1)
    assert not passes(unequal=1)
    shorter = [
        replace(d, text=d.text.rsplit(".", 2)[0]) if d.frequency == "low" and not i % 5 else d
        for i, d in enumerate(benchmark.documents)
    ]
    ps = [
        match.p
        for match in matching_report(benchmark.facts, shorter, tokenizer).matches
        if match.quantity == "length of documents, tokens"
    ]
    assert ps[0] is not None
    assert 0.05 < ps[0] < 0.99
    strict = Tolerances(ks_p=0.99)
    assert not matching_report(benchmark.facts, shorter, tokenizer, tolerances=strict).is_matched


def test_many_categories_are_shown_as_the_frequent_ones_and_the_rest() -> None:
    many = [f"c{i:03d}" for i in range(100)] + ["c000"] * 9
    figure = shares_figure("words", {"a": many, "b": many[:50]})
    (first, second) = figure.data
    assert len(first.x) == MAX_CATEGORIES == len(set(first.x))
    shares = dict(zip(first.x, first.y, strict=True))
    assert shares["c000"] == pytest.approx(10 / 109)
    assert shares[OTHERS] == pytest.approx((109 - 10 - (MAX_CATEGORIES - 2)) / 109)
    assert sum(first.y) == pytest.approx(1) == pytest.approx(sum(second.y))
