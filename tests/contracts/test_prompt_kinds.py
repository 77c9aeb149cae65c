"""Kinds of prompts: in files and hashes, in the rows of probes, in what counts as known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kcircuits.core.batch import PromptBatch
from kcircuits.core.facts import KINDS, Fact, Prompt
from kcircuits.errors import FactsError
from kcircuits.evaluation import known_facts
from kcircuits.evaluation.probe import answer_statistics, probe_rows
from kcircuits.io.facts import load_facts, write_facts

PROMPT = Prompt(clean="a b", corrupt="a c", target=" x", foil=" y", use="probe")
FACT = Fact(
    id="f",
    subject="s",
    relation="r",
    object="o",
    prompts=(PROMPT,),
    strata={"split": "trained"},
)


def test_hash_of_a_fact_without_kinds_is_what_it_was_before_there_were_kinds():
    assert FACT.content_hash == "9da0353e9e65fce10981e64909f418c5d0ef5972f542631564d1d2c2f270b098"
    kinds = {
        replace(FACT, prompts=(replace(PROMPT, kind=kind),)).content_hash for kind in (None, *KINDS)
    }
    assert len(kinds) == 6


def test_kinds_survive_a_file_and_others_are_refused(tmp_path):
    path = tmp_path / "facts.jsonl"
    kinds = (None, *KINDS)
    fact = replace(FACT, prompts=tuple(replace(PROMPT, kind=kind) for kind in kinds))
    write_facts([fact], path)
    assert load_facts(path) == (fact,)
    assert path.read_text(encoding="utf-8").count('"kind"') == len(KINDS)
    path.write_text(path.read_text(encoding="utf-8").replace('"inverse"', '"backwards"'))
    with pytest.raises(FactsError, match="kind is 'backwards'"):
        load_facts(path)


def batch_of(*rows):
    """One row for each (fact, use, kind)."""
    n, names = len(rows), tuple(dict.fromkeys(fact for fact, *_ in rows))
    return PromptBatch(
        clean=np.arange(1, 2 * n + 1).reshape(n, 2),
        corrupt=np.arange(2, 2 * n + 2).reshape(n, 2),
        lengths=np.full(n, 2),
        targets=((1,),) * n,
        foils=((2,),) * n,
        fact_idx=np.array([names.index(fact) for fact, *_ in rows]),
        fact_ids=names,
        prompt_idx=np.arange(n),
        uses=tuple(use for _, use, _ in rows),
        kinds=tuple(kind for *_, kind in rows),
    )


def test_rows_carry_the_kind_of_their_prompt():
    batch = batch_of(("a", "probe", "inverse"), ("a", "probe", "paraphrase"))

    def ask(tokens, row, pos):
        return torch.zeros(len(row), 9)

    assert [row["kind"] for row in answer_statistics(ask, batch)] == ["inverse", "paraphrase"]
    rows = answer_statistics(ask, replace(batch, kinds=None))
    assert [row["kind"] for row in rows] == ["paraphrase"] * 2
    assert [row["kind"] for row in answer_statistics(ask, batch.rows([1]))] == ["paraphrase"]


@pytest.mark.parametrize(
    ("rows", "asked"),
    [
        ([("discovery", "paraphrase"), ("evaluation", "paraphrase")], [1]),
        ([("evaluation", "paraphrase"), ("probe", "paraphrase"), ("probe", "inverse")], [1, 2]),
        ([("evaluation", "paraphrase"), ("probe", "memorisation")], [0, 1]),
        ([("discovery", "paraphrase"), ("probe", "memorisation")], [1]),
        ([("discovery", "paraphrase")], [0]),
    ],
)
def test_probes_stand_for_evaluation_prompts_where_they_hold_a_paraphrase(rows, asked):
    batch = batch_of(*(("a", *row) for row in rows))
    assert probe_rows(batch).prompt_idx.tolist() == asked


def test_a_fact_is_known_by_its_paraphrases_alone():
    def rows(*pairs):
        return [{"fact": "f", "kind": kind, "known": known} for kind, known in pairs]

    memorised = [("memorisation", True)] * 5
    assert known_facts(rows(*memorised, ("paraphrase", False))) == {"f": False}
    assert known_facts(rows(("inverse", False), ("paraphrase", True))) == {"f": True}
    assert known_facts(rows(("paraphrase", True), ("paraphrase", False))) == {"f": False}
    assert known_facts(rows(*memorised)) == {"f": True}
    assert known_facts([{"fact": "f", "known": True}]) == {"f": True}
