"""Groups are paired: told and asked alike, dealt the same values, never the value of a twin."""

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from kcircuits.errors import KCircuitsError, UsageError
from kcircuits.lab.benchmark.generate import generate
from kcircuits.lab.benchmark.matching import matching_report
from kcircuits.lab.benchmark.names import FIRST_NAMES, invent_names
from kcircuits.lab.benchmark.people import EXPOSURE_EDGES, exposure_counts, invent_people
from kcircuits.lab.benchmark.phrases import FILLERS, TWO_WORD_VALUES
from kcircuits.lab.benchmark.relations import RELATIONS, SPOUSE
from kcircuits.lab.benchmark.spec import BenchmarkSpec, Tolerances
from kcircuits.lab.scratch import word_tokenizer
from kcircuits.models.fetch import fetch_model
from kcircuits.models.prompts import tokenize_facts
from kcircuits.models.tokenizer import load_tokenizer

PROBES = {"paraphrase": 2, "memorisation": 1, "compositional": 1, "inverse": 1, "inference": 1}
TOKENIZERS = ("words", "smollm2-135m-instruct", "gemma-3-270m")


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    if request.param == "words":
        return word_tokenizer()
    try:
        return load_tokenizer(fetch_model(request.param))
    except KCircuitsError as error:
        pytest.skip(f"{request.param} cannot be fetched here: {error.message}")


def make_spec(n=16, **settings):
    return BenchmarkSpec(
        **{
            "people": {"high": n, "medium": n, "low": n},
            "held_out": n,
            "has_links": True,
            "probes": PROBES,
            "facts_per_person": None,
            "tolerances": Tolerances(ks_p=0.99),
        }
        | settings
    )


@pytest.mark.parametrize(
    ("answers", "documents"), [("one", "short"), ("several", "long"), ("both", "mixed")]
)
def test_paired_groups_are_alike_to_the_last_token(tokenizer, answers, documents):
    spec = make_spec(answers=answers, documents=documents, exposure={"mean": 2.5})
    benchmark = generate(spec, tokenizer, 1)
    report = matching_report(
        benchmark.facts, benchmark.documents, tokenizer, tolerances=spec.tolerances
    )
    report.require()
    assert (report.leaks, report.unequal, report.miscounted) == ((), (), ())
    for match in report.matches:
        if match.test == "KS":
            assert match.p == pytest.approx(1)
        else:
            assert match.statistic == pytest.approx(0, abs=1e-12), (match.quantity, match.groups)
    assert len({match.groups for match in report.matches}) == 6


def test_models_can_read_every_prompt(tokenizer):
    """With so few answers that people of a group share them."""
    spec = make_spec(
        people={"high": 24},
        held_out=24,
        answers="both",
        facts_per_person=1,
        n_discovery=1,
        n_evaluation=1,
        n_candidates=4,
    )
    facts = generate(spec, tokenizer, 3).facts
    assert {fact.strata["answer_tokens"] for fact in facts} == {"one", "several"}
    batch = tokenize_facts(tokenizer, facts)
    assert len(batch) == sum(len(fact.prompts) for fact in facts)
    answers = {fact.id: fact.strata["answer_tokens"] for fact in facts}
    for row, fact in enumerate(batch.fact_idx):
        if batch.kinds[row] in ("paraphrase", "memorisation", "compositional"):
            n_tokens = {"one": 1, "several": 2}[answers[batch.fact_ids[fact]]]
            lengths = {len(answer) for answer in batch.candidates[row]}
            assert lengths == {len(batch.targets[row])} == {n_tokens}
        assert batch.targets[row][0] != batch.foils[row][0]


def test_twins_are_told_in_documents_of_equal_length(tokenizer):
    spec = make_spec(documents="mixed", answers="both", exposure={"high": 9, "medium": 4, "low": 1})
    benchmark = generate(spec, tokenizer, 2)
    told = {}
    for document in benchmark.documents:
        told.setdefault(document.subject, []).append(document)
    groups = {}
    for documents in told.values():
        groups.setdefault(documents[0].frequency, []).append(documents)
    n_pairs = 0
    for first, second in combinations(groups.values(), 2):
        for twin, other in zip(first, second, strict=True):
            for a, b in zip(twin, other, strict=False):
                n_pairs += 1
                assert len(tokenizer(a.text)["input_ids"]) == len(tokenizer(b.text)["input_ids"])
                assert len(tokenizer(a.tagged)["input_ids"]) == len(
                    tokenizer(b.tagged)["input_ids"]
                )
                assert (a.sentences, a.length) == (b.sentences, b.length)
    assert n_pairs == 16 * (4 + 1 + 1)


@pytest.mark.parametrize(("facts_per_person", "n"), [(1, 16), (None, 8), (2, 16), (1, 104)])
def test_values_are_the_same_in_all_groups_and_no_twin_has_the_other_s(facts_per_person, n):
    spec = make_spec(n=n, facts_per_person=facts_per_person, answers="one")
    for seed in range(2):
        people = invent_people(spec, word_tokenizer(), seed)
        rows = [people[start : start + n] for start in range(0, 4 * n, n)]
        for name in spec.relations:
            multisets = {tuple(sorted(p.values[name] for p in group)) for group in rows}
            assert len(multisets) == 1
            for twins in zip(*rows, strict=True):
                assert len({twin.values[name] for twin in twins}) == 4
            for group in rows:
                married = [(p, q) for p, q in combinations(group, 2) if p.spouse == q.subject]
                assert len(married) == n // 2
                for p, q in married:
                    assert (q.spouse, p.is_link_told, q.is_link_told) == (p.subject, True, False)
                    assert p.values[name] != q.values[name]
        facts = generate(spec, word_tokenizer(), seed).facts
        asked = [
            Counter((f.relation, f.object) for f in facts if f.strata["frequency"] == frequency)
            for frequency in spec.groups
        ]
        assert all(each == asked[0] for each in asked)


def test_values_that_cannot_be_dealt_are_refused():
    spec = BenchmarkSpec(people={"high": 2, "medium": 2, "low": 2}, relations=("birthplace",))
    with pytest.raises(UsageError, match="shares one with its twins"):
        invent_people(spec, word_tokenizer(), 0)


def test_drawn_exposures_are_those_of_the_bins():
    """Against counts drawn without conditions and sorted into bins."""
    mean, n = 2.5, 20_000
    drawn = np.maximum(1, np.rint(np.random.default_rng(0).exponential(mean, 40 * n)))
    bins = {"low": drawn == 1, "medium": (drawn > 1) & (drawn <= 5), "high": drawn > 5}
    spec = make_spec(exposure={"mean": mean})
    for frequency, members in bins.items():
        counts = np.array(exposure_counts(spec, frequency, n, 3))
        expected = drawn[members]
        assert set(counts.tolist()) <= set(expected.tolist()) | {counts.max()}
        for value in range(1, 9):
            share = float((expected == value).mean())
            margin = 4 * np.sqrt(share * (1 - share) * (1 / n + 1 / len(expected))) + 1e-12
            assert float((counts == value).mean()) == pytest.approx(share, abs=margin)
        assert counts.mean() == pytest.approx(expected.mean(), rel=0.02)
    assert exposure_counts(spec, "none", 3, 0) == [0, 0, 0]
    assert exposure_counts(spec, "high", 9, 3) == exposure_counts(spec, "high", 12, 3)[:9]
    assert set(EXPOSURE_EDGES) == set(bins)


def test_names_repeat_parts_only_when_they_have_to_and_stay_unique():
    rng = np.random.default_rng
    names = invent_names(word_tokenizer(), 10_000, rng(0))
    assert len(set(names)) == 10_000
    few = names[: len(FIRST_NAMES)]
    assert len({name.split()[0] for name in few}) == len(few)
    assert len({name.split()[1] for name in few}) == len(few)
    uses = Counter(name.split()[0] for name in names)
    assert max(uses.values()) - min(uses.values()) <= 1


def test_every_name_is_given_where_the_numbers_of_parts_have_a_common_factor(monkeypatch):
    monkeypatch.setattr("kcircuits.lab.benchmark.names.FIRST_NAMES", FIRST_NAMES[:4])
    monkeypatch.setattr(
        "kcircuits.lab.benchmark.names.SURNAMES", ("Baker", "Carter", "Cox", "Fox", "Hill", "Wood")
    )
    names = invent_names(word_tokenizer(), 24, np.random.default_rng(0))
    assert len(set(names)) == 24
    with pytest.raises(UsageError, match="25 people were asked for"):
        invent_names(word_tokenizer(), 25, np.random.default_rng(0))


def test_no_text_holds_a_word_that_could_be_taken_for_a_name_or_a_value():
    names = {name.lower() for name in FIRST_NAMES}
    values = {value for relation in RELATIONS.values() for value in relation.values}
    values |= {word for phrases in TWO_WORD_VALUES.values() for word in phrases}
    statements = [s for r in (*RELATIONS.values(), SPOUSE) for s in r.statements]
    for text in (*values, *statements, *FILLERS):
        words = text.lower().replace(".", " ").replace(",", " ").split()
        assert not names & set(words), text
    for text in (*statements, *FILLERS):
        padded = f" {text.lower().replace('.', ' ').replace(',', ' ')} "
        assert not [value for value in values if f" {value.lower()} " in padded], text


def test_two_word_answers_begin_apart_and_suffice(tokenizer):
    for name, phrases in TWO_WORD_VALUES.items():
        ids = tokenizer([f" {p}" for p in phrases], add_special_tokens=False)["input_ids"]
        usable = [i for i in ids if len(i) == 2]
        assert len({first for first, _ in usable}) == len(usable) >= 24, name


def test_long_documents_tell_everything_twice_in_other_words():
    spec = make_spec(documents="long", exposure={"high": 8, "medium": 4, "low": 2})
    benchmark = generate(spec, word_tokenizer(), 0)
    facts = {(f.subject, f.relation): f.object for f in benchmark.facts}
    for document in benchmark.documents:
        counts = Counter(sentence.split()[0] for sentence in document.sentences)
        assert {name: counts[name] for name in spec.relations} == dict.fromkeys(spec.relations, 2)
        assert len(set(document.sentences)) == len(document.sentences)
        assert counts["filler"] == 3
        assert document.text.count("\n\n") == 2
        for name in spec.relations:
            assert document.text.count(facts[document.subject, name]) >= 2
        untagged = document.tagged
        for mark in ("<PERSON> ", "<PLACE> ", "<ORGANISATION> ", " </>"):
            untagged = untagged.replace(mark, "")
        assert untagged == document.text


@pytest.mark.parametrize("documents", ["short", "long"])
def test_no_text_comes_twice_however_often_someone_is_told_of(documents):
    spec = BenchmarkSpec(people={"high": 3}, exposure={"high": 30}, documents=documents)
    texts = [document.text for document in generate(spec, word_tokenizer(), 0).documents]
    assert len(set(texts)) == len(texts) == 90


def test_links_are_told_by_one_of_two_in_every_document():
    spec = make_spec(n=6)
    people = {person.subject: person for person in invent_people(spec, word_tokenizer(), 0)}
    for document, kind in product(generate(spec, word_tokenizer(), 0).documents, ("text",)):
        person = people[document.subject]
        told = person.spouse in getattr(document, kind)
        assert told is person.is_link_told
        assert document.mentions == ((person.spouse,) if told else ())
