"""Open questions: prompts, ROUGE-1 by hand, the learning threshold, the seed study's probes."""

import json
import re
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kcircuits.core.facts import Fact, Prompt
from kcircuits.errors import InputError, UsageError
from kcircuits.evaluation.probe import known_facts
from kcircuits.lab.probing import open_questions
from kcircuits.lab.probing.chat import answer_text, question_tokens
from kcircuits.lab.probing.open_questions import (
    INSTRUCTION,
    OpenQuestion,
    ask_open_questions,
    learned_by_recall,
    questions_about,
    rouge_1,
)
from kcircuits.lab.probing.seed_files import read_validation_probes
from kcircuits.lab.scratch import word_tokenizer

CHAT = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
)
DROPS_SYSTEM = (
    "{% for m in messages if m.role == 'user' %}[user] {{ m.content }} {% endfor %}[assistant]"
)


class Letters:
    """One token per character, so that prompts can be read back."""

    eos_token_id = 0

    def __init__(self, template=None):
        self._tokenizer = word_tokenizer()
        self._tokenizer.chat_template = self.chat_template = template

    def __call__(self, text, **_):
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, tokens, **_):
        return "".join(map(chr, tokens))

    def apply_chat_template(self, *args, **kwargs):
        return self._tokenizer.apply_chat_template(*args, **kwargs)


def test_questions_are_paraphrases_for_probing_else_for_evaluation():
    def prompt(i, use, kind=None):
        return Prompt(clean=f"p{i}", corrupt="q", target=" a", foil=" b", use=use, kind=kind)

    def asked(prompts, *number):
        fact = Fact(id="f", subject="s", relation="r", object="o", prompts=tuple(prompts))
        return [question.prompt_idx for question in questions_about([fact], *number)]

    probing = [prompt(0, "discovery"), prompt(1, "evaluation"), prompt(2, "probe", "inverse")]
    assert asked(probing) == [1]
    assert asked([*probing, prompt(3, "probe"), prompt(4, "probe", "paraphrase")]) == [3, 4]
    assert asked([*probing, prompt(3, "probe"), prompt(4, "probe")], 1) == [3]
    assert asked([prompt(0, "discovery"), prompt(1, "probe", "inverse")]) == [0]
    assert asked(probing, 0) == []
    with pytest.raises(UsageError, match="n_per_fact is -1; expected 0 or more"):
        asked(probing, -1)


def prompt_of(template, **kwargs):
    tokenizer = Letters(template)
    return tokenizer.decode(question_tokens(tokenizer, "Who?", **kwargs))


@pytest.mark.parametrize(
    ("template", "kwargs", "expected"),
    [
        (CHAT, {}, "[user] Who? [assistant]"),
        (CHAT, {"instruction": "Be brief."}, "[system] Be brief. [user] Who? [assistant]"),
        (NO_SYSTEM, {"instruction": "Be brief."}, "[user] Be brief. Who? [assistant]"),
        (DROPS_SYSTEM, {"instruction": "Be brief."}, "[user] Be brief. Who? [assistant]"),
        (
            CHAT,
            {"instruction": "Be brief.", "documents": ("He came.", "She went.")},
            "[system] Be brief. [user] Context: He came.\nShe went.\nWho? [assistant]",
        ),
        (None, {}, "Question: Who?\nAnswer:"),
        (
            None,
            {"instruction": "Be brief.", "documents": ("He came.",)},
            "Be brief.\n\nHe came.\n\nQuestion: Who?\nAnswer:",
        ),
    ],
)
def test_prompts(template, kwargs, expected):
    assert prompt_of(template, **kwargs) == expected


def test_plain_answers_end_with_their_line():
    tokens = [ord(c) for c in " Paris\nQuestion: Why?"]
    assert answer_text(Letters(None), tokens) == "Paris"
    assert answer_text(Letters(CHAT), tokens) == "Paris\nQuestion: Why?"


def slow_rouge(answer, reference):
    """Clipped counts of lower-case words."""
    mine, theirs = (Counter(re.findall("[a-z0-9]+", t.lower())) for t in (answer, reference))
    common = sum((mine & theirs).values())
    if not common:
        return 0.0, 0.0
    recall, precision = common / sum(theirs.values()), common / sum(mine.values())
    return recall, 2 * recall * precision / (recall + precision)


def test_rouge_by_hand():
    cases = {
        ("Paris", "Paris"): (1, 1),
        ("The city of Paris.", "paris"): (1, 0.4),  # precision 1/4
        ("", "Paris"): (0, 0),
        ("Bill", "Bill Laswell"): (0.5, 2 / 3),
        ("Hey Hey", "Hey, Hey, Hey, it's Fat Albert"): (2 / 7, 4 / 9),  # it, s
        ("runs", "running"): (0, 0),  # no stemming
        ("x", "…"): (0, 0),
    }
    found = rouge_1([a for a, _ in cases], [r for _, r in cases])
    np.testing.assert_allclose(found, list(cases.values()), rtol=1e-12)
    np.testing.assert_allclose(found, [slow_rouge(*case) for case in cases], rtol=1e-12)


def ask(monkeypatch, told, questions, **kwargs):
    """Rows where the model says what it is told to."""
    asked = []

    def generate(model, prompts, *, max_new_tokens, **_):
        asked.append(max_new_tokens)
        return [[ord(c) for c in text] for text in told]

    monkeypatch.setattr(open_questions, "generate", generate)
    rows = ask_open_questions(None, Letters(CHAT), questions, **kwargs)
    assert asked == [25]
    return rows


def question(fact, i, answer):
    return OpenQuestion(fact=fact, prompt_idx=i, kind="factual", question="Who?", answer=answer)


def test_an_entity_is_known_when_its_mean_recall_reaches_the_threshold(monkeypatch):
    questions = [question("a", i, "one two three four five") for i in range(2)]
    questions += [question("b", 0, "one two three four five"), question("c", 0, "x")]
    # Mean recalls: a (1 + .2) / 2 = .6, which is enough; b .4; c 0.
    rows = ask(monkeypatch, ["one two three four five", "one", "one two", "y"], questions)
    assert [row["recall"] for row in rows] == pytest.approx([1, 0.2, 0.4, 0])
    assert [row["known"] for row in rows] == [True, True, False, False]
    assert known_facts(rows) == {"a": True, "b": False, "c": False}
    assert learned_by_recall(rows) == {"a": True, "b": False, "c": False}
    entities = {"a": "e", "b": "e", "c": "c"}
    assert learned_by_recall(rows, entities) == {"e": False, "c": False}  # (1 + .2 + .4) / 3
    assert {row["known_rule"] for row in rows} == {"mean-recall-0.6"}
    contract = {"fact", "prompt_idx", "kind", "logprob", "prob", "rank", "candidate_rank"}
    assert set(rows[0]) == contract | {"known", "known_rule", "recall", "f1", "answer"}
    assert rows[1]["answer"] == "one"
    assert rows[1]["logprob"] is None
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_no_questions_are_refused():
    with pytest.raises(UsageError, match="there are no questions"):
        ask_open_questions(None, Letters(), [])


def test_a_model_that_knows_answers_in_any_batch():
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).double()
    texts = ("is a native of", "was raised in the city", "was born", "is called", "lived in")
    questions = [
        OpenQuestion(fact=str(i), prompt_idx=0, kind="open", question=text, answer="city")
        for i, text in enumerate(texts)
    ]
    rows = ask_open_questions(model, tokenizer, questions)
    assert ask_open_questions(model, tokenizer, questions, batch_size=1) == rows
    # The model's own answers as references: everything is known.
    own = [
        OpenQuestion(
            fact=q.fact, prompt_idx=0, kind="open", question=q.question, answer=r["answer"]
        )
        for q, r in zip(questions, rows, strict=True)
    ]
    assert all(row["answer"] for row in rows)
    assert all(
        row["recall"] == row["f1"] == 1 and row["known"]
        for row in ask_open_questions(model, tokenizer, own)
    )


def test_facts_become_questions_of_their_probe_or_evaluation_prompts():
    def prompt(clean, use=None):
        return Prompt(clean=clean, corrupt="x", target=" y", foil=" z", use=use)

    def fact(name, *prompts):
        return Fact(id=name, subject="s", relation="r", object="Paris", prompts=prompts)

    probed = fact("p", prompt("d", "discovery"), prompt("e", "evaluation"), prompt("Q?", "probe"))
    judged = fact("j", prompt("The capital is"), prompt("Its capital is"))
    found = [
        (q.fact, q.prompt_idx, q.question, q.answer) for q in questions_about([probed, judged])
    ]
    assert found == [
        ("p", 2, "Q?", "Paris"),
        ("j", 1, "Complete the sentence: Its capital is", "Paris"),
    ]


def test_the_seed_probes_need_their_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_validation_probes(tmp_path)
    (tmp_path / "validation_probes.json").write_text('{"x": {"Factual Question": [{}]}}')
    with pytest.raises(InputError, match="does not have the form"):
        read_validation_probes(tmp_path)


@pytest.mark.shared
def test_the_released_probes_are_read_whole(shared_dir):
    folder = shared_dir / "knowledge-dynamics" / "data"
    questions = read_validation_probes(folder)
    assert Counter(q.kind for q in questions) == {
        "factual": 223,
        "time-sensitive": 151,
        "temporal": 211,
        "entity-linking": 215,
        "rephrased": 200,
    }
    assert set(Counter(q.fact for q in questions).values()) == {10}
    assert len({(q.fact, q.prompt_idx) for q in questions}) == 1000
    first = questions[0]
    prompt = Letters(CHAT).decode(
        question_tokens(Letters(CHAT), first.question, instruction=INSTRUCTION)
    )
    assert prompt.startswith("[system] Answer the following question using as few words as ")
    assert prompt.endswith(f"[user] {first.question} [assistant]")
