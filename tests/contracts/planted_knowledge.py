"""A benchmark of real facts for a tokenizer learned here and a model with planted knowledge."""

import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kcircuits.core.facts import Fact
from kcircuits.lab.benchmark.generate import Benchmark
from kcircuits.lab.real import pool as pools
from kcircuits.lab.real.generate import real_benchmark
from kcircuits.lab.real.pool import Entry, usable_entries
from kcircuits.lab.real.spec import RealSpec
from kcircuits.lab.real.tables import TOLD, find_relation

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


def plant(patch: pytest.MonkeyPatch) -> None:
    """Lets every model say ``planted_rows``."""
    patch.setattr(pools, "probe_model", planted_rows)


@cache
def planted_benchmark() -> Benchmark:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        return real_benchmark(SPEC, None, learned_tokenizer(), **NUMBERS, seed=3)


def of_split(facts: Any, split: str) -> list[Fact]:
    """The facts of a split, one of each subject."""
    return [f for f in facts if f.strata["split"] == split and f.strata.get("told") != "before"]
