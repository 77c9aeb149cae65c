"""Many texts in one forward pass, held to each text by itself."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kcircuits.core.batch import PromptBatch
from kcircuits.lab.probing import prompt_tree
from kcircuits.lab.probing.probes import probe_model
from kcircuits.lab.probing.prompt_tree import read_logits, trees

N_VOCAB = 30


def texts(n=40, seed=0, longest=9):
    """Token ids of which many begin alike, some are equal, and some begin others."""
    rng = np.random.default_rng(seed)
    made = [tuple(rng.integers(1, 4, rng.integers(1, longest + 1)).tolist()) for _ in range(n)]
    return [*made, made[0], made[1][:1], (1,) * 12]


def some_reads(given, seed=0):
    rng = np.random.default_rng(seed)
    return [sorted({len(t) - 1, int(rng.integers(len(t)))}) for t in given]


def make_model(attention="eager", **config):
    torch.manual_seed(0)
    settings = {
        "vocab_size": N_VOCAB,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    made = LlamaForCausalLM(LlamaConfig(**{**settings, **config})).double().eval()
    made.set_attn_implementation(attention)
    return made


@torch.no_grad()
def alone(model, text, places):
    return model(input_ids=torch.tensor([text]), use_cache=False).logits[0, places]


def assert_as_alone(model, given, reads, **options):
    with torch.no_grad():
        found = dict(read_logits(model, given, reads, **options))
    assert sorted(found) == list(range(len(given)))
    for i, logits in found.items():
        expected = alone(model, given[i], reads[i])
        # Sums in another order, in float64; eager attention takes its softmax in float32.
        tolerance = 1e-6 if model.config._attn_implementation == "eager" else 1e-12
        torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n_nodes", [1, 7, 40, 1000])
@pytest.mark.parametrize("max_texts", [1, 5, 100])
def test_each_tree_holds_its_texts_and_every_common_beginning_once(n_nodes, max_texts):
    given = texts()
    made = list(trees(given, max_texts=max_texts, n_nodes=n_nodes))
    assert sorted(i for tree in made for i in tree.texts) == list(range(len(given)))
    for tree in made:
        mine = [given[i] for i in tree.texts]
        assert len(mine) <= max_texts
        beginnings = {text[: n + 1] for text in mine for n in range(len(text))}
        assert len(tree.ids) == len(tree.depth) == len(beginnings)
        assert len(tree.ids) <= max(n_nodes, 3 * max(map(len, mine)) // 2)
        for text, nodes in zip(mine, tree.nodes, strict=True):
            assert tuple(tree.ids[list(nodes)]) == text
            assert tree.depth[list(nodes)].tolist() == list(range(len(text)))
            for n, node in enumerate(nodes):
                assert set(np.flatnonzero(tree.sees[node])) == set(nodes[: n + 1])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("max_texts", [1, 6, 128])
def test_logits_are_those_of_each_text_alone(attention, max_texts):
    given = texts()
    assert_as_alone(make_model(attention), given, some_reads(given), max_texts=max_texts)


def test_what_cannot_be_told_what_sees_what_reads_each_text_alone(monkeypatch):
    def refuse(*_):
        raise AssertionError("a tree was grown")

    model, given = make_model(), texts()
    reads = some_reads(given)
    monkeypatch.setattr(prompt_tree, "_forward", refuse)
    with pytest.raises(AssertionError, match="a tree was grown"):
        list(read_logits(model, given, reads))
    model.config.sliding_window = max(map(len, given))
    with pytest.raises(AssertionError, match="a tree was grown"):
        list(read_logits(model, given, reads))
    model.config.sliding_window -= 1
    assert_as_alone(model, given, reads)
    assert_as_alone(model, given, reads, max_texts=2)
    model.config.sliding_window = None
    model.config.model_type = "another"
    assert_as_alone(model, given, reads)


def test_no_text_gives_nothing():
    assert list(read_logits(make_model(), [], [])) == []


def prompts(n=70, seed=3):
    """Prompts of several lengths; answers of one and of several tokens, some of them shared."""
    rng = np.random.default_rng(seed)
    rows = texts(n, seed)[:n]
    clean = np.zeros((n, max(map(len, rows))), dtype=np.int64)
    for i, row in enumerate(rows):
        clean[i, : len(row)] = row
    answers = [(4,), (5,), (4, 6), (4, 7, 8), (9, 9)]
    targets = [answers[i] for i in rng.integers(len(answers), size=n)]
    return PromptBatch(
        clean=clean,
        corrupt=clean,
        lengths=np.array([len(row) for row in rows]),
        targets=tuple(targets),
        foils=tuple(targets),
        fact_idx=np.arange(n) // 2,
        fact_ids=tuple(f"f{i}" for i in range((n + 1) // 2)),
        prompt_idx=np.arange(n) % 2,
        candidates=tuple(tuple(answers) if i % 3 else () for i in range(n)),
    )


@torch.no_grad()
def slow_logprob(model, prompt, answer):
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return sum(float(logits[len(prompt) - 1 + k, token]) for k, token in enumerate(answer))


@pytest.mark.parametrize("n_reads", [1, 20, 10_000])
def test_probes_equal_full_logits_of_each_prompt(monkeypatch, n_reads):
    monkeypatch.setattr("kcircuits.lab.probing.probes.N_READS", n_reads)
    model, batch = make_model().float(), prompts()
    rows = probe_model(model, batch)
    model.double()
    assert [row["fact"] for row in rows] == [batch.fact_ids[i] for i in batch.fact_idx]
    assert [row["prompt_idx"] for row in rows] == batch.prompt_idx.tolist()
    for i, row in enumerate(rows):
        prompt = tuple(batch.clean[i, : batch.lengths[i]].tolist())
        own = slow_logprob(model, prompt, batch.targets[i])
        assert row["logprob"] == pytest.approx(own, abs=1e-5)  # float32
        if batch.candidates[i]:
            others = [slow_logprob(model, prompt, answer) for answer in batch.candidates[i]]
            rank = 1 + sum(other > own for other in others)
            assert row["candidate_rank"] == rank
            assert row["known"] == (rank == 1)
        else:
            assert row["candidate_rank"] is None
