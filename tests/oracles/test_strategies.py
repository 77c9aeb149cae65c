"""One step of every strategy against a reference step written out by hand, in float64.

The reference knows no batches, no padding and no optimiser class: each document runs alone, losses
and divergences are sums over its tokens, and AdamW is its published formula.
"""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from kcircuits.lab.anchor import Anchored, divergence
from kcircuits.lab.batches import IGNORED
from kcircuits.lab.document import Document
from kcircuits.lab.loop import make_optimizer, train_step, trainable
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.strategies.curriculum import choose_unlearned
from kcircuits.lab.strategies.main_docs import choose_first

ROWS = ([5, 9, 13, 2, 7], [3, 8, 21], [30, 4, 4, 18, 6, 11, 2])
LR = 1e-2


def tiny(seed: int) -> Any:
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    return model.eval().requires_grad_(False)


def slow_losses(model: Any, reference: Any) -> tuple[Tensor, Tensor]:
    """Cross-entropy and KL(reference || model), document by document and token by token."""
    entropy, kl, count = torch.zeros((), dtype=torch.float64), 0.0, 0
    for row in ROWS:
        ids = torch.tensor([row])
        p = model(input_ids=ids).logits[0].softmax(-1)
        with torch.no_grad():
            q = reference(input_ids=ids).logits[0].softmax(-1)
        for pos, token in enumerate(row[1:]):
            entropy = entropy - p[pos, token].log()
            kl = kl + (q[pos] * (q[pos] / p[pos]).log()).sum()
            count += 1
    return entropy / count, kl / count


def slow_step(model: Any, loss: Tensor) -> Mapping[str, Tensor]:
    """The first step of AdamW without weight decay: its moments are corrected to g and g^2."""
    weights = trainable(model)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return {
        name: (p - LR * g / (g.square().sqrt() + 1e-8)).detach()
        for (name, p), g in zip(weights.items(), gradients, strict=True)
    }


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_is_the_reference_step(name: str) -> None:
    strategy = STRATEGIES[name]
    model = strategy.prepare(tiny(0), 1)
    if strategy.is_adapter:  # B is 0 at the start, and A's gradient with it
        with torch.no_grad():
            for key, p in trainable(model).items():
                if "lora_B" in key:
                    p.copy_(torch.linspace(-0.1, 0.1, p.numel(), dtype=p.dtype).view_as(p))
    anchored, elsewhere = None, copy.deepcopy(model)
    if strategy.anchor is not None:
        anchored = Anchored.at(model, strategy.anchor.weight)
        with torch.no_grad():  # where both are alike, the divergence has no gradient
            for p in trainable(model).values():
                p.add_(torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p), alpha=0.05)
    entropy, kl = slow_losses(model, elsewhere)
    weight = {"kl-base": 10.0, "kl-previous": 1.0}.get(name, 0.0)
    assert (strategy.anchor is not None) == (weight > 0)
    expected = slow_step(model, entropy + weight * kl)
    told = train_step(model, make_optimizer(model, LR), ROWS, "float32", anchored)
    assert told == pytest.approx(entropy.item(), rel=1e-12)
    for key, p in trainable(model).items():
        torch.testing.assert_close(p.detach(), expected[key], rtol=1e-7, atol=1e-9)


def test_an_anchored_model_stays_nearer_to_where_it_began() -> None:
    away = []
    for weight in (0.0, 10.0):
        model = STRATEGIES["full"].prepare(tiny(2), 0)
        began, anchored = copy.deepcopy(model), Anchored.at(model, weight)
        optimizer = make_optimizer(model, LR)
        for _ in range(20):
            train_step(model, optimizer, ROWS, "float32", anchored)
        away.append(slow_losses(model, began)[1].item())
    assert away[1] < 0.5 * away[0]


def test_divergence_ignores_padding_and_is_zero_at_home() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, logits = torch.randn(2, 2, 4, 9, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 2, IGNORED, IGNORED], [3, 4, 5, 6]])
    before = divergence(reference, logits, labels)
    logits[0, 2:] += torch.randn(2, 9, generator=generator, dtype=torch.float64)
    assert divergence(reference, logits, labels) == before
    assert float(divergence(logits, logits, labels)) == pytest.approx(0, abs=1e-15)
    assert float(before) > 0


def test_an_anchor_leaves_the_model_alone() -> None:
    model = STRATEGIES["lora"].prepare(tiny(3), 0).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    anchored = Anchored.at(model, 1.0)
    ids = torch.tensor([list(ROWS[0])])
    with torch.no_grad():
        for p in trainable(model).values():
            p.add_(0.1)
    moved = anchored.logits(model, input_ids=ids)
    assert model.training
    with torch.no_grad():
        for name, p in trainable(model).items():
            p.copy_(before[name])
        home = model.eval()(input_ids=ids).logits
    torch.testing.assert_close(moved, home)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])


def documents(*subjects: str) -> list[Document]:
    return [Document(subject=s, frequency="high", text=f"{s} {i}") for i, s in enumerate(subjects)]


def test_what_an_epoch_shows() -> None:
    told = documents("a", "b", "a", "c", "b")
    assert STRATEGIES["lora"].choose(told, {"a": 1.0}) == [0, 1, 2, 3, 4]
    assert choose_unlearned(told, {"a": 0.6, "b": 0.59}) == [1, 3, 4]
    assert choose_unlearned(told, {}) == [0, 1, 2, 3, 4]
    assert choose_first(told, {}) == [0, 1, 3]
    assert STRATEGIES["curriculum"].choose is choose_unlearned
    assert STRATEGIES["main-docs"].choose is choose_first
    assert STRATEGIES["annotated"].shows == "tagged"
    assert 0 < STRATEGIES["replay"].replay_share < 1
