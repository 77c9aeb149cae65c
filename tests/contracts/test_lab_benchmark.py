"""What the benchmark promises: aligned prompts, single-token answers, no leakage, paired groups."""

import random

import numpy as np
import pytest

from kcircuits.core.facts import Fact
from kcircuits.errors import UsageError
from kcircuits.lab.benchmark.generate import generate
from kcircuits.lab.benchmark.names import FIRST_NAMES, SURNAMES, invent_names
from kcircuits.lab.benchmark.people import answers_of, invent_people
from kcircuits.lab.benchmark.relations import CAPITAL, RELATIONS
from kcircuits.lab.benchmark.spec import DOCUMENTS, BenchmarkSpec
from kcircuits.lab.scratch import word_tokenizer
from kcircuits.models.prompts import tokenize_facts

PEOPLE = {"high": 9, "medium": 6, "low": 9, "none": 5}
SPEC = BenchmarkSpec(people={"high": 9, "medium": 6, "low": 9}, held_out=5)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.fixture(scope="module")
def benchmark(tokenizer):
    return generate(SPEC, tokenizer, seed=3)


def with_frequency(facts, frequency):
    return [fact for fact in facts if fact.strata["frequency"] == frequency]


def test_strata_have_the_numbers_asked_for(benchmark):
    assert {f: len(with_frequency(benchmark.facts, f)) for f in PEOPLE} == PEOPLE
    for fact in benchmark.facts:
        split = "held-out" if fact.strata["frequency"] == "none" else "trained"
        assert dict(fact.strata) == {
            "type": "invented",
            "frequency": fact.strata["frequency"],
            "split": split,
            "exposure": str(DOCUMENTS.get(fact.strata["frequency"], 0)),
            "answer_tokens": "one",
        }
    subjects = [fact.subject for fact in benchmark.facts]
    assert len(set(subjects)) == len(subjects) == sum(PEOPLE.values())


def test_each_person_is_told_as_often_as_its_frequency_says(benchmark):
    for fact in benchmark.facts:
        told = [d for d in benchmark.documents if fact.subject in d.text]
        assert len(told) == DOCUMENTS.get(fact.strata["frequency"], 0)
        assert all(d.subject == fact.subject and fact.object in d.text for d in told)
        assert len({d.text for d in told}) == len(told)


def test_prompts_align_and_answers_are_single_tokens(benchmark, tokenizer):
    for fact in benchmark.facts:
        uses = [prompt.use for prompt in fact.prompts]
        assert uses == ["discovery"] * 8 + ["evaluation"] * 4
        for prompt in fact.prompts:
            clean, corrupt = (
                tokenizer(text)["input_ids"] for text in (prompt.clean, prompt.corrupt)
            )
            assert len(clean) == len(corrupt)
            assert clean != corrupt
            for answer in (prompt.target, prompt.foil, *prompt.candidates):
                assert answer.startswith(" ")
                assert len(tokenizer(answer)["input_ids"]) == 1
            assert prompt.target != prompt.foil
            assert len(set(prompt.candidates)) == len(prompt.candidates) == 24
            assert {prompt.target, prompt.foil} <= set(prompt.candidates)
            start, stop = prompt.subject_span
            assert prompt.clean[start:stop] == fact.subject
    assert len(tokenize_facts(tokenizer, benchmark.facts)) == 12 * len(benchmark.facts)


def test_corrupt_prompts_are_true_of_another_person_of_the_group(benchmark, tokenizer):
    people = {person.subject: person for person in invent_people(SPEC, tokenizer, seed=3)}
    for fact in benchmark.facts:
        partners = set()
        for prompt in fact.prompts:
            start, _ = prompt.subject_span
            partner = people[" ".join(prompt.corrupt[start:].split()[:2]).strip(",")]
            assert partner.frequency == fact.strata["frequency"]
            assert prompt.foil == f" {partner.values[fact.relation]}"
            partners.add(partner.subject)
        assert len(partners) >= min(3, PEOPLE[fact.strata["frequency"]] - 1)


def test_no_prompt_is_in_a_document(benchmark):
    texts = "\n".join(document.text for document in benchmark.documents)
    for fact in benchmark.facts:
        assert not any(prompt.clean in texts for prompt in fact.prompts)


@pytest.mark.parametrize("relation", RELATIONS.values(), ids=list(RELATIONS))
def test_no_sentence_of_a_relation_is_statement_and_prompt(relation):
    assert len(set(relation.prompts)) == len(relation.prompts) == 16
    assert len(set(relation.statements)) == len(relation.statements) >= DOCUMENTS["high"]
    told = [s.format(subject="Ada", value="X") for r in RELATIONS.values() for s in r.statements]
    for prompt in relation.prompts:
        assert prompt.count("{subject}") == 1
        assert not any(prompt.format(subject="Ada") in sentence for sentence in told)
    assert len(set(relation.values)) == len(relation.values)


def test_groups_are_told_in_the_same_words(benchmark, tokenizer):
    people = {person.subject: person for person in invent_people(SPEC, tokenizer, seed=3)}

    def slots(document):
        text = document.text.replace(document.subject, "@")
        for name, value in people[document.subject].values.items():
            text = text.replace(value, f"#{name}")
        return text

    told = {
        fact.subject: [slots(d) for d in benchmark.documents if d.subject == fact.subject]
        for fact in benchmark.facts
    }
    high, low = (with_frequency(benchmark.facts, f) for f in ("high", "low"))
    for often, seldom in zip(high, low, strict=True):
        assert told[often.subject][: DOCUMENTS["low"]] == told[seldom.subject]
    for name in SPEC.relations:
        values = [
            sorted(p.values[name] for p in people.values() if p.frequency == f)
            for f in ("high", "low")
        ]
        assert values[0] == values[1]


def test_held_out_people_are_in_no_document(benchmark):
    texts = " ".join(document.text for document in benchmark.documents)
    held_out = with_frequency(benchmark.facts, "none")
    assert held_out
    assert not any(fact.subject in texts for fact in held_out)


def global_state():
    return random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002


def test_a_seed_decides_everything_and_global_state_is_left_alone(tokenizer, benchmark):
    before = global_state()
    again = generate(SPEC, tokenizer, seed=3)
    assert global_state() == before
    assert again == benchmark
    assert generate(SPEC, tokenizer, seed=4) != benchmark


class Splitting:
    """A tokenizer that cuts some words in two, wherever or only at the start of a text."""

    unk_token_id = 0

    def __init__(self, *, everywhere=(), at_start=()):
        self.everywhere, self.at_start = everywhere, at_start

    def __call__(self, texts, **_):
        return {"input_ids": [[1, 2] if self.cuts(text) else [1] for text in texts]}

    def cuts(self, text):
        word = text.strip()
        return word in self.everywhere or (word in self.at_start and not text.startswith(" "))


def test_first_names_are_one_token_at_the_start_and_inside():
    fake = Splitting(everywhere={"Adam"}, at_start={"Alan"})
    n_names = min(len(FIRST_NAMES) - 2, len(SURNAMES))
    names = invent_names(fake, n_names, np.random.default_rng(0))
    assert not {"Adam", "Alan"} & {name.split()[0] for name in names}
    assert len({name.split()[0] for name in names}) == len(names)
    assert len({name.split()[1] for name in names}) == len(names)


def test_answers_of_several_tokens_are_left_out():
    values = RELATIONS["birthplace"].values
    fake = Splitting(everywhere={values[0]})
    spec = BenchmarkSpec(people={"high": 2}, relations=("birthplace",))
    assert values[0] not in answers_of(spec, fake).pools["birthplace"]["one"]


def test_some_prompts_share_a_prefix_before_the_subject(benchmark):
    for relation in (*RELATIONS.values(), CAPITAL):
        shared = [p for p in relation.prompts if p.index("{subject}") > 0]
        assert len(shared) >= 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: BenchmarkSpec(people={"often": 2}), "'often' is not known to people"),
        (lambda _: BenchmarkSpec(people={}, relations=("age",)), "'age' is not known to relations"),
        (lambda _: BenchmarkSpec(people={}, n_discovery=13), "13 discovery, 4 evaluation"),
        (lambda _: BenchmarkSpec(people={"high": -1}), "-1 people"),
        (
            lambda t: generate(BenchmarkSpec(people={"high": 99_000}), t, 0),
            "99000 people were asked for",
        ),
        (lambda t: generate(BenchmarkSpec(people={"high": 1}), t, 0), "has no partner"),
        (
            lambda t: generate(BenchmarkSpec(people={"high": 2}, n_candidates=99), t, 0),
            "99 were asked for",
        ),
    ],
)
def test_impossible_benchmarks_are_refused(make, message, tokenizer):
    with pytest.raises(UsageError, match=message):
        make(tokenizer)


def test_prompts_that_a_tokenizer_cuts_unequally_are_refused(tokenizer):
    class Uneven:
        """Puts one more token before every second person."""

        unk_token_id = 1

        def __call__(self, texts, **_):
            return {"input_ids": [self.cut(ids) for ids in tokenizer(texts)["input_ids"]]}

        def cut(self, ids):
            is_long = len(ids) > 2 and sum(ids) % 2
            return [7, *ids] if is_long else ids

    with pytest.raises(UsageError, match="this tokenizer cuts"):
        generate(BenchmarkSpec(people={"high": 8}), Uneven(), 0)


def test_facts_are_facts(benchmark):
    assert all(isinstance(fact, Fact) for fact in benchmark.facts)
    assert len({fact.id for fact in benchmark.facts}) == len(benchmark.facts)
