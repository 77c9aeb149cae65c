"""Real facts of a benchmark: updates, prompts, documents."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kcircuits.errors import FileAccessError, UsageError
from kcircuits.lab.benchmark.exposure import frequency_of
from kcircuits.lab.benchmark.generate import Benchmark
from kcircuits.lab.probing.probes import probe_model
from kcircuits.lab.real.generate import real_benchmark
from kcircuits.lab.real.pool import prior_of
from kcircuits.lab.real.spec import RealSpec
from kcircuits.lab.real.tables import find_relation
from kcircuits.lab.real.updates import new_answers
from kcircuits.models.fetch import fetch_model
from kcircuits.models.prompts import tokenize_facts
from tests.contracts.planted_knowledge import (
    NUMBERS,
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
