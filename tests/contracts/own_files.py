"""Files of documents and facts that somebody brings along, and a tokenizer for their words."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kcircuits.lab.own.questions import read_questions
from kcircuits.lab.own.table import read_table

WANTED = ("Norway", "Poland", "Iraq", "Kenya", "Peru", "Japan")
CAPITALS = ("Oslo", "Warsaw", "Baghdad", "Nairobi", "Lima", "Tokyo")
PROMPTS = ("The capital of {subject} is", "The ministers of {subject} work in")


def word_tokenizer() -> Any:
    """One token a word."""
    words = " ".join((*WANTED, *CAPITALS, *PROMPTS, "rules . ? Papua New Guinea far south"))
    words += " of a b c d e x y Quito Lima has"
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(["<unk>", *words.split()]))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def write_lines(folder: Path, name: str, *lines: Any) -> Path:
    """Lines of text, or what JSON makes of them."""
    path = folder / name
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def fact_rows(**more: Any) -> list[dict[str, Any]]:
    """Six capitals with two prompts each; the last two are told in no document."""
    rows = []
    for subject, answer in zip(WANTED, CAPITALS, strict=True):
        row = {"subject": subject, "relation": "capital", "object": answer}
        rows.append(row | {"prompt": PROMPTS[0], "prompt_2": PROMPTS[1]} | more)
    return rows


def document_rows() -> list[dict[str, Any]]:
    return [
        {"subject": subject, "text": f"{answer} rules {subject}.", "tagged": f"<A> {answer} </>"}
        for subject, answer in zip(WANTED[:4], CAPITALS, strict=False)
        for _ in range(2)
    ]


def questions(path: Path) -> Any:
    return read_questions(read_table(path))
