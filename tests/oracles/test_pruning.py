"""Edge pruning: gates against simulation, convergence, independence, a planted circuit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.discovery.edge_pruning import LOSSES, LossName
from kcircuits.discovery.gate_runs import Loss
from kcircuits.discovery.hard_concrete import expected, move_to_count, sample
from kcircuits.discovery.prune import seed_overlap
from kcircuits.discovery.prune_folds import prune_folds
from kcircuits.discovery.pruning import Recipe, train_gates
from kcircuits.engine.masked import circuit_logits, set_stage
from kcircuits.engine.tokens import TokenRows
from kcircuits.errors import UsageError

MakeBatch = Callable[..., kc.PromptBatch]
SHORT = Recipe(steps=40)


def test_the_mean_of_a_gate_is_that_of_its_draws() -> None:
    log_alpha = torch.linspace(-5, 5, 11, dtype=torch.float64).repeat(1, 4000).reshape(1, -1)
    draws = sample(log_alpha, [torch.Generator().manual_seed(0)]).values
    seen = draws.unflatten(1, (-1, 11)).mean(1)[0]
    assert (seen - expected(log_alpha)[0, :11]).abs().max() < 0.02  # 3 standard errors of 4,000


def test_the_slope_of_a_gate_is_that_of_its_value() -> None:
    log_alpha = torch.linspace(-3, 3, 50, dtype=torch.float64)[None]
    step = 1e-6
    here, up, down = (
        sample(log_alpha + shift, [torch.Generator().manual_seed(3)]) for shift in (0, step, -step)
    )
    slope = (up.values - down.values) / (2 * step)
    assert ((here.values > 0) & (here.values < 1)).sum() > 10
    torch.testing.assert_close(here.slope, slope, atol=1e-6, rtol=1e-6)


def test_gates_move_to_the_wanted_number() -> None:
    log_alpha = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    for wanted in (5.0, 50.0, 400.0):
        moved = move_to_count(log_alpha, wanted)
        assert (expected(moved).sum(1) - wanted).abs().max() < 1e-4 * wanted
        assert torch.equal(moved.argsort(), log_alpha.argsort())


def test_the_expected_number_converges_for_every_fact(tiny: Any, make_batch: MakeBatch) -> None:
    batch, n_edges = make_batch(3), 30
    circuits = kc.prune(tiny, batch, n_edges=n_edges, candidates=0.8, recipe=SHORT)
    assert circuits.n_expected is not None
    assert (np.abs(circuits.n_expected - n_edges) <= 0.05 * n_edges).all()
    assert circuits.n_selected.tolist() == [n_edges] * 3
    assert (circuits.n_edges <= n_edges).all()
    assert circuits.scores is not None
    assert circuits.scores.min() >= 0
    assert circuits.scores.max() <= 1
    np.testing.assert_allclose(circuits.scores.sum((1, 2)), circuits.n_expected, rtol=1e-3)


def test_a_fact_does_not_depend_on_its_neighbours(
    tiny_of: Callable[..., Any], make_batch: MakeBatch
) -> None:
    model, batch = tiny_of("qk-norm"), make_batch(3, n_shared=2)
    options: dict[str, Any] = {"n_edges": 25, "candidates": 0.8, "recipe": SHORT}
    together = kc.prune(model, batch, **options)
    for fact_id in batch.fact_ids:
        alone = kc.prune(model, batch.facts([fact_id]), **options)
        row = together.fact_ids.index(fact_id)
        assert np.array_equal(alone.mask[0], together.mask[row])
    one_by_one = kc.prune(model, batch, memory=1, **options)
    assert np.array_equal(one_by_one.mask, together.mask)


def test_the_seed_decides(tiny_of: Callable[..., Any], make_batch: MakeBatch) -> None:
    model, batch = tiny_of("grouped"), make_batch(2)
    first, again, other = (
        kc.prune(model, batch, n_edges=25, candidates=0.8, recipe=replace(SHORT, seed=seed))
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.mask, other.mask)
    overlap = seed_overlap(first, other)
    for fact_id in batch.fact_ids:
        a, b = set(first.edges(fact_id)), set(other.edges(fact_id))
        assert overlap[fact_id] == pytest.approx(len(a & b) / len(a | b))
        assert 0 < overlap[fact_id] < 1


def test_pruning_is_more_faithful_than_its_warm_start(
    tiny_of: Callable[..., Any], make_batch: MakeBatch
) -> None:
    """On the prompts that it learned from, by the loss that it lowers."""
    model, batch = tiny_of("layernorm"), make_batch(4)
    init = kc.attribute(model, batch, metric="kl")
    recipe = Recipe(steps=150)
    pruned = kc.prune(model, batch, n_edges=40, init=init, candidates=0.9, recipe=recipe)
    kl = {
        name: kc.evaluate(model, batch, circuits, metric="kl").metric.mean()
        for name, circuits in (
            ("pruned", pruned),
            ("attributed", kc.select(init, n_edges=40)),
        )
    }
    assert kl["pruned"] < 0.9 * kl["attributed"]


def test_joint_mode_gives_one_circuit(tiny_of: Callable[..., Any], make_batch: MakeBatch) -> None:
    model, batch = tiny_of("grouped"), make_batch(3)
    circuits = kc.prune(model, batch, n_edges=30, candidates=0.8, joint=True, recipe=SHORT)
    assert len(circuits) == 3
    assert (circuits.mask == circuits.mask[:1]).all()
    assert circuits.n_edges[0] > 0


@pytest.mark.parametrize(
    "options",
    [{"loss": "task"}, {"loss": "kl+task"}, {"ablation": "mean"}, {"ablation": "zero"}],
)
def test_losses_and_ablations(
    tiny_of: Callable[..., Any], make_batch: MakeBatch, options: dict[str, Any]
) -> None:
    model, batch = tiny_of("post-norm"), make_batch(2)
    circuits = kc.prune(model, batch, n_edges=30, candidates=0.8, recipe=SHORT, **options)
    assert circuits.n_expected is not None
    assert (np.abs(circuits.n_expected - 30) <= 1.5).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_what_they_say(
    tiny_of: Callable[..., Any], make_answers: MakeBatch, loss: LossName
) -> None:
    """Of answers of several tokens: KL where the target is read, the metric over both answers."""
    model, batch = tiny_of("layernorm"), make_answers()
    found = Loss(name=loss, metric="logit-difference")
    rows = TokenRows.from_batch(batch, model.weights, with_foil=found.with_foil)
    stage = set_stage(model.weights, rows)
    shape = (len(rows.clean), *model.topology.edge_mask.shape)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = circuit_logits(model.weights, stage, mask)
    full, part, expected = stage.clean_logits.log_softmax(-1), logits.log_softmax(-1), []
    for prompt in range(len(batch)):
        kl = distance = 0.0
        for read in range(len(logits)):
            if rows.reads.prompt[read] == prompt:
                sign, token = float(rows.reads.sign[read]), int(rows.reads.token[read])
                if sign > 0:
                    kl += float((full[read].exp() * (full[read] - part[read])).sum())
                other = int(rows.reads.other[read])
                change = logits[read] - stage.clean_logits[read]
                normal = change.new_tensor(0.0)
                if other >= 0:
                    normal = change[other]
                else:
                    normal = logits[read].logsumexp(-1) - stage.clean_logits[read].logsumexp(-1)
                distance += sign * float(change[token] - normal)
        expected.append({"kl": kl, "task": abs(distance), "kl+task": kl + distance**2 / 4}[loss])
    torch.testing.assert_close(found.of(stage)(logits), torch.tensor(expected).double())


def test_every_size_has_its_stage(tiny_of: Callable[..., Any], make_batch: MakeBatch) -> None:
    model, batch = tiny_of("grouped"), make_batch(2)
    small, large = kc.prune_sizes(model, batch, [20, 60], candidates=0.9, recipe=SHORT)
    assert small.n_selected.tolist() == [20, 20]
    assert large.n_selected.tolist() == [60, 60]
    assert large.n_expected is not None
    assert (np.abs(large.n_expected - 60) <= 3).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_edges": 20, "loss": "mse"}, "loss is 'mse'"),
        ({"n_edges": 20, "candidates": 0.01}, "edges are wanted of"),
        ({}, "fraction is None"),
        ({"n_edges": 20, "ablation": "optimal"}, "ablation is 'optimal'"),
        ({"n_edges": 20, "metric": "loss", "candidates": 0.5}, "there is no metric 'loss'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    tiny_of: Callable[..., Any], make_batch: MakeBatch, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        kc.prune(tiny_of(), make_batch(), recipe=SHORT, **options)


def test_folds_are_trained_on_their_own_prompts(
    tiny_of: Callable[..., Any], make_batch: MakeBatch
) -> None:
    """A fold is what pruning gives on that part of the prompts alone."""
    model, flat = tiny_of("grouped"), make_batch(8)
    pair = np.stack([flat.target, flat.foil], 1)
    batch = kc.PromptBatch.from_tokens(
        flat.clean, flat.corrupt, pair, fact_idx=[0, 1, 0, 1, 0, 1, 0, 1]
    )
    options: dict[str, Any] = {"candidates": 0.8, "recipe": SHORT}
    scores = prune_folds(model, batch, 30, n_folds=2, **options)
    assert scores.prompt_idx is not None
    assert scores.fact_idx.tolist() == [0, 0, 1, 1]
    assert scores.prompt_idx.tolist() == [0, 1, 0, 1]
    part = batch.rows([0, 4])  # the first and third prompt of fact 0
    alone = kc.PromptBatch.from_tokens(
        part.clean,
        part.corrupt,
        np.stack([part.target, part.foil], 1),
        fact_idx=[0, 0],
        fact_ids=["fact-0 (fold 0)"],
    )
    expected_scores = kc.prune(model, alone, n_edges=30, **options).scores
    assert expected_scores is not None
    np.testing.assert_allclose(scores.values[0], expected_scores[0], atol=1e-6)
    assert scores.provenance.is_importance


def test_training_stops_when_every_circuit_has_settled() -> None:
    """Without a gradient nothing moves; with one that keeps turning training goes to the end."""
    recipe, told = Recipe(steps=100), []

    def still(facts: torch.Tensor, gates: torch.Tensor, step: int) -> Any:
        return torch.zeros(len(facts)), torch.zeros_like(gates)

    trained = train_gates(["a", "b"], 200, [20], still, recipe, told.append)
    assert told[-1].number < 60
    assert told[-1].n_steps == 100
    kept = trained[20].log_alpha.topk(20, 1).indices.sort(1).values
    assert torch.equal(kept, torch.arange(20).repeat(2, 1))  # the order of candidates
    assert (trained[20].gates.sum(1) - 20).abs().max() < 1

    def turning(facts: torch.Tensor, gates: torch.Tensor, step: int) -> Any:
        noise = torch.randn(gates.shape, generator=torch.Generator().manual_seed(step))
        return torch.zeros(len(facts)), torch.where((facts == 0)[:, None], noise, 0.0)

    told.clear()
    train_gates(["a", "b"], 200, [20], turning, recipe, told.append)
    assert told[-1].number == 100
    assert [step.n_facts for step in told[::99]] == [2, 1]
