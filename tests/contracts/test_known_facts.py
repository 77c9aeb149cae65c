"""Facts that a model knows: the tables, the pool that a tokenizer allows, and the draw."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import kcircuits as kc
from kcircuits import evaluation
from kcircuits.core.facts import Fact, Prompt
from kcircuits.errors import FileAccessError, UsageError
from kcircuits.lab.real import known_facts
from kcircuits.lab.real.known_facts import next_facts
from kcircuits.lab.real.real_facts import POOL_SIZES, real_facts
from kcircuits.lab.real.world import N_DISCOVERY, N_EVALUATION, WORLD, RealRelation, pairs
from kcircuits.models.prompts import tokenize_facts

SMOLLM2 = "smollm2-135m-instruct"

# Quickly asked: answers are short.
FEW = tuple(WORLD[name] for name in ("language", "element", "opposite", "capital"))

all_relations = pytest.mark.parametrize("relation", WORLD.values(), ids=list(WORLD))


@cache
def learned_tokenizer(n_tokens: int) -> Any:
    """Byte pairs learned from the tables."""
    texts = [prompt.format(subject="Xx") for r in WORLD.values() for prompt in r.prompts]
    for relation in WORLD.values():
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


@dataclass(frozen=True)
class Pool:
    """What a tokenizer allows."""

    tokenizer: Any
    facts: tuple[Fact, ...]


@pytest.fixture(scope="module", params=product((700, 2500), (0, 1)), ids=str)
def pool(request: pytest.FixtureRequest) -> Pool:
    """Two tokenizers, most answers having several tokens or one, and two seeds."""
    n_tokens, seed = request.param
    tokenizer = learned_tokenizer(n_tokens)
    return Pool(tokenizer, real_facts(tokenizer, seed))


# The tables


@all_relations
def test_a_table_tells_each_thing_once(relation: RealRelation) -> None:
    assert len(relation.prompts) == N_DISCOVERY + N_EVALUATION
    assert len({prompt.lower() for prompt in relation.prompts}) == len(relation.prompts)
    for text in (*relation.objects, *relation.objects.values(), *relation.prompts):
        assert text
        assert text == " ".join(text.split())
    # Two spellings of one answer would be two answers.
    answers = set(relation.objects.values())
    assert len({answer.casefold() for answer in answers}) == len(answers)
    subjects = set(relation.objects)
    assert len({subject.casefold() for subject in subjects}) == len(subjects)


@pytest.mark.parametrize("text", ["a: b; a: c", "a: b; a: b"])
def test_a_subject_told_twice_is_refused(text: str) -> None:
    with pytest.raises(AssertionError, match="told twice"):
        pairs(text)


@pytest.mark.parametrize("name", ["capital", "element", "opposite"])
def test_no_two_subjects_share_an_answer_that_belongs_to_one(name: str) -> None:
    assert max(Counter(WORLD[name].objects.values()).values()) == 1


def test_tables_do_not_contradict_each_other() -> None:
    opposite, capital, country, state = (
        WORLD[name].objects for name in ("opposite", "capital", "country", "state")
    )
    for word, other in opposite.items():
        assert opposite.get(other, word) == word
    capital_of = {city: land for land, city in capital.items()}
    for city, land in country.items():
        assert capital_of.get(city, land) == land
    assert not set(country) & set(state)
    lands = ("capital", "language", "currency", "continent")
    named = set().union(*(WORLD[name].objects for name in lands))
    assert not named & (set(country) | set(state))


# The pool


def test_prompts_of_the_pool_align(pool: Pool) -> None:
    """Clean and corrupt have equal token counts, and the answers differ in their first tokens."""
    batch = tokenize_facts(pool.tokenizer, pool.facts)
    assert len(pool.facts) > 30
    assert (batch.target != batch.foil).all()
    prompts = [prompt for fact in pool.facts for prompt in fact.prompts]
    for row, prompt in enumerate(prompts):
        clean, corrupt = (
            pool.tokenizer(text)["input_ids"] for text in (prompt.clean, prompt.corrupt)
        )
        assert len(clean) == len(corrupt) == batch.lengths[row]
        assert {batch.targets[row], batch.foils[row]} <= set(batch.candidates[row])
        assert len(set(batch.candidates[row])) == len(prompt.candidates)


def test_a_fact_of_the_pool_is_what_the_table_says(pool: Pool) -> None:
    for fact in pool.facts:
        relation = WORLD[fact.relation]
        assert fact.object == relation.objects[fact.subject]
        for i, (template, prompt) in enumerate(zip(relation.prompts, fact.prompts, strict=True)):
            assert prompt.clean == template.format(subject=fact.subject)
            assert prompt.target == f" {fact.object}"
            partner = partner_of(fact, i)
            assert prompt.foil == f" {relation.objects[partner]}"
            # A model that repeats what it has read must not pass for one that knows.
            said = {fact.subject, fact.object}
            assert said.isdisjoint((partner, relation.objects[partner]))
            assert prompt.subject_span is not None
            assert prompt.clean[slice(*prompt.subject_span)] == fact.subject
            if prompt.relation_span is not None:
                assert prompt.clean[slice(*prompt.relation_span)] in relation.words


def test_no_partner_is_the_answer() -> None:
    """In tables that may be read both ways."""
    pairs = {"hot": "cold", "big": "small", "wet": "dry", "rich": "poor"}
    both = RealRelation(
        name="opposite",
        objects=pairs | {other: word for word, other in pairs.items()},
        prompts=WORLD["opposite"].prompts,
        words=(),
    )
    split = pre_tokenizers.Whitespace()
    texts = [prompt.format(subject=word) for prompt in both.prompts for word in both.objects]
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    inner.pre_tokenizer = split
    facts = real_facts(PreTrainedTokenizerFast(tokenizer_object=inner), 0, [both])
    assert len(facts) == len(both.objects)
    for fact in facts:
        partners = {partner_of(fact, i) for i in range(len(fact.prompts))}
        assert fact.object not in partners


def partner_of(fact: Fact, number: int) -> str:
    """The subject of a corrupt prompt."""
    before, after = WORLD[fact.relation].prompts[number].split("{subject}")
    corrupt = fact.prompts[number].corrupt
    assert corrupt.startswith(before)
    assert corrupt.endswith(after)
    return corrupt[len(before) : len(corrupt) - len(after)]


def test_the_partner_changes_from_prompt_to_prompt(pool: Pool) -> None:
    """So that no circuit hangs on one; few subjects have only one that aligns."""
    n_partners = [len({partner_of(fact, i) for i in range(N_DISCOVERY)}) for fact in pool.facts]
    assert sum(n > 1 for n in n_partners) > 0.8 * len(n_partners)
    assert sum(n > 2 for n in n_partners) > 0.5 * len(n_partners)


def test_evaluation_prompts_are_apart_from_discovery_prompts(pool: Pool) -> None:
    """No sentence serves both; the use of each prompt is declared."""
    for fact in pool.facts:
        uses = [prompt.use for prompt in fact.prompts]
        assert uses == ["discovery"] * N_DISCOVERY + ["evaluation"] * N_EVALUATION
        discovery, evaluation = (
            {p.clean.replace(fact.subject, "X").lower() for p in fact.prompts if p.use == use}
            for use in ("discovery", "evaluation")
        )
        assert not discovery & evaluation
        assert len(discovery) + len(evaluation) == len(fact.prompts)


def test_the_pool_has_each_subject_once_in_strata_of_bounded_size(pool: Pool) -> None:
    pairs = [(fact.relation, fact.subject) for fact in pool.facts]
    assert len(set(pairs)) == len(pairs)
    assert len({fact.id for fact in pool.facts}) == len(pairs)
    sizes = Counter((fact.relation, fact.strata["answer_tokens"]) for fact in pool.facts)
    for (_, kind), n_facts in sizes.items():
        assert n_facts <= POOL_SIZES[kind]
    assert {kind for _, kind in sizes} == set(POOL_SIZES)
    for fact in pool.facts:
        answer = pool.tokenizer(f" {fact.object}", add_special_tokens=False)["input_ids"]
        assert fact.strata["answer_tokens"] == ("one" if len(answer) == 1 else "several")
        assert (fact.strata["type"], fact.strata["template"]) == ("real", "raw")


def test_the_seed_decides_the_pool(pool: Pool) -> None:
    first, again, other = (real_facts(pool.tokenizer, seed, FEW) for seed in (0, 0, 1))
    assert first == again
    assert {fact.id for fact in first} != {fact.id for fact in other}


def test_a_tokenizer_without_aligned_subjects_has_an_empty_pool() -> None:
    """Answers that all begin with the same token cannot be told apart by it."""
    inner = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    assert real_facts(PreTrainedTokenizerFast(tokenizer_object=inner)) == ()


# The draw


def slow_next(waiting: Sequence[Fact], drawn: Sequence[Fact], n_facts: int) -> list[Fact]:
    """One at a time; every other fact is asked whether it ought to come before."""
    taken: list[Fact] = []
    while len(taken) < n_facts:
        so_far = [*drawn, *taken]

        def n_like(fact: Fact, *, stratum: bool, so_far: list[Fact] = so_far) -> int:
            alike = [other for other in so_far if other.relation == fact.relation]
            kind = fact.strata["answer_tokens"]
            return sum(not stratum or other.strata["answer_tokens"] == kind for other in alike)

        def is_before(a: Fact, b: Fact) -> bool:
            for stratum in (False, True):
                if n_like(a, stratum=stratum) != n_like(b, stratum=stratum):
                    return n_like(a, stratum=stratum) < n_like(b, stratum=stratum)
            return waiting.index(a) < waiting.index(b)

        free = [f for f in waiting if all(f.subject != other.subject for other in so_far)]
        first = [f for f in free if not any(is_before(other, f) for other in free if other != f)]
        if not first:
            return taken
        taken += first
    return taken


def random_facts(rng: np.random.Generator, n_facts: int) -> list[Fact]:
    return [
        a_fact(i, str(rng.choice(list("abc"))), f"s{rng.integers(12)}", str(rng.choice(KINDS)))
        for i in range(n_facts)
    ]


KINDS = tuple(POOL_SIZES)


def a_fact(number: int, relation: str, subject: str, kind: str = "one") -> Fact:
    prompt = Prompt(clean=f"{subject} is", corrupt="that is", target=" so", foil=" not")
    return Fact(
        id=f"f{number}",
        subject=subject,
        relation=relation,
        object="so",
        prompts=(prompt,),
        strata=MappingProxyType({"answer_tokens": kind}),
    )


@pytest.mark.parametrize("seed", range(20))
def test_next_facts_equal_those_of_a_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    facts = random_facts(rng, 20)
    drawn, waiting = facts[:3], facts[3:]
    for n_facts in (1, 4, 30):
        found = next_facts(waiting, drawn, n_facts)
        assert found == slow_next(waiting, drawn, n_facts)
        assert len(found) <= n_facts


def test_next_facts_are_balanced_and_name_no_subject_twice() -> None:
    """Subjects for all: then relations differ by one at most, and strata within them too."""
    kinds = dict.fromkeys("abc", KINDS * 10) | {"d": ("several",) * 20}
    flat = [(name, kind) for name, of_name in kinds.items() for kind in of_name]
    facts = [a_fact(i, name, f"s{i}", kind) for i, (name, kind) in enumerate(flat)]
    for n_facts in range(1, 40):
        found = next_facts(facts, [], n_facts)
        assert len(found) == len({fact.subject for fact in found}) == n_facts
        of_relation = Counter(fact.relation for fact in found)
        assert max(of_relation.values()) - min(of_relation[name] for name in kinds) <= 1
        for name in "abc":
            of_kind = [
                sum(f.relation == name and f.strata["answer_tokens"] == kind for f in found)
                for kind in KINDS
            ]
            assert abs(of_kind[0] - of_kind[1]) <= 1


@cache
def few_facts() -> tuple[Fact, ...]:
    return real_facts(learned_tokenizer(2500), 0, FEW)


class Asked:
    """A model that is never run, and the ids of the facts that it fails by some test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokenizer = learned_tokenizer(2500)
        self.failing: dict[str, set[str]] = {"evaluation": set(), "discovery": set(), "gate": set()}
        self.pool = few_facts()

        def known(_: Any, facts: Sequence[Fact], use: str) -> list[Fact]:
            return [fact for fact in facts if fact.id not in self.failing[use]]

        def gaps(_: Any, facts: Sequence[Fact]) -> dict[str, float]:
            return {fact.id: 1.0 for fact in facts if fact.id not in self.failing["gate"]}

        monkeypatch.setattr(known_facts, "_known", known)
        monkeypatch.setattr(known_facts, "_gaps", gaps)

    def draw(self, n_facts: int, **options: Any) -> known_facts.KnownFacts:
        model: Any = self
        return known_facts.draw_known_facts(model, n_facts, relations=FEW, **options)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.mark.parametrize("test", ["evaluation", "discovery", "gate"])
def test_a_fact_that_fails_any_test_is_replaced(asked: Asked, test: str) -> None:
    first = asked.draw(12)
    asked.failing[test] |= {fact.id for fact in first.facts[::3]}
    second = asked.draw(12)
    drawn = {fact.id for fact in second.facts}
    assert len(drawn) == 12
    assert not drawn & asked.failing[test]
    assert drawn <= set(second.gaps)
    unknown = sum(second.n_pool.values()) - sum(second.n_known.values())
    assert unknown == (4 if test == "evaluation" else 0)


def test_the_draw_is_ordered_and_repeats(asked: Asked) -> None:
    told: list[int] = []
    known = asked.draw(20, progress=told.append)
    assert known == asked.draw(20)
    ids = [fact.id for fact in asked.pool]
    assert all(a < b for a, b in pairwise(ids.index(fact.id) for fact in known.facts))
    assert len({fact.subject for fact in known.facts}) == 20
    assert sum(told) == len(ids) + 20


@pytest.mark.parametrize(
    ("n_facts", "seed", "message"),
    [(0, 0, "n is 0; expected 1 or more"), (1, -1, "seed is -1; expected 0 or more")],
)
def test_a_draw_that_cannot_be_meant_is_refused(
    asked: Asked, n_facts: int, seed: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        asked.draw(n_facts, seed=seed)


def test_a_model_without_a_tokenizer_is_refused(asked: Asked) -> None:
    asked.tokenizer = None
    with pytest.raises(UsageError, match="no tokenizer"):
        asked.draw(1)


def test_too_few_known_facts_are_told(asked: Asked) -> None:
    asked.failing["discovery"] |= {fact.id for fact in asked.pool[5:]}
    n_subjects = len({fact.subject for fact in asked.pool[:5]})
    message = rf"knows {n_subjects} of the {len(asked.pool)} "
    with pytest.raises(UsageError, match=message) as caught:
        asked.draw(24)
    assert caught.value.hint == f"ask for at most {n_subjects}, or choose a larger model"
    asked.failing["evaluation"] |= {fact.id for fact in asked.pool}
    with pytest.raises(UsageError, match="knows 0 of") as caught:
        asked.draw(24)
    assert caught.value.hint == "choose a larger model"


@pytest.mark.slow
def test_smollm2_knows_what_is_drawn() -> None:
    """24 facts, each known on held-out prompts and on those that circuits are found on."""
    try:
        model = kc.load_model(kc.fetch_model(SMOLLM2))
    except FileAccessError as error:
        pytest.skip(f"the model cannot be fetched here: {error.message}")
    drawn = known_facts.draw_known_facts(model, 24, relations=FEW)
    assert len({fact.subject for fact in drawn.facts}) == 24
    batch = kc.tokenize(model, drawn.facts)
    rows = kc.probe(model, batch)  # no prompt is for probing alone: those for evaluation are asked
    assert {drawn.facts[0].use_of(row["prompt_idx"]) for row in rows} == {"evaluation"}
    known = evaluation.known_facts(rows)
    assert list(known) == [fact.id for fact in drawn.facts]
    assert all(known.values())
    some, edges = batch.facts(batch.fact_ids[::6]), model.topology.edge_mask
    nothing = np.zeros((some.n_facts, *edges.shape), dtype=bool)
    empty = kc.Circuits.from_mask(nothing, model.topology, fact_ids=some.fact_ids)
    held_out = kc.evaluate(model, some, empty)
    assert held_out.prompts == "evaluation"
    assert not held_out.is_gated.any()
    gaps = held_out.clean_metric - held_out.empty_metric
    np.testing.assert_allclose([drawn.gaps[name] for name in some.fact_ids], gaps, rtol=1e-4)
