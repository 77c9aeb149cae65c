"""Partners for the prompts that somebody brings along."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from kcircuits.lab.own.pairing import pair_questions
from kcircuits.models.prompts import tokenize_facts
from tests.contracts.own_files import (
    CAPITALS,
    PROMPTS,
    WANTED,
    fact_rows,
    questions,
    word_tokenizer,
    write_lines,
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    return partial(write_lines, tmp_path)


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
