"""Facts become token ids only where the rules that circuits rest on hold."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kcircuits.cli.main import main
from kcircuits.core.facts import Fact, Prompt
from kcircuits.errors import CheckpointError, FactsError, UsageError
from kcircuits.io.facts import write_facts
from kcircuits.models.prompts import encode_prompts, tokenize, tokenize_facts
from kcircuits.models.tokenizer import load_tokenizer

WORDS = ["The", "capital", "of", "is", "France", "Japan", "Paris", "Tokyo", "Rome", "Oslo", "in"]
# Each word is one token with and without its leading space; other text falls into characters.
VOCAB = ["<unk>", "<bos>", "<user>", "<answer>"]
VOCAB += WORDS + ["Ġ" + word for word in WORDS] + ["Ġ", *"abcdefghijklmnopqrstuvwxyzUP"]
CHAT = (
    "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def build_tokenizer(*, bos: bool = False, chat: str | None = None) -> Any:
    """A tokenizer over VOCAB that prefers the longest token; a space belongs to its word."""
    ids = {token: i for i, token in enumerate(VOCAB)}
    model = models.Unigram([(token, 0.0 if i < 26 else -9.0) for i, token in enumerate(VOCAB)], 0)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<bos>", "<user>", "<answer>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=chat)


PROMPT = Prompt(
    clean="The capital of France is",
    corrupt="The capital of Japan is",
    target=" Paris",
    foil=" Tokyo",
)


def fact(*prompts: Prompt, name: str = "f1") -> Fact:
    return Fact(id=name, subject="France", relation="capital", object="Paris", prompts=prompts)


def ids_of(text: str) -> list[int]:
    return [VOCAB.index(token) for token in text.split()]


def test_tokenize_facts_lays_out_all_prompts() -> None:
    short = replace(PROMPT, clean="of France is", corrupt="of Japan is", use="probe")
    batch = tokenize_facts(build_tokenizer(), [fact(PROMPT, PROMPT), fact(short, name="f2")])
    assert batch.clean.tolist()[0] == ids_of("The Ġcapital Ġof ĠFrance Ġis")
    assert batch.corrupt.tolist()[1] == ids_of("The Ġcapital Ġof ĠJapan Ġis")
    assert batch.clean.tolist()[2] == [*ids_of("of ĠFrance Ġis"), 0, 0]
    assert batch.lengths.tolist() == [5, 5, 3]
    assert batch.target.tolist() == ids_of("ĠParis ĠParis ĠParis")
    assert batch.foil.tolist() == ids_of("ĠTokyo ĠTokyo ĠTokyo")
    assert (batch.fact_ids, batch.fact_idx.tolist()) == (("f1", "f2"), [0, 0, 1])
    assert batch.prompt_idx.tolist() == [0, 1, 0]
    assert batch.uses == ("discovery", "evaluation", "probe")
    assert batch.candidates == ((), (), ())
    assert batch.clean.dtype == np.int64
    assert batch.prefix_lengths.tolist() == [3, 3, 1]


def test_tokenizer_adds_its_special_tokens_by_default() -> None:
    batch = tokenize_facts(build_tokenizer(bos=True), [fact(PROMPT)])
    assert batch.clean.tolist() == [ids_of("<bos> The Ġcapital Ġof ĠFrance Ġis")]


def test_tokens_of_subject_relation_and_text_are_marked() -> None:
    """What a tokenizer or a chat template adds is no part of the prompt's text."""
    marked = replace(PROMPT, subject_span=(15, 21), relation_span=(4, 11))
    batch = tokenize_facts(build_tokenizer(bos=True), [fact(marked), fact(PROMPT, name="f2")])
    assert batch.clean.tolist()[0] == ids_of("<bos> The Ġcapital Ġof ĠFrance Ġis")
    masks = (batch.subject_mask, batch.text_mask, batch.relation_mask)
    subject, text, relation = (mask.astype(int).tolist() for mask in masks if mask is not None)
    assert subject == [[0, 0, 0, 0, 1, 0]] * 2  # by its span, and by its first mention
    assert text == [[0, 1, 1, 1, 1, 1]] * 2
    assert relation == [[0, 0, 1, 0, 0, 0], [0] * 6]
    chat = replace(marked, template="chat", target="Paris", foil="Tokyo")
    batch = tokenize_facts(build_tokenizer(chat=CHAT), [fact(chat)])
    assert batch.clean.tolist() == [ids_of("<user> The Ġcapital Ġof ĠFrance Ġis <answer>")]
    masks = (batch.subject_mask, batch.text_mask, batch.relation_mask)
    subject, text, relation = (mask.astype(int).tolist() for mask in masks if mask is not None)
    assert (subject, relation) == ([[0, 0, 0, 0, 1, 0, 0]], [[0, 0, 1, 0, 0, 0, 0]])
    assert text == [[0, 1, 1, 1, 1, 1, 0]]
    cut = batch.rows([0, 0])
    assert cut.text_mask is not None
    assert cut.text_mask.tolist() == [[bool(x) for x in text[0]]] * 2


def test_candidates_hold_the_target_once() -> None:
    with_target = replace(PROMPT, candidates=(" Rome", " Paris", " Rome"))
    without = replace(PROMPT, candidates=(" Rome",))
    batch = tokenize_facts(build_tokenizer(), [fact(with_target, without)])
    expected = tuple((token,) for token in ids_of("ĠParis ĠRome"))
    assert batch.candidates == (expected, expected)


def test_all_tokens_of_an_answer_count() -> None:
    several = replace(PROMPT, target=" Paris in France", foil=" Paris of", candidates=(" Rome in",))
    batch = tokenize_facts(build_tokenizer(), [fact(several)])
    assert batch.targets == (tuple(ids_of("ĠParis Ġin ĠFrance")),)
    assert batch.foils == (tuple(ids_of("ĠParis Ġof")),)
    assert batch.candidates == ((batch.targets[0], tuple(ids_of("ĠRome Ġin"))),)
    assert batch.target.tolist() == batch.foil.tolist() == ids_of("ĠParis")


def test_chat_template_frames_the_prompt() -> None:
    tokenizer = build_tokenizer(bos=True, chat="<bos>" + CHAT)
    chat = replace(PROMPT, template="chat", target="Paris", foil="Tokyo", candidates=("Rome",))
    batch = tokenize_facts(tokenizer, [fact(chat)])
    expected = ids_of("<bos> <user> The Ġcapital Ġof ĠFrance Ġis <answer>")
    assert batch.clean.tolist() == [expected]
    assert batch.target.tolist() == ids_of("Paris")
    assert batch.candidates == (tuple((token,) for token in ids_of("Paris Rome")),)


BAD: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "token counts": (
        {"corrupt": "The capital of Japan in is"},
        "corrupt",
        "clean has 5 tokens, corrupt 6",
        "choose a corrupt subject of equal token count",
    ),
    "one answer begins the other": (
        {"target": " Paris in", "foil": " Paris"},
        "foil",
        "' Paris' and ' Paris in' cannot be told apart",
        "beginning of another",
    ),
    "same answers": ({"foil": " Paris"}, "foil", "cannot be told apart", "beginning of another"),
    "target not verbatim": (
        {"clean": "The capital of France i", "corrupt": "The capital of Japan i", "target": "s"},
        "target",
        "target 's' is no verbatim continuation: alone the prompt has 6 tokens, followed by it 5",
        "begin the continuation with its space",
    ),
    "foil not verbatim": (
        {"clean": "The capital of France i", "corrupt": "The capital of Japan i", "foil": "s"},
        "foil",
        "foil 's' is no verbatim continuation",
        "begin the continuation with its space",
    ),
    "candidate not verbatim": (
        {
            "clean": "The capital of France i",
            "corrupt": "The capital of Japan i",
            "candidates": ("s",),
        },
        "candidates",
        "candidates 's' is no verbatim continuation",
        "begin the continuation with its space",
    ),
    "candidates alike": (
        {"candidates": (" Rome in France", " Rome in")},
        "candidates",
        "' Rome in' and ' Rome in France' cannot be told apart",
        "beginning of another",
    ),
    "candidate like the target": (
        {"candidates": (" Paris in",)},
        "candidates",
        "' Paris' and ' Paris in' cannot be told apart",
        "beginning of another",
    ),
    "space at the end": (
        {"clean": "of France ", "corrupt": "of Japan ", "target": "Paris"},
        "target",
        "is no verbatim continuation",
        "end the prompt without one",
    ),
    "space at the end of the prompt of a longer answer": (
        {"clean": "of France ", "corrupt": "of Japan ", "target": "Paris in"},
        "target",
        "alone the prompt has 3 tokens, followed by it 4, of which 2 agree",
        "end the prompt without one",
    ),
    "same tokens": (
        {"clean": "of \u00e9 is", "corrupt": "of \u00e8 is"},
        "clean",
        "clean and corrupt have the same tokens",
        "write another text",
    ),
    "no chat template": (
        {"template": "chat"},
        "template",
        "the tokenizer has no chat template",
        "use template raw",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_tokenize_facts_refuses(name: str) -> None:
    change, field, message, hint = BAD[name]
    with pytest.raises(FactsError) as caught:
        tokenize_facts(build_tokenizer(), [fact(PROMPT, replace(PROMPT, **change), name="f7")])
    error = caught.value
    assert error.message.startswith("fact 'f7', prompt 1: ")
    assert message in error.message
    assert error.field == field
    assert error.hint is not None
    assert hint in error.hint


def test_a_broken_chat_template_is_the_users_error() -> None:
    tokenizer = build_tokenizer(chat="{{ raise_exception('only with a system prompt') }}")
    with pytest.raises(FactsError, match="only with a system prompt"):
        tokenize_facts(tokenizer, [fact(replace(PROMPT, template="chat"))])


def test_encode_prompts_collects_problems() -> None:
    bad = replace(PROMPT, corrupt="The capital of Japan in is")
    rows, problems = encode_prompts(build_tokenizer(), [fact(bad, PROMPT, bad)] * 3, max_problems=5)
    assert (len(rows), len(problems)) == (2, 5)


@pytest.mark.parametrize("act", [tokenize_facts, encode_prompts])
def test_without_tokenizer_or_facts(act: Callable[..., Any]) -> None:
    with pytest.raises(UsageError) as caught:
        act(None, [fact(PROMPT)])
    assert caught.value.hint is not None
    assert "PromptBatch.from_tokens" in caught.value.hint
    with pytest.raises(UsageError, match="there are no facts"):
        act(build_tokenizer(), [])


def test_tokenize_refuses_a_fact_given_twice() -> None:
    with pytest.raises(UsageError, match="is given twice"):
        tokenize_facts(build_tokenizer(), [fact(PROMPT), fact(PROMPT)])


def test_tokenize_refuses_what_the_model_cannot_read() -> None:
    def model(d_vocab: int, n_ctx: int) -> Any:
        cfg = SimpleNamespace(d_vocab=d_vocab, n_ctx=n_ctx)
        return SimpleNamespace(tokenizer=build_tokenizer(), hooked=SimpleNamespace(cfg=cfg))

    assert len(tokenize(model(len(VOCAB), 5), [fact(PROMPT)])) == 1
    highest = max(ids_of("The Ġcapital Ġof ĠFrance Ġis ĠParis ĠTokyo"))
    message = rf"'f1', prompt 0: token id {highest} is beyond the {highest} rows"
    with pytest.raises(FactsError, match=message):
        tokenize(model(highest, 5), [fact(PROMPT)])
    with pytest.raises(FactsError, match="5 tokens, but the model reads 4"):
        tokenize(model(len(VOCAB), 4), [fact(PROMPT)])


def test_load_tokenizer_from_a_folder_alone(tmp_path: Path) -> None:
    build_tokenizer(bos=True).save_pretrained(tmp_path / "t")
    batch = tokenize_facts(load_tokenizer(tmp_path / "t"), [fact(PROMPT)])
    assert batch.lengths.tolist() == [6]
    with pytest.raises(CheckpointError, match="no such folder"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "t/tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="the tokenizer cannot be used"):
        load_tokenizer(tmp_path / "t")


def test_facts_check_counts_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_tokenizer().save_pretrained(tmp_path / "t")
    bad = replace(PROMPT, corrupt="The capital of Japan in is")
    write_facts([fact(PROMPT, PROMPT), fact(bad, name="f2")], tmp_path / "f.jsonl")
    args = ["facts", "check", str(tmp_path / "f.jsonl"), "--tokenizer", str(tmp_path / "t")]
    assert main([*args, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == {"min": 5, "mean": 5.0, "max": 5}
    assert found["prompts"] == {"discovery": 2, "evaluation": 1, "probe": 0}
    assert "fact 'f2', prompt 0: clean has 5 tokens, corrupt 6" in found["problems"][0]["message"]
    write_facts([fact(PROMPT, PROMPT)], tmp_path / "f.jsonl")
    assert main(args) == 0
    assert "tokens a prompt: 5 to 5" in capsys.readouterr().out
