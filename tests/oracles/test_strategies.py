"""One step of every strategy against a reference step written out by hand, in float64.

The reference knows no batches, no padding and no optimiser class: each document runs alone, losses
and divergences are sums over its tokens, and AdamW is its published formula.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, TrainerCallback

from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.strategies.curriculum import choose_unlearned
from kcircuits.lab.strategies.main_docs import choose_first
from kcircuits.lab.training.anchor import Anchor, Anchored, divergence
from kcircuits.lab.training.batches import IGNORED
from kcircuits.lab.training.weights import trainable
from tests.contracts.continual_training import trainer_of_rows

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


def away(model: Any) -> Any:
    """The model with each trained weight moved a bit."""
    with torch.no_grad():
        for p in trainable(model).values():
            p.add_(torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p), alpha=0.05)
    return model


class Away(TrainerCallback):
    """Moves the weights after the epoch has begun: away from what they are pulled to."""

    def on_epoch_begin(self, *_: Any, model: Any, **__: Any) -> None:
        away(model)


class Begun(TrainerCallback):
    """Calls a function when an epoch has begun."""

    def __init__(self, told: Callable[[], None]) -> None:
        self.told = told

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.told()


@pytest.mark.parametrize("name", [n for n, each in STRATEGIES.items() if each.is_training])
def test_a_step_is_the_reference_step(name: str, tmp_path: Path) -> None:
    strategy = STRATEGIES[name]
    model = strategy.prepare(tiny(0), 1)
    if strategy.is_adapter:  # B is 0 at the start, and A's gradient with it
        with torch.no_grad():
            for key, p in trainable(model).items():
                if "lora_B" in key:
                    p.copy_(torch.linspace(-0.1, 0.1, p.numel(), dtype=p.dtype).view_as(p))
    home, there, told = copy.deepcopy(model), model, []
    trainer = trainer_of_rows(
        model, ROWS, tmp_path, lr=LR, anchor=strategy.anchor, progress=told.append
    )
    if strategy.anchor is not None:  # where both are alike, the divergence has no gradient
        trainer.add_callback(Away())
        there = away(copy.deepcopy(model))
    entropy, kl = slow_losses(there, home)
    weight = {"kl-base": 10.0, "kl-previous": 1.0}.get(name, 0.0)
    assert (strategy.anchor is not None) == (weight > 0)
    expected = slow_step(there, entropy + weight * kl)
    trainer.train()
    assert [step.loss for step in told] == pytest.approx([entropy.item()], rel=1e-12)
    for key, p in trainable(model).items():
        torch.testing.assert_close(p.detach(), expected[key], rtol=1e-7, atol=1e-9)


def test_an_anchored_model_stays_nearer_to_where_it_began(tmp_path: Path) -> None:
    divergences = []
    for weight in (0.0, 10.0):
        model = STRATEGIES["full"].prepare(tiny(2), 0)
        began, anchor = copy.deepcopy(model), Anchor(to="base", weight=weight)
        trainer_of_rows(model, ROWS, tmp_path, lr=LR, n_epochs=20, anchor=anchor).train()
        divergences.append(slow_losses(model, began)[1].item())
    assert divergences[1] < 0.5 * divergences[0]


@pytest.mark.parametrize("to", ["base", "previous"])
def test_an_anchor_is_where_an_epoch_or_the_training_began(to: Any, tmp_path: Path) -> None:
    began: list[Mapping[str, Tensor]] = []
    pulled_to: list[Mapping[str, Tensor]] = []
    model, anchor = STRATEGIES["full"].prepare(tiny(4), 0), Anchor(to=to, weight=1.0)
    trainer = trainer_of_rows(model, ROWS, tmp_path, lr=LR, n_epochs=3, anchor=anchor)

    def note() -> None:
        assert trainer.anchored is not None
        pulled_to.append(trainer.anchored.parameters)
        began.append({name: p.detach().clone() for name, p in trainable(model).items()})

    trainer.add_callback(Begun(note))
    trainer.train()
    for epoch, found in enumerate(pulled_to):
        expected = began[epoch if to == "previous" else 0]
        assert all(torch.equal(found[name], expected[name]) for name in expected), epoch
    assert not torch.equal(began[0]["model.norm.weight"], began[1]["model.norm.weight"])


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
    moved = anchored.logits(input_ids=ids)
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
