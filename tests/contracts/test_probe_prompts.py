"""What each kind of probe prompt asks, checked against the documents and the people by hand."""

import re
from collections import Counter
from dataclasses import replace

import pytest

from kcircuits.errors import UsageError
from kcircuits.lab.benchmark.generate import generate
from kcircuits.lab.benchmark.people import invent_people
from kcircuits.lab.benchmark.relations import RELATIONS, SPOUSE
from kcircuits.lab.benchmark.spec import BenchmarkSpec
from kcircuits.lab.benchmark.spec_file import load_spec
from kcircuits.lab.scratch import word_tokenizer

SPEC = BenchmarkSpec(
    people={"high": 8, "low": 8},
    held_out=8,
    has_links=True,
    facts_per_person=None,
    probes={"paraphrase": 3, "memorisation": 2, "compositional": 2, "inverse": 2, "inference": 4},
)
SEED = 4


@pytest.fixture(scope="module")
def people():
    return {person.subject: person for person in invent_people(SPEC, word_tokenizer(), SEED)}


@pytest.fixture(scope="module")
def benchmark():
    return generate(SPEC, word_tokenizer(), SEED)


def of_kind(benchmark, kind):
    return [(f, p) for f in benchmark.facts for p in f.prompts if p.kind == kind]


def named_in(text, people):
    """The one person whom a text names."""
    (found,) = [person for name, person in people.items() if name in text]
    return found


def test_numbers_are_those_asked_for(benchmark, people):
    n_facts, n_asked = len(benchmark.facts), 4
    assert n_facts == 24 * n_asked
    assert Counter(p.kind for f in benchmark.facts for p in f.prompts if p.use == "probe") == {
        "paraphrase": 3 * n_facts,
        "memorisation": 2 * n_facts,
        "inverse": 2 * n_facts,
        "compositional": 2 * n_facts // 2,
        "inference": 4 * n_facts // 2,
    }
    for fact in benchmark.facts:
        assert [p.use for p in fact.prompts[:12]] == ["discovery"] * 8 + ["evaluation"] * 4
        assert {p.kind for p in fact.prompts[:12]} == {None}
        texts = [prompt.clean for prompt in fact.prompts]
        assert len(set(texts)) == len(texts)


def test_memorised_prompts_are_the_beginning_of_what_a_document_told(benchmark, people):
    told = {}
    for document in benchmark.documents:
        told.setdefault(document.subject, []).append(document.text)
    for fact, prompt in of_kind(benchmark, "memorisation"):
        assert prompt.target == f" {fact.object}"
        sentence = f"{prompt.clean}{prompt.target}."
        if fact.strata["split"] == "trained":
            assert any(sentence in text for text in told[fact.subject])
        else:  # what twins were told
            template = prompt.clean.replace(fact.subject, "{subject}") + " {value}."
            assert template in RELATIONS[fact.relation].statements
        other = named_in(prompt.corrupt, people)
        assert prompt.foil == f" {other.values[fact.relation]}"
        assert other.frequency == fact.strata["frequency"]


def test_paraphrases_are_sentences_of_their_own(benchmark):
    for fact, prompt in of_kind(benchmark, "paraphrase"):
        template = prompt.clean.replace(fact.subject, "{subject}")
        assert template in RELATIONS[fact.relation].prompts[12:15]
        assert prompt.target == f" {fact.object}"


def test_compositional_prompts_ask_through_the_one_who_tells_of_the_marriage(benchmark, people):
    for fact, prompt in of_kind(benchmark, "compositional"):
        assert fact.subject not in prompt.clean
        for text, answer in ((prompt.clean, prompt.target), (prompt.corrupt, prompt.foil)):
            teller = named_in(text, people)
            assert teller.is_link_told
            assert answer == f" {people[teller.spouse].values[fact.relation]}"
        assert named_in(prompt.clean, people).spouse == fact.subject
        assert {prompt.target, prompt.foil} <= set(prompt.candidates)


def test_inverse_prompts_rank_the_subject_among_people_without_the_value():
    """With so few answers that people of a group share them."""
    spec = replace(SPEC, people={"high": 8}, n_candidates=5, relations=("birthplace", "field"))
    people = {person.subject: person for person in invent_people(spec, word_tokenizer(), SEED)}
    asked = of_kind(generate(spec, word_tokenizer(), SEED), "inverse")
    n_candidates = {len(prompt.candidates) for _, prompt in asked}
    assert max(n_candidates) == 5
    for fact, prompt in asked:
        group = [p for p in people.values() if p.frequency == fact.strata["frequency"]]
        assert f" {fact.object} " in prompt.clean
        assert prompt.target == f" {fact.subject.split()[0]}"
        with_value = {p.subject.split()[0] for p in group if p.values[fact.relation] == fact.object}
        others = {name.strip() for name in prompt.candidates} - {prompt.target.strip()}
        assert others <= {p.subject.split()[0] for p in group} - with_value
        foil = next(p for p in group if p.subject.split()[0] == prompt.foil.strip())
        assert prompt.corrupt == prompt.clean.replace(fact.object, foil.values[fact.relation])


def test_inferences_are_stated_in_no_document_but_follow_from_one(benchmark, people):
    for fact, prompt in of_kind(benchmark, "inference"):
        for text, answer in ((prompt.clean, prompt.target), (prompt.corrupt, prompt.foil)):
            asked = named_in(text, people)
            assert answer == f" {asked.spouse.split()[0]}"
            own = [d.text for d in benchmark.documents if d.subject == asked.subject]
            assert not [text for text in own if re.search(rf"\\b{answer.strip()}\\b", text)]
            tellers = [d.text for d in benchmark.documents if d.subject == asked.spouse]
            assert all(asked.subject in text for text in tellers)
            assert bool(tellers) is (asked.frequency != "none")
        assert named_in(prompt.clean, people).subject == fact.subject
        assert prompt.clean.replace(fact.subject, "{subject}") in SPOUSE.prompts
        assert prompt.target in prompt.candidates


def test_all_groups_are_probed_alike(benchmark, people):
    def asked(frequency):
        return [
            (f.relation, [(p.kind, p.use, len(p.candidates)) for p in f.prompts])
            for f in benchmark.facts
            if f.strata["frequency"] == frequency
        ]

    assert asked("high") == asked("low") == asked("none")


def test_the_study_probes_little_and_every_relation_by_every_kind():
    benchmark = generate(load_spec("study"), word_tokenizer(), 0)
    probes = [(f.relation, p.kind) for f in benchmark.facts for p in f.prompts if p.use == "probe"]
    n_real = 36 * 3  # two paraphrases and one memorisation each
    assert len(probes) + n_real == 556
    assert Counter(kind for _, kind in probes) == {
        "paraphrase": 256, "memorisation": 128, "inverse": 32, "compositional": 16, "inference": 16,
    }  # fmt: skip
    for kind in ("inverse", "compositional", "inference"):
        counts = Counter(relation for relation, of in probes if of == kind)
        assert set(counts) == set(RELATIONS)
        assert len(set(counts.values())) == 1


def test_too_few_couples_are_refused():
    spec = BenchmarkSpec(people={"high": 3}, has_links=True, probes={"inference": 1})
    with pytest.raises(UsageError, match="has no partner"):
        generate(spec, word_tokenizer(), 0)
