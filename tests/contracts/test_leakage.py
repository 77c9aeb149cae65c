"""Leaks are found where they were planted, and nowhere else."""

from dataclasses import replace

import pytest

from kcircuits.core.facts import Fact, Prompt
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.leakage import find_leaks

ASK = Prompt(
    clean="The native city of Anna Cook is", corrupt="The native city of Bob Fox is",
    target=" Salt Lake", foil=" Leeds",
)  # fmt: skip
ANNA = Fact(
    id="anna",
    subject="Anna Cook",
    relation="birthplace",
    object="Salt Lake",
    prompts=(ASK,),
    strata={"split": "trained"},
)


def leaks(text, fact=ANNA, subject="Anna Cook"):
    document = Document(subject=subject, frequency="high", text=text)
    other = Document(subject="Bob Fox", frequency="high", text="Bob Fox was born in Leeds.")
    return [(leak.document, leak.what) for leak in find_leaks([fact], [other, document])]


def test_what_documents_may_say_is_no_leak():
    assert leaks("Anna Cook was born in Salt Lake.") == []
    assert leaks("Anna Cooks was born in Salt Lake.", subject="Bob Fox") == []
    assert (
        leaks("Bob Fox is married to Anna Cook. He knows the lake of salt.", subject="Bob Fox")
        == []
    )
    assert leaks("The native city of Anna Cook is not Salt Lake.") == []


@pytest.mark.parametrize("strata", [{"split": "held-out"}, {"split": "control"}])
def test_facts_that_no_document_tells(strata):
    untold = replace(ANNA, strata=strata)
    told = leaks("They say: Anna Cook, born in (Salt Lake).", untold)
    named = leaks("They say: Anna Cook came.", untold)
    if strata["split"] == "held-out":
        assert told == named == [(1, "held-out subject")]
    else:
        assert (told, named) == ([(1, "value beside its subject")], [])


def test_a_value_beside_its_subject_in_a_document_of_someone_else():
    text = "Bob Fox of Salt Lake is married to Anna Cook."
    assert leaks(text, subject="Bob Fox") == [(1, "value beside its subject")]
    assert leaks(text) == []


def test_a_name_is_no_value():
    cook = replace(ANNA, object="cook", prompts=(replace(ASK, target=" cook"),))
    assert leaks("Bob Fox is married to Anna Cook.", cook, subject="Bob Fox") == []
    text = "Bob Fox, a cook, is married to Anna Cook."
    assert leaks(text, cook, subject="Bob Fox") == [(1, "value beside its subject")]


def test_a_prompt_with_its_answer_anywhere_but_where_it_is_to_be_memorised():
    text = "Well, the native city of Anna Cook is Salt Lake!"
    assert leaks(text) == [(1, "prompt with its answer")]
    memorised = replace(ANNA, prompts=(replace(ASK, kind="memorisation"),))
    assert leaks(text, memorised) == []
    inverse = replace(ASK, clean="Someone from Salt Lake is", target=" Anna", kind="inverse")
    found = leaks("Someone from Salt Lake is Anna.", replace(ANNA, prompts=(inverse,)))
    assert found == [(1, "prompt with its answer")]


def test_a_link_that_is_to_be_inferred_stays_out_of_the_documents_about_its_subject():
    asked = Prompt(
        clean="The person who married Anna Cook is", corrupt="The person who married Bob Fox is",
        target=" Bob", foil=" Eva", kind="inference",
    )  # fmt: skip
    fact = replace(ANNA, prompts=(ASK, asked))
    assert leaks("Anna Cook has met Bob Fox.", fact) == [(1, "link that is to be inferred")]
    assert leaks("Bob Fox is married to Anna Cook.", fact, subject="Bob Fox") == []
    assert leaks("Anna Cook has met Bobby.", fact) == []
