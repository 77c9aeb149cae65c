"""Answers of several tokens against the plain forward, token by token, and finite differences."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.discovery.edge_pruning import LOSSES, LossName
from kcircuits.discovery.gate_runs import GateRuns, Loss
from kcircuits.engine.attribution import Question, path_scores
from kcircuits.engine.forward import run_rows
from kcircuits.engine.masked import circuit_logits, set_stage
from kcircuits.engine.metrics import METRICS, get_metric
from kcircuits.engine.tokens import TokenRows
from kcircuits.errors import CheckpointError

MakeAnswers = Callable[..., kc.PromptBatch]
TinyOf = Callable[..., Any]


def next_token(model: Any, tokens: list[int]) -> torch.Tensor:
    """log p of every token after these."""
    with torch.no_grad():
        return run_rows(model.weights, torch.tensor([tokens]))[0].log_softmax(-1)


def log_p(model: Any, prompt: list[int], answer: tuple[int, ...]) -> float:
    steps = [next_token(model, [*prompt, *answer[:i]])[answer[i]] for i in range(len(answer))]
    return float(sum(steps))


def expected_metric(model: Any, batch: kc.PromptBatch, i: int, name: str, given: str) -> float:
    """The metric of prompt ``i`` when the model reads the ``given`` (clean, corrupt) tokens."""
    clean, read = (
        ids[i, : batch.lengths[i]].tolist() for ids in (batch.clean, getattr(batch, given))
    )
    target, foil = batch.targets[i], batch.foils[i]
    if name == "logit-difference":
        return log_p(model, read, target) - log_p(model, read, foil)
    if name == "log-probability":
        return log_p(model, read, target)
    total = 0.0
    for step in range(len(target)):
        q, p = (next_token(model, [*row, *target[:step]]) for row in (clean, read))
        total += float((q.exp() * (q - p)).sum())
    return total


def circuits_of(model: Any, mask: np.ndarray) -> kc.Circuits:
    return kc.Circuits.from_mask(mask & model.topology.edge_mask, model.topology)


def masked_metric(
    model: Any, batch: kc.PromptBatch, masks: torch.Tensor, name: str = "logit-difference"
) -> torch.Tensor:
    """The masked metric [mask, prompt] of every mask on every prompt, in one run."""
    n_prompts, metric = len(batch), get_metric(name)
    repeated = batch.rows(np.tile(np.arange(n_prompts), len(masks)))
    rows = TokenRows.from_batch(repeated, model.weights, with_foil=metric.with_foil)
    stage = set_stage(model.weights, rows)
    by_row = masks.repeat_interleave(n_prompts, 0)[rows.prompt]
    logits = circuit_logits(model.weights, stage, by_row)
    values = metric.by_prompt(logits, stage.clean_logits, rows)
    return values.unflatten(0, (len(masks), n_prompts))


@pytest.mark.parametrize("name", METRICS)
def test_full_and_empty_circuits_are_the_plain_model_token_by_token(
    tiny: Any, make_answers: MakeAnswers, name: str
) -> None:
    batch = make_answers()
    whole = np.ones((4, *tiny.topology.edge_mask.shape), dtype=bool)
    results = [kc.evaluate(tiny, batch, circuits_of(tiny, m), metric=name) for m in (whole, ~whole)]
    for i in range(4):
        clean, corrupt = (
            expected_metric(tiny, batch, i, name, given) for given in ("clean", "corrupt")
        )
        assert results[0].metric[i] == pytest.approx(clean, abs=1e-11)
        assert results[1].metric[i] == pytest.approx(corrupt, abs=1e-11)
        for result in results:
            assert result.clean_metric[i] == pytest.approx(clean, abs=1e-11)
            assert result.empty_metric[i] == pytest.approx(corrupt, abs=1e-11)


def test_single_tokens_are_compared_by_their_logits(tiny: Any, make_answers: MakeAnswers) -> None:
    batch = make_answers(((1, 1),), (6,))
    with torch.no_grad():
        logits = run_rows(tiny.weights, torch.as_tensor(batch.clean))[0]
    found = kc.evaluate(tiny, batch, circuits_of(tiny, tiny.topology.edge_mask[None]))
    target, foil = batch.targets[0][0], batch.foils[0][0]
    assert found.metric[0] == pytest.approx(float(logits[target] - logits[foil]), abs=1e-12)


@pytest.mark.parametrize(
    ("style", "name"),
    [
        ("parallel", "logit-difference"),
        ("post-norm", "logit-difference"),
        ("grouped", "log-probability"),
    ],
)
def test_eap_is_the_slope_of_the_masked_metric(
    tiny_of: TinyOf, make_answers: MakeAnswers, style: str, name: str
) -> None:
    model, batch, step = tiny_of(style), make_answers(), 1e-5
    scores = kc.attribute(model, batch, "eap", metric=name).values
    edges = np.argwhere(model.topology.edge_mask)
    full = torch.as_tensor(model.topology.edge_mask, dtype=torch.float64)
    moved = full.repeat(2 * len(edges), 1, 1)
    for i, (u, v) in enumerate(edges):
        moved[i, u, v] -= step
        moved[i + len(edges), u, v] += step
    ablated, strengthened = masked_metric(model, batch, moved, name).split(len(edges))
    slopes = ((ablated - strengthened) / (2 * step)).T.numpy()
    found = scores[:, edges[:, 0], edges[:, 1]]
    for i in range(len(batch)):
        assert np.abs(found[i] - slopes[i]).max() <= 1e-6 * np.abs(scores[i]).max()


@pytest.mark.parametrize("name", METRICS)
def test_scores_equal_those_of_the_slow_model(
    tiny: Any, make_answers: MakeAnswers, slow: ModuleType, name: str
) -> None:
    """Every edge, where the input is halfway between the corrupt and the clean prompt."""
    batch = make_answers()
    asked = Question(metric=get_metric(name))
    rows = TokenRows.from_batch(batch, tiny.weights, with_foil=asked.metric.with_foil)
    found = path_scores(tiny.weights, rows, asked, (0.5,)).numpy()

    def halfway(clean: Any, corrupt: Any) -> list[dict[str, Any]]:
        middle = (clean["input"] + corrupt["input"]) / 2
        return [{"write": lambda u, out: middle if u == "input" else out}]

    for i in range(len(batch)):
        expected = slow.edge_scores(tiny.weights, batch, i, metric=name, runs=halfway)
        assert np.abs(found[i] - expected).max() <= 1e-11 * np.abs(expected).max()


def slow_masked(
    slow: ModuleType,
    weights: Any,
    row: Any,
    mask: torch.Tensor,
    ablation: str = "corrupt",
    constants: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits of the slow model where every edge carries mask x current + (1 - mask) x ablated."""
    given = slow.ablated_outputs(weights, row, ablation, constants)
    senders, receivers = weights.topology.forward_index, weights.topology.backward_index

    def edge(u: str, v: str, out: torch.Tensor) -> torch.Tensor:
        share = mask[senders(u), receivers(v)]
        return share * out + (1 - share) * given[u]

    return slow.run(weights, row.clean, edge=edge).logits


def random_masks(topology: kc.Topology, n_masks: int, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).random((n_masks, *topology.edge_mask.shape))
    return torch.as_tensor(values * topology.edge_mask)


@pytest.mark.parametrize("ablation", ["corrupt", "zero", "mean", "positional-mean"])
@pytest.mark.parametrize("name", METRICS)
def test_circuits_equal_those_of_the_slow_model(
    tiny: Any, make_answers: MakeAnswers, slow: ModuleType, name: str, ablation: Any
) -> None:
    batch = make_answers()
    masks = random_masks(tiny.topology, 4) > 0.5
    found = kc.evaluate(
        tiny, batch, circuits_of(tiny, masks.numpy()), metric=name, ablation=ablation
    )
    constants = slow.mean_outputs(tiny.weights, batch, by_position=ablation == "positional-mean")
    for i in range(4):
        expected = 0.0
        for row in slow.answer_rows(batch, i, name):
            clean = slow.run(tiny.weights, row.clean).logits
            logits = slow_masked(slow, tiny.weights, row, masks[i].double(), ablation, constants)
            expected += float(slow.measure(logits, clean, row, name))
        assert found.metric[i] == pytest.approx(expected, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("loss", LOSSES)
def test_pruning_lowers_the_loss_of_the_whole_answer(
    tiny: Any, make_answers: MakeAnswers, slow: ModuleType, loss: LossName
) -> None:
    """A step's loss at gates between 0 and 1, and its slope along a direction."""
    batch, metric = make_answers(), "logit-difference"
    runs = GateRuns(
        tiny.weights, batch, Loss(name=loss, metric=metric), "corrupt", joint=False, memory=2**30
    )
    exists = tiny.topology.edge_mask
    edges = torch.as_tensor(np.flatnonzero(exists)).repeat(4, 1)
    masks, direction = (random_masks(tiny.topology, 4, seed)[:, exists] for seed in (0, 1))
    losses, gradient = runs.measure(edges)(torch.arange(4), masks, 0)

    def expected(i: int, gates: torch.Tensor) -> float:
        mask = torch.zeros(exists.shape, dtype=torch.float64)
        mask[torch.as_tensor(exists)] = gates
        total = {"kl": 0.0, metric: 0.0}
        for name in total:
            for row in slow.answer_rows(batch, i, name):
                clean = slow.run(tiny.weights, row.clean).logits
                logits = slow_masked(slow, tiny.weights, row, mask)
                start = slow.measure(clean, clean, row, name)
                total[name] += float(slow.measure(logits, clean, row, name) - start)
        kl, distance = total["kl"], total[metric]
        return {"kl": kl, "task": abs(distance), "kl+task": kl + distance**2 / 4}[loss]

    for i in range(4):
        assert float(losses[i]) == pytest.approx(expected(i, masks[i]), rel=1e-9)
        up, down = (expected(i, masks[i] + sign * 1e-5 * direction[i]) for sign in (1, -1))
        slope = float((gradient[i] * direction[i]).sum())
        assert slope == pytest.approx((up - down) / 2e-5, rel=1e-5)


def test_pruning_mixes_answers_of_all_lengths(tiny_of: TinyOf, make_answers: MakeAnswers) -> None:
    """A fact's circuit is the one that it has alone, in one chunk or many."""
    model, batch = tiny_of("post-norm"), make_answers(n_shared=2)
    options: dict[str, Any] = {"n_edges": 30, "candidates": 0.8, "loss": "kl+task"}
    options |= {"recipe": kc.Recipe(steps=8)}
    together = kc.prune(model, batch, **options)
    assert (together.n_selected == 30).all()
    np.testing.assert_array_equal(kc.prune(model, batch, memory=1, **options).mask, together.mask)
    for i in (0, 2):
        alone = kc.prune(model, batch.facts([batch.fact_ids[i]]), **options)
        np.testing.assert_array_equal(alone.mask[0], together.mask[i])


@pytest.mark.parametrize(("style", "n_shared"), [("layernorm", 1), ("post-norm", 3)])
def test_answers_of_all_lengths_mix(
    tiny_of: TinyOf, make_answers: MakeAnswers, style: str, n_shared: int
) -> None:
    """In one batch or alone, in one chunk or many, with or without a shared prefix."""
    model = tiny_of(style)
    batch = make_answers(n_shared=n_shared)
    kept = np.random.default_rng(0).random((4, *model.topology.edge_mask.shape)) < 0.5
    circuits = circuits_of(model, kept)
    steps: dict[str, Any] = {"eap-ig-inputs": {"ig_steps": 3}, "exact": {}}
    scores = {
        method: kc.attribute(model, batch, method, **params).values
        for method, params in steps.items()
    }
    metric = kc.evaluate(model, batch, circuits).metric
    for method, together in scores.items():
        chunks = kc.attribute(model, batch, method, memory=1, **steps[method]).values
        np.testing.assert_allclose(chunks, together, rtol=0, atol=1e-11 * np.abs(together).max())
    np.testing.assert_allclose(kc.evaluate(model, batch, circuits, memory=1).metric, metric)
    for i in range(4):
        alone = batch.facts([batch.fact_ids[i]])
        for method, together in scores.items():
            np.testing.assert_allclose(
                kc.attribute(model, alone, method, **steps[method]).values[0],
                together[i],
                rtol=0,
                atol=1e-11 * np.abs(together).max(),
            )
        one = kc.Circuits.from_mask(
            circuits.mask[i : i + 1], model.topology, fact_ids=alone.fact_ids
        )
        assert kc.evaluate(model, alone, one).metric[0] == pytest.approx(metric[i], rel=1e-9)
    asked = Question(metric=get_metric("logit-difference"))
    shared, whole = (
        TokenRows.from_batch(batch, model.weights, share_prefix=share) for share in (True, False)
    )
    assert (shared.n_shared, whole.n_shared) == (n_shared, 0)
    values = [path_scores(model.weights, rows, asked, (0.0, 0.5)) for rows in (shared, whole)]
    torch.testing.assert_close(*values, rtol=1e-9, atol=1e-12)


def test_probe_asks_for_the_whole_answer(tiny: Any, make_answers: MakeAnswers) -> None:
    """Log-probability, rank and rank among candidates, one token after the other."""
    batch = make_answers()
    rng = np.random.default_rng(3)
    candidates = tuple(
        (target, *(tuple(rng.integers(0, 40, n).tolist()) for n in (1, 2, 3, 1)))
        for target in batch.targets
    )
    batch = replace(batch, candidates=candidates)
    for i, row in enumerate(kc.probe(tiny, batch)):
        prompt, target = batch.clean[i, : batch.lengths[i]].tolist(), batch.targets[i]
        own = log_p(tiny, prompt, target)
        assert row["logprob"] == pytest.approx(own, abs=1e-11)
        assert row["prob"] == pytest.approx(np.exp(own), rel=1e-10)
        ranks = []
        for step, token in enumerate(target):
            p = next_token(tiny, [*prompt, *target[:step]])
            ranks.append(1 + int((p > p[token]).sum()))
        assert row["rank"] == max(ranks)
        better = [log_p(tiny, prompt, answer) > own for answer in candidates[i] if answer != target]
        assert row["candidate_rank"] == 1 + sum(better)
        assert row["known"] == (not any(better))
    alone = [kc.probe(tiny, batch.rows([i]))[0]["logprob"] for i in range(4)]
    together = [row["logprob"] for row in kc.probe(tiny, batch, memory=1)]
    np.testing.assert_allclose(alone, together, rtol=1e-10)


@pytest.mark.parametrize("name", METRICS)
def test_rank_of_a_circuit_is_the_worst_over_the_answer(
    tiny: Any, make_answers: MakeAnswers, name: str
) -> None:
    batch = make_answers(((1, 1), (3, 1), (2, 3)), (5, 7, 6))
    whole = np.ones((3, *tiny.topology.edge_mask.shape), dtype=bool)
    result = kc.evaluate(tiny, batch, circuits_of(tiny, whole), metric=name, k=12)
    for i, target in enumerate(batch.targets):
        prompt, ranks = batch.clean[i, : batch.lengths[i]].tolist(), []
        for step, token in enumerate(target):
            p = next_token(tiny, [*prompt, *target[:step]])
            ranks.append(1 + int((p > p[token]).sum()))
        assert result.target_rank[i] == max(ranks)
        assert result.hit_at_k[i] == (max(ranks) <= 12)


def test_a_fact_may_mix_lengths(tiny_of: TinyOf, make_answers: MakeAnswers) -> None:
    """A fact's score is the mean over its prompts, whatever their lengths."""
    model, batch = tiny_of("qk-norm"), make_answers()
    prompts = kc.attribute(model, batch).values
    fact = replace(
        batch,
        fact_idx=np.array([0, 1, 0, 1]),
        fact_ids=("a", "b"),
        prompt_idx=np.array([0, 0, 1, 1]),
    )
    expected = np.stack([prompts[[0, 2]].mean(0), prompts[[1, 3]].mean(0)])
    np.testing.assert_allclose(kc.attribute(model, fact).values, expected, rtol=1e-9, atol=1e-12)


def test_every_pair_of_lengths_is_read_where_it_stands(
    tiny_of: TinyOf, make_answers: MakeAnswers
) -> None:
    """All pairs of lengths up to 3 at once."""
    model, pairs = tiny_of("parallel"), tuple(product((1, 2, 3), repeat=2))
    batch = make_answers(pairs, tuple(4 + i % 4 for i in range(len(pairs))))
    whole = np.ones((len(pairs), *model.topology.edge_mask.shape), dtype=bool)
    found = kc.evaluate(model, batch, circuits_of(model, whole)).metric
    expected = [
        expected_metric(model, batch, i, "logit-difference", "clean") for i in range(len(pairs))
    ]
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_probe_refuses_what_the_model_has_no_room_for(tiny: Any, make_answers: MakeAnswers) -> None:
    batch = make_answers()
    few = ((40,), batch.targets[0])
    with pytest.raises(CheckpointError, match="token id 40 is beyond the embedding"):
        kc.probe(tiny, replace(batch, candidates=(few,) * len(batch)))
    long = kc.PromptBatch.from_tokens([[1] * 25], [[1] * 25], [[1, 2]])
    with pytest.raises(CheckpointError, match="has 25 tokens; the model has 24 positions"):
        kc.probe(tiny, long)
