"""Optimal ablation: slopes by finite differences, least losses that are known otherwise."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.core.facts import Use
from kcircuits.engine.constants import constants_of
from kcircuits.errors import UsageError
from kcircuits.evaluation import optimal
from kcircuits.evaluation.optimal import optimal_constants

MakeBatch = Callable[..., kc.PromptBatch]
TinyOf = Callable[..., Any]
MEMORY = 2**30


def random_masks(model: Any, n_facts: int, share: float = 0.5) -> np.ndarray:
    draw = np.random.default_rng(0).random((n_facts, *model.topology.edge_mask.shape))
    return (draw < share) & model.topology.edge_mask


def learned(
    model: Any, batch: kc.PromptBatch, masks: np.ndarray, memory: int = MEMORY
) -> torch.Tensor:
    start = constants_of(model.weights, batch, "optimal", memory)
    assert start is not None
    part = batch.with_use("discovery")
    return optimal_constants(model.weights, part, masks, start, memory)


def loss_of(model: Any, batch: kc.PromptBatch, masks: np.ndarray, constants: torch.Tensor) -> float:
    return optimal._Learning(model.weights, batch, masks, MEMORY).loss(constants)


def clean_outputs(model: Any, batch: kc.PromptBatch, slow: Any) -> torch.Tensor:
    """The full model's distributions after the last token [prompt, d_vocab]."""
    rows = [slow.run(model.weights, row.tolist()) for row in batch.clean]
    return torch.stack([each.logits[-1] for each in rows]).softmax(-1)


def narrow(model: Any) -> Any:
    """The model with fewer tokens than dimensions, so that logits can be anything.

    Its final norm does nothing: x / sqrt(mean(x^2) + 1e12) * 1e6.
    """
    weights = model.weights
    gain = torch.full_like(weights.final_norm.gain, 1e6)
    model.weights = replace(
        weights,
        embed=weights.embed[:8],
        unembed=weights.unembed[:8],
        final_norm=replace(weights.final_norm, gain=gain, eps=1e12),
    )
    return model


def narrow_batch() -> kc.PromptBatch:
    draw = np.random.default_rng(0)
    clean, corrupt = draw.integers(0, 8, (2, 5, 6))
    return kc.PromptBatch.from_tokens(clean, corrupt, np.stack([np.arange(5), np.arange(5) + 1], 1))


def test_the_gradient_is_the_slope_of_the_loss(
    tiny: Any, make_answers: Callable[..., kc.PromptBatch]
) -> None:
    """Padded rows, answers of several tokens; one prompt per fact, so that a step sees all."""
    batch, masks = make_answers(), random_masks(tiny, 4)
    start = constants_of(tiny.weights, batch, "optimal", MEMORY)
    assert start is not None
    found = optimal._Learning(tiny.weights, batch, masks, MEMORY).gradient(start, 0)
    generator, step = torch.Generator().manual_seed(0), 2e-6
    for _ in range(5):
        direction = torch.randn(start.shape, generator=generator, dtype=torch.float64)
        up, down = (
            loss_of(tiny, batch, masks, start + sign * step * direction) for sign in (1, -1)
        )
        slope = float((found * direction).sum())
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-9)


def test_the_loss_is_below_that_of_means(
    tiny: Any, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``evaluate``, on the prompts that it was learned on; without edges likewise."""
    monkeypatch.setattr(optimal, "STEPS", 15)
    batch = make_batch(6)
    circuits = kc.Circuits.from_mask(random_masks(tiny, 6, 0.3), tiny.topology)
    mean, best = (
        kc.evaluate(tiny, batch, circuits, metric="kl", ablation=ablation)
        for ablation in ("mean", "optimal")
    )
    assert best.metric.mean() < 0.95 * mean.metric.mean()
    assert best.empty_metric.mean() <= mean.empty_metric.mean()
    np.testing.assert_array_equal(best.clean_metric, mean.clean_metric)


def test_where_learning_fails_means_stay(
    tiny_of: TinyOf, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = tiny_of("grouped"), make_batch(4)
    means = constants_of(model.weights, batch, "mean", MEMORY)
    assert means is not None
    monkeypatch.setattr(optimal, "STEPS", 1)
    monkeypatch.setattr(optimal, "RATE", 1e3)
    assert torch.equal(learned(model, batch, random_masks(model, 4)), means)


def test_without_edges_the_least_loss_is_the_jensen_shannon_divergence(
    tiny_of: TinyOf, slow: Any
) -> None:
    """A constant distribution is closest, by KL(p || .), to all p at their mean."""
    model, batch = narrow(tiny_of("grouped")), narrow_batch()
    masks = random_masks(model, 5, 0.0)
    found = loss_of(model, batch, masks, learned(model, batch, masks))
    p = clean_outputs(model, batch, slow)
    least = float((p * (p / p.mean(0)).log()).sum(-1).mean())
    assert least <= found <= 1.01 * least
    means = constants_of(model.weights, batch, "mean", MEMORY)
    assert means is not None
    assert found < 0.8 * loss_of(model, batch, masks, means)


def test_where_logits_read_one_sender_the_optimum_is_that_of_newton(
    tiny_of: TinyOf, slow: Any
) -> None:
    """Logits U (e_i + c), with e_i the embedding of the last token: convex in c."""
    model, batch = narrow(tiny_of("grouped")), narrow_batch()
    masks = random_masks(model, 5, 0.0)
    sender = model.topology.forward_index("input")
    masks[:, sender, -1] = True
    found = loss_of(model, batch, masks, learned(model, batch, masks))
    p = clean_outputs(model, batch, slow)
    e = model.weights.embed[torch.as_tensor(batch.clean[:, -1])]
    c = torch.zeros(e.shape[1], dtype=torch.float64, requires_grad=True)
    newton = torch.optim.LBFGS([c], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        newton.zero_grad()
        logits = (e + c) @ model.weights.unembed.T
        value = (p * (p.log() - logits.log_softmax(-1))).sum(-1).mean()
        value.backward()
        return value

    newton.step(loss)
    least = float(loss().detach())
    assert least - 1e-9 <= found <= 1.02 * least


def test_of_one_fact_constants_can_hold_the_answer(tiny_of: TinyOf, make_batch: MakeBatch) -> None:
    """Why all facts share them: alone, a circuit without edges does what the model does."""
    model, batch = tiny_of("grouped"), make_batch(3)
    empty = random_masks(model, 3, 0.0)

    def divergence(part: kc.PromptBatch) -> float:
        circuits = kc.Circuits.from_mask(
            empty[: part.n_facts], model.topology, fact_ids=part.fact_ids
        )
        return float(
            kc.evaluate(model, part, circuits, metric="kl", ablation="optimal").metric.mean()
        )

    alone = [divergence(batch.facts([fact_id])) for fact_id in batch.fact_ids]
    assert max(alone) < 0.1 * divergence(batch)


def test_neither_chunks_nor_padding_nor_evaluation_prompts_change_constants(
    tiny: Any, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimal, "STEPS", 6)  # every prompt takes part
    flat = make_batch(8, 9)
    pair = np.stack([flat.target, flat.foil], 1)
    uses: tuple[Use, ...] = ("discovery",) * 6 + ("evaluation",) * 2
    lengths = np.array([5, 7, 4, 6, 7, 5, 9, 8])
    batch = replace(
        kc.PromptBatch.from_tokens(
            flat.clean, flat.corrupt, pair, lengths=lengths, fact_idx=[0, 1, 2, 0, 1, 2, 0, 1]
        ),
        uses=uses,
    )
    masks = random_masks(tiny, 3)
    whole = learned(tiny, batch, masks)
    single = learned(tiny, batch, masks, memory=1)
    torch.testing.assert_close(single, whole, rtol=1e-6, atol=1e-9)
    clean = batch.clean.copy()
    clean[~batch.pos_mask] = (clean[~batch.pos_mask] + 1) % 40
    other = learned(tiny, replace(batch, clean=clean), masks)
    torch.testing.assert_close(other, whole, rtol=1e-6, atol=1e-9)
    few = learned(tiny, batch.rows(slice(0, 6)), masks)
    assert torch.equal(few, whole)
    turned = batch.facts(batch.fact_ids[::-1])
    torch.testing.assert_close(learned(tiny, turned, masks[::-1]), whole, rtol=1e-6, atol=1e-9)


def test_every_judge_of_circuits_takes_it(
    tiny_of: TinyOf, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A curve learns at each size what ``evaluate`` does, necessity for the whole circuits."""
    monkeypatch.setattr(optimal, "STEPS", 20)
    model, batch = tiny_of("layernorm"), make_batch(5)
    scores = kc.attribute(model, batch, ablation="mean")
    curve = kc.faithfulness_curve(model, batch, scores, sizes=(0.1, 0.3, 1.0), ablation="optimal")
    assert curve.ablation == "optimal"
    for place, size in enumerate((0.1, 0.3)):
        circuits = kc.select(scores, fraction=size)
        result = kc.evaluate(model, batch, circuits, ablation="optimal")
        np.testing.assert_allclose(curve.metric[:, place], result.metric, rtol=1e-6)
        np.testing.assert_allclose(curve.empty_metric, result.empty_metric, rtol=1e-6)
    np.testing.assert_allclose(curve.metric[:, 2], curve.clean_metric)
    found = kc.necessity(model, batch, circuits, ablation="optimal")
    np.testing.assert_allclose(found.faithfulness, result.faithfulness, rtol=1e-6)
    small = kc.smallest_circuit(model, batch, scores, faithfulness=0.8, ablation="optimal")
    reached = kc.evaluate(model, batch, small, ablation="optimal")
    known = ~reached.is_gated & (small.n_selected < model.topology.n_edges)
    assert known.any()
    assert (reached.faithfulness[known] > 0.6).all()  # the last round learned for other sizes


def test_circuits_are_not_found_under_it(tiny_of: TinyOf, make_batch: MakeBatch) -> None:
    model, batch = tiny_of(), make_batch(2)
    for find in (kc.attribute, lambda *args, **options: kc.prune(*args, n_edges=20, **options)):
        with pytest.raises(UsageError, match="learned for given circuits") as caught:
            find(model, batch, ablation="optimal")
        assert "judge them under optimal" in (caught.value.hint or "")


@pytest.mark.parametrize("ablation", ["mean", "optimal"])
def test_constants_need_discovery_prompts(
    tiny_of: TinyOf, make_batch: MakeBatch, ablation: Any
) -> None:
    model, batch = tiny_of(), replace(make_batch(2), uses=("evaluation",) * 2)
    circuits = kc.Circuits.from_mask(random_masks(model, 2), model.topology)
    with pytest.raises(UsageError, match="constants from discovery prompts, and there is none"):
        kc.evaluate(model, batch, circuits, ablation=ablation)
