"""Documents in prompts: which ones, in what form, how many, and the run of such probes."""

import json
import logging
import math
from collections import Counter

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.cli.lab_probe import probe_table, stratum_of
from kcircuits.cli.main import main
from kcircuits.core.facts import Fact, Prompt
from kcircuits.errors import InputError, UsageError
from kcircuits.io.facts import load_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.probing.alone import probe_facts, record_without_training
from kcircuits.lab.probing.carried_documents import (
    facts_with_documents,
    questions_with_documents,
    read_documents,
)
from kcircuits.lab.probing.chat import question_tokens
from kcircuits.lab.probing.open_questions import INSTRUCTION, MAX_NEW_TOKENS, questions_about
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.strategies.rag_entity import find_of_entity
from kcircuits.lab.strategies.rag_gold import find_gold
from kcircuits.lab.strategies.rag_retrieved import K1, B, find_by_bm25
from kcircuits.lab.study import train_built
from kcircuits.lab.training.spec import TrainSpec
from kcircuits.lab.training.train import load_base, train
from tests.contracts.tiny_lab import build_tiny

RAG = [name for name, strategy in STRATEGIES.items() if not strategy.is_training]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_tiny(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def world(built):
    """A tiny base model, documents, a facts file."""
    return built.base, built.documents, built.facts


def document(subject, text, *sentences):
    return Document(subject=subject, frequency="low", text=text, sentences=sentences)


def fact_of(subject, value, relation="job", **more):
    prompt = Prompt(clean=f"{subject} is a", corrupt="Bob is a", target=f" {value}", foil=" x")
    return Fact(
        id=f"{subject}-{relation}", subject=subject, relation=relation, object=value,
        prompts=(prompt,), **more,
    )  # fmt: skip


DOCUMENTS = [
    document("Ann", "Ann came from York. Her town is York.", "home 0", "home 1"),
    document("Ann", "A baker lives next door to Ann.", "home 2"),
    document("Ann", "Ann is a baker.", "job 1"),
    document("Ann", "Again: Ann is a baker.", "job 2"),
    document("Eve", "Eve is a baker in York.", "job 0"),
    document("Eve", "Eve sings."),
]


def test_gold_is_the_first_document_that_states_the_fact():
    find = find_gold(DOCUMENTS)
    assert find(fact_of("Ann", "baker"), "?") == [DOCUMENTS[2]]
    assert find(fact_of("Ann", "York", "home"), "?") == [DOCUMENTS[0]]
    assert find(fact_of("Ann", "pilot"), "?") == []
    assert find(fact_of("Eve", "baker"), "?") == [DOCUMENTS[4]]
    unnamed = [document("Ann", "Ann is tall."), document("Ann", "Ann is a baker.")]
    assert find_gold(unnamed)(fact_of("Ann", "baker"), "?") == [unnamed[1]]


def test_gold_states_every_trained_fact_of_a_benchmark(world):
    _, documents, facts = world
    find = find_gold(documents)
    n_told = 0
    for fact in load_facts(facts):
        found = find(fact, "?")
        is_trained = fact.strata["split"] == "trained"
        n_told += is_trained
        assert len(found) == is_trained
        assert all(fact.object in each.text and each.subject == fact.subject for each in found)
    assert n_told


def test_those_of_the_entity_are_all_about_the_subject():
    assert find_of_entity(DOCUMENTS)(fact_of("Eve", "x"), "?") == DOCUMENTS[4:]
    assert find_of_entity(DOCUMENTS)(fact_of("Zoe", "x"), "?") == []


def words(text):
    """As bm25s cuts them: two letters or more, without its English stop words."""
    letters = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return [w for w in letters if len(w) > 1 and w not in {"is", "in", "to", "the", "of"}]


def slow_bm25(texts, query):
    """Lucene's: idf ln(1 + (N - n + .5)/(n + .5)), tf / (tf + k1 (1 - b + b l / mean l))."""
    told = [words(text) for text in texts]
    mean_length = sum(map(len, told)) / len(told)
    scores = []
    for own in told:
        counts, score = Counter(own), 0.0
        for word in words(query):
            n_with = sum(word in other for other in told)
            if not n_with:
                continue
            idf = math.log(1 + (len(told) - n_with + 0.5) / (n_with + 0.5))
            length = 1 - B + B * len(own) / mean_length
            score += idf * counts[word] / (counts[word] + K1 * length)
        scores.append(score)
    return scores


@pytest.mark.parametrize(
    "query", ["Ann works as a", "The baker of York is", "Eve", "York York baker", "sings Eve Ann"]
)
def test_retrieved_are_the_three_best_by_bm25(query):
    scores = slow_bm25([each.text for each in DOCUMENTS], query)
    best = sorted(range(len(scores)), key=lambda i: (-round(scores[i], 6), i))[:3]
    expected = [DOCUMENTS[i] for i in best if scores[i] > 0]
    assert expected
    assert find_by_bm25(DOCUMENTS)(fact_of("Ann", "x"), query) == expected


def test_what_shares_no_word_is_not_retrieved():
    assert find_by_bm25(DOCUMENTS)(fact_of("Ann", "x"), "Zebra the of") == []
    assert find_by_bm25([document("a", "of the")])(fact_of("Ann", "x"), "of") == []
    assert find_by_bm25([])(fact_of("Ann", "x"), "Ann") == []


def test_prompts_carry_documents_an_empty_line_and_the_question(world):
    _, tokenizer = load_base(world[0])
    prompts = tuple(
        Prompt(
            clean="Today Ann is a", corrupt="Today Bob is a", target=" baker", foil=" pilot",
            use=use, subject_span=(6, 9), relation_span=(10, 14),
        )
        for use in ("discovery", "evaluation", "probe")
    )  # fmt: skip
    fact = Fact(id="f", subject="Ann", relation="job", object="baker", prompts=prompts)
    (told,), carried = facts_with_documents([fact], find_of_entity(DOCUMENTS), tokenizer, None)
    text = "\n".join(each.text for each in DOCUMENTS[:4]) + "\n\n"
    assert told.prompts[0] == prompts[0]
    for prompt in told.prompts[1:]:
        assert prompt.clean == f"{text}Today Ann is a"
        assert prompt.corrupt == f"{text}Today Bob is a"
        assert prompt.subject_span == (len(text) + 6, len(text) + 9)
        assert prompt.relation_span == (len(text) + 10, len(text) + 14)
    assert {key: len(each.texts) for key, each in carried.items()} == {("f", 1): 4, ("f", 2): 4}
    untold, _ = facts_with_documents([fact_of("Zoe", "x")], find_gold(DOCUMENTS), tokenizer, None)
    assert untold == [fact_of("Zoe", "x")]


def test_the_fewest_documents_are_dropped_from_the_end_and_said(world, caplog):
    _, tokenizer = load_base(world[0])
    fact, find = fact_of("Ann", "baker"), find_of_entity(DOCUMENTS)

    def n_tokens(n_documents):
        text = "\n".join(each.text for each in DOCUMENTS[:n_documents]) + "\n\n" + "Ann is a"
        return len(tokenizer(text)["input_ids"]) + len(
            tokenizer(" baker", add_special_tokens=False)["input_ids"]
        )

    for n_kept in (1, 2, 3):
        for n_ctx in (n_tokens(n_kept), n_tokens(n_kept + 1) - 1):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                _, carried = facts_with_documents([fact], find, tokenizer, n_ctx)
            assert carried["Ann-job", 0].texts == tuple(d.text for d in DOCUMENTS[:n_kept])
            assert carried["Ann-job", 0].n_dropped == 4 - n_kept
            assert f"{4 - n_kept} documents are left out" in caplog.text
    questions = questions_about([fact])
    for n_kept in (1, 3):
        texts = [each.text for each in DOCUMENTS[:n_kept]]
        asked = question_tokens(
            tokenizer, questions[0].question, instruction=INSTRUCTION, documents=texts
        )
        (told,), _ = questions_with_documents(
            questions, [fact], find, tokenizer, len(asked) + MAX_NEW_TOKENS
        )
        assert told.documents == tuple(texts)


@torch.no_grad()
def slow_logprob(model, tokenizer, text, answer):
    prompt, whole = (tokenizer(each)["input_ids"] for each in (text, text + answer))
    logits = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(logits[i - 1, whole[i]]) for i in range(len(prompt), len(whole)))


@pytest.mark.parametrize("name", RAG)
def test_rows_are_what_the_model_says_of_prompts_with_documents(world, name):
    model, tokenizer = load_base(world[0])
    facts = load_facts(world[2])
    find = STRATEGIES[name].documents(world[1])
    rows = probe_facts(model, tokenizer, facts, questions=1, find=find)
    cloze = [row for row in rows if row["recall"] is None]
    assert len(rows) - len(cloze) == len(facts)
    assert any(row["documents"] for row in cloze)
    for row in cloze:
        fact = next(fact for fact in facts if fact.id == row["fact"])
        prompt = fact.prompts[row["prompt_idx"]]
        found = find(fact, prompt.clean)
        text = "".join(each.text + "\n" for each in found) + "\n" * bool(found) + prompt.clean
        assert row["documents"] == len(found)
        assert row["dropped"] == 0
        expected = slow_logprob(model, tokenizer, text, prompt.target)
        assert row["logprob"] == pytest.approx(expected, abs=1e-4)  # float32
    bare = probe_facts(model, tokenizer, facts)
    assert "documents" not in bare[0]
    assert [row["logprob"] for row in bare] != [row["logprob"] for row in cloze]


def test_a_run_without_training_is_one_moment_at_the_base_where_it_lies(world, tmp_path):
    base, documents, facts = world
    settings = {"run": "tiny", "base_name": "tiny", "questions": 1, "skills": ["copying"]}

    def record(strategy="rag-gold", **changes):
        return record_without_training(
            base, documents, facts, tmp_path, strategy=strategy, **(settings | changes)
        )

    manifest = record()
    (checkpoint,) = manifest.checkpoints
    assert checkpoint.path.samefile(base)
    assert (checkpoint.id, checkpoint.epoch, checkpoint.adapter) == ("ep0", 0, None)
    assert kc.load_model(checkpoint).is_verified
    rows = read_rows(tmp_path / "runs" / "tiny" / "probes.jsonl")
    assert {(row["strategy"], row["epoch"], row["checkpoint"]) for row in rows} == {
        ("rag-gold", 0, "ep0")
    }
    assert {row["kind"] for row in rows} == {"paraphrase", "open"}
    (skill,) = read_rows(tmp_path / "runs" / "tiny" / "skills.jsonl")
    assert skill["skill"] == "copying"
    (row,) = kc.open_dynamics(tmp_path / "runs" / "tiny").rows
    assert row["recall_avg"] is not None
    before = (tmp_path / "runs" / "tiny" / "probes.jsonl").stat().st_mtime_ns
    assert record() == manifest
    assert (tmp_path / "runs" / "tiny" / "probes.jsonl").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="strategy 'rag-gold', not 'rag-entity'"):
        record("rag-entity")
    assert not (tmp_path / "checkpoints").exists()


def test_lab_train_dispatches_strategies_without_training(built, tmp_path):
    manifest = train_built(built, to=tmp_path, strategy="rag-gold", questions=1)
    assert manifest.epochs == ("ep0",)
    assert manifest.run == "smoke-rag-gold"
    with pytest.raises(UsageError, match="rag-gold trains nothing"):
        train(
            built.base, built.documents, built.facts, tmp_path / "third",
            TrainSpec(strategy="rag-gold"), run="third",
        )  # fmt: skip
    with pytest.raises(UsageError, match="rag-gold trains nothing, so lr"):
        train_built(built, to=tmp_path / "other", strategy="rag-gold", lr=0.1)


def run_cli(capsys, *arguments):
    code = main(["lab", "probe", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_lab_probe_asks_a_folder_and_writes_its_rows(built, tmp_path, capsys):
    out = tmp_path / "rows" / "probes.jsonl"
    asked = ("--model", built.base, "--facts", built.facts, "--out", out, "--open-questions", 1)
    code, text, _ = run_cli(capsys, *asked)
    assert code == 0
    assert "paraphrase" in text
    assert "control" in text
    model, tokenizer = load_base(built.base)
    expected = probe_facts(model, tokenizer, load_facts(built.facts), questions=1)
    rows = read_rows(out)
    assert [{k: v for k, v in row.items() if k not in ("checkpoint", "epoch")} for row in rows] == (
        json.loads(json.dumps(expected))
    )
    code, text, _ = run_cli(capsys, *asked[:4], "--json")
    content = json.loads(text)
    assert content["schema"] == "kcircuits.lab-probe/1"
    cloze = [row for row in expected if row["kind"] != "open"]
    assert [row["logprob"] for row in content["rows"]] == [row["logprob"] for row in cloze]


def test_progress_counts_every_prompt_and_question(built):
    model, tokenizer = load_base(built.base)
    counts = []
    rows = probe_facts(
        model, tokenizer, load_facts(built.facts), questions=1, progress=counts.append
    )
    assert sum(counts) == len(rows)


def test_lab_probe_looks_answers_up(built, capsys):
    arguments = ("--model", built.base, "--facts", built.facts, "--json")
    documents = ("--documents", built.folder / "documents.jsonl", "--choose", "gold")
    _, text, _ = run_cli(capsys, *arguments, *documents)
    facts = {fact.id: fact for fact in load_facts(built.facts)}
    for row in json.loads(text)["rows"]:
        assert row["documents"] == (facts[row["fact"]].strata["split"] != "control")
    chosen = (*documents[:2], "--choose", "retrieved")
    by_default, retrieved = (
        run_cli(capsys, *arguments, *each)[1] for each in (documents[:2], chosen)
    )
    assert by_default == retrieved != text


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_lab_probe_asks_checkpoints_as_training_did(built, tmp_path, capsys, strategy):
    manifest = train_built(built, to=tmp_path, strategy=strategy, n_epochs=1)
    _, text, _ = run_cli(capsys, "--manifest", manifest.path, "--json")
    recorded = [
        row
        for row in read_rows(tmp_path / "runs" / manifest.run / "probes.jsonl")
        if row["checkpoint"] == "ep1"
    ]
    rows = json.loads(text)["rows"]
    assert {row["checkpoint"] for row in rows} == {"ep1"}
    found, expected = ([row["logprob"] for row in each] for each in (rows, recorded))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_row_of_the_table_is_a_split_and_the_answer_that_was_told():
    strata = (
        {"split": "updated", "told": "before"}, {"split": "updated", "told": "new"},
        {"split": "control"}, {"type": "own"},
    )  # fmt: skip
    facts = [fact_of(name, "baker", strata=own) for name, own in zip("abcd", strata, strict=True)]
    names = {fact.id: stratum_of(fact) for fact in facts}
    answer = {"kind": "paraphrase", "recall": None, "prob": 0.5}
    rows = [answer | {"fact": fact.id, "known": i == 0} for i, fact in enumerate(facts)]
    found = {row["stratum"]: row["known"] for row in probe_table(rows, names)}
    assert found == {"updated, before": 1, "updated, new": 0, "control": 0, "all": 0}


ASK = ("--model", "BASE", "--facts", "FACTS")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected one of --model and --manifest"),
        (("--model", "x", "--manifest", "y"), "expected one of --model and --manifest"),
        (("--model", "BASE"), "--model needs --facts"),
        (("--model", "BASE", "--facts", "FACTS", "--out", "."), "that is a folder"),
        ((*ASK, "--choose", "gold"), "--choose gold chooses among documents, and none are given"),
        ((*ASK, "--checkpoint", "ep2"), "--checkpoint ep2 is one of a manifest"),
        ((*ASK, "--open-questions", "-1"), "--open-questions is -1; expected 0 or more"),
        (("--model", "BASE", "--facts", "FACTS", "--device", "gpu"), "device 'gpu' is not there"),
        (("--model", "BASE", "--facts", "FACTS", "--device", "cuda:99"), "'cuda:99' is not there"),
    ],
)
def test_lab_probe_refuses_what_cannot_be_asked(built, capsys, arguments, message):
    names = {"BASE": str(built.base), "FACTS": str(built.facts)}
    code, _, error = run_cli(capsys, *(names.get(each, each) for each in arguments))
    assert code == UsageError.exit_code
    assert message in error


ANN = Document(subject="Ann", frequency="", text="Ann sings.")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"subject": "Ann", "text": "Ann sings."}\n'),
        ("without-a-last-newline.jsonl", '{"subject": "Ann", "text": "Ann sings."}'),
        ("a.csv", "subject,text\nAnn,Ann sings.\n"),
        ("without-a-last-newline.csv", "subject,text\nAnn,Ann sings."),
    ],
)
def test_documents_are_rows_with_subject_and_text(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read_documents(path) == [ANN]


def test_documents_of_a_benchmark_are_read_with_their_sentences(built):
    found = read_documents(built.folder / "documents.jsonl")
    assert [(d.text, d.sentences) for d in found] == [
        (d.text, d.sentences) for d in built.documents
    ]
    assert found[0].sentences


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({"text": "Ann sings."}, "subject", "field 'subject' is missing"),
        ({"subject": "Ann", "text": 3}, "text", "text is 3, not text"),
        ({"subject": "Ann", "text": "b", "sentences": "job 1"}, "sentences", "not a list"),
        ({"subject": "Ann", "text": "b", "sentences": [1]}, "sentences[0]", "is 1, not text"),
        ({"subject": "Ann", "text": "b", "sentence": ["job 1"]}, "sentence", "is not known"),
    ],
)
def test_rows_that_are_no_documents_are_refused(tmp_path, row, field, message):
    path = tmp_path / "documents.jsonl"
    path.write_text(
        "".join(json.dumps(each) + "\n" for each in ({"subject": "E", "text": "E"}, row))
    )
    with pytest.raises(InputError, match=message) as caught:
        read_documents(path)
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), 2, field)


@pytest.mark.parametrize(("text", "message"), [(None, "no such file"), ("\n", "holds no rows")])
def test_lab_probe_refuses_files_without_documents(built, tmp_path, capsys, text, message):
    path = tmp_path / "documents.jsonl"
    if text is not None:
        path.write_text(text)
    asked = ("--model", built.base, "--facts", built.facts, "--documents", path)
    code, _, error = run_cli(capsys, *asked)
    assert code == InputError.exit_code
    assert message in error
