"""Real facts of a benchmark: usable subjects, priors and draws."""

import zlib
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kcircuits.errors import UsageError
from kcircuits.lab.benchmark.generate import Benchmark
from kcircuits.lab.benchmark.relations import RELATIONS
from kcircuits.lab.real.draw import draw
from kcircuits.lab.real.generate import real_benchmark
from kcircuits.lab.real.pool import Entry, can_pair, prior_of, with_priors
from kcircuits.lab.real.prompts import Numbers
from kcircuits.lab.real.spec import PRIORS, RealSpec
from kcircuits.lab.real.tables import find_relation
from tests.contracts.planted_knowledge import (
    NUMBERS,
    RELATIONS_ASKED,
    SPEC,
    entries_of,
    learned_tokenizer,
    of_split,
    plant,
    planted_benchmark,
)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)


@pytest.fixture
def built() -> Benchmark:
    return planted_benchmark()


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
