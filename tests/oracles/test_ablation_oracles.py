"""What ablated edges carry, against a twin with plain hooks on the plain HookedTransformer.

The twin runs one prompt at a time, so it knows no padding, no chunks and no shared prefix, and it
takes means by listing the outputs of every prompt. It shares nothing with the engine.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import kcircuits as kc
from kcircuits.core.facts import Use
from kcircuits.discovery.gate_runs import GateRuns, Loss
from kcircuits.models.backend import set_rotary_tables
from kcircuits.models.reference import double_throughout

ABLATIONS = ("corrupt", "zero", "mean", "positional-mean")
MEMORY = 2**30
D_VOCAB = 60
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "gpt_neox": {  # attention and MLP in parallel
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 32,
    },
    "llama": {  # grouped queries
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    },
}  # fmt: skip
# A fact's prompts: (clean length, use). Evaluation prompts may be the longest of all.
PROMPTS: tuple[tuple[int, int, Use], ...] = (
    (0, 5, "discovery"),
    (0, 7, "discovery"),
    (0, 9, "evaluation"),
    (1, 4, "discovery"),
    (1, 8, "discovery"),
    (1, 6, "evaluation"),
)

Outputs = Mapping[str, Tensor]
# (receiver, outputs so far) -> what is added to its input [pos, d_model].
Change = Callable[[str, Outputs], Tensor]


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> kc.Model:
    """A random model in float64 whose biases and norms are away from their defaults."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    config = AutoConfig.for_model(request.param, vocab_size=D_VOCAB, **CONFIGS[request.param])
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    plain.save_pretrained(folder)
    loaded = kc.load_model(folder, dtype=torch.float64)
    set_rotary_tables(loaded.hooked, torch.float64)
    return loaded


@pytest.fixture
def batch() -> kc.PromptBatch:
    """Two facts with prompts of many lengths; padding holds tokens that nothing may read."""
    return batch_of(PROMPTS)


def batch_of(
    prompts: tuple[tuple[int, int, Use], ...], *, n_padding: int = 0, seed: int = 0
) -> kc.PromptBatch:
    """Each prompt's tokens depend on its place and the seed alone."""
    width = max(length for _, length, _ in prompts) + n_padding
    generators = [np.random.default_rng([seed, i]) for i in range(len(prompts))]
    clean = np.stack([generator.integers(0, D_VOCAB, 40)[:width] for generator in generators])
    corrupt = np.stack([generator.integers(0, D_VOCAB, 40)[:width] for generator in generators])
    corrupt[:, :2] = clean[:, :2]
    pair = np.stack([generator.choice(D_VOCAB, 2, replace=False) for generator in generators])
    made = kc.PromptBatch.from_tokens(
        clean,
        corrupt,
        pair,
        lengths=[length for _, length, _ in prompts],
        fact_idx=[fact for fact, _, _ in prompts],
    )
    return replace(made, uses=tuple(use for _, _, use in prompts))


class Twin:
    """The plain model with a hook on every sender and every receiver."""

    def __init__(self, model: kc.Model) -> None:
        self.hooked: Any = model.hooked
        self.topology = model.topology
        self.hooked.set_use_attn_result(True)
        self.hooked.set_use_split_qkv_input(True)
        self.hooked.set_use_hook_mlp_in(True)
        if self.hooked.cfg.n_key_value_heads is not None:
            self.hooked.set_ungroup_grouped_query_attention(True)

    def run(self, tokens: Any, change: Change | None = None) -> tuple[Tensor, Outputs]:
        """Logits after the last token, and what every sender wrote."""
        out: dict[str, Tensor] = {}
        names = [f"h{head}" for head in range(self.topology.n_heads)]

        def changed(x: Tensor, *receivers: str) -> Tensor:
            if change is None:
                return x
            added = torch.stack([change(receiver, out) for receiver in receivers], 1)
            return x + (added if x.ndim == 4 else added[:, 0])

        def see(x: Tensor, hook: Any) -> Tensor:
            place, kind = hook.name.removeprefix("blocks."), hook.name.split("_")[-2]
            layer = int(place[0]) if place[0].isdigit() else None
            if place.endswith("hook_embed"):
                out["input"] = x[0]
            elif place.endswith("hook_result"):
                out.update({f"a{layer}.{h}": x[0, :, i] for i, h in enumerate(names)})
            elif place.endswith("hook_mlp_out"):
                out[f"m{layer}"] = x[0]
            elif place.endswith("hook_mlp_in"):
                return changed(x, f"m{layer}")
            elif place.endswith("_input"):
                return changed(x, *(f"a{layer}.{h}<{kind}>" for h in names))
            elif place == f"{self.topology.n_layers - 1}.hook_resid_post":
                return changed(x, "logits")
            return x

        with double_throughout(torch.float64):
            tokens = torch.as_tensor(tokens)[None]
            logits = self.hooked.run_with_hooks(tokens, fwd_hooks=[(lambda _: True, see)])
        return logits[0, -1], out

    def senders(self, receiver: str) -> list[tuple[int, str]]:
        """Those with an edge into a receiver."""
        column = self.topology.edge_mask[:, self.topology.backward_index(receiver)]
        return [(u, self.topology.forward_names[u]) for u in np.flatnonzero(column)]

    def circuit(self, tokens: Any, given: Outputs, mask: np.ndarray) -> Tensor:
        """Logits where each edge carries mask x current + (1 - mask) x given."""

        def change(receiver: str, out: Outputs) -> Tensor:
            column = mask[:, self.topology.backward_index(receiver)]
            total = torch.zeros_like(out["input"])
            for u, name in self.senders(receiver):
                total = total + (1 - float(column[u])) * (given[name] - out[name])
            return total

        return self.run(tokens, change)[0]

    def slopes(self, tokens: Any, metric: Callable[[Tensor], Tensor]) -> Outputs:
        """Gradient of a metric at every receiver's input [pos, d_model]."""
        shifts: dict[str, Tensor] = {}

        def change(receiver: str, out: Outputs) -> Tensor:
            shifts[receiver] = torch.zeros_like(out["input"], requires_grad=True)
            return shifts[receiver]

        value = metric(self.run(tokens, change)[0])
        return dict(zip(shifts, torch.autograd.grad(value, list(shifts.values())), strict=True))

    def given(self, batch: kc.PromptBatch, prompt: int, ablation: str) -> Outputs:
        """What the ablated edges of a prompt carry; means over the discovery prompts."""
        clean, corrupt = tokens_of(batch, prompt)
        outputs = self.run(corrupt if ablation == "corrupt" else clean)[1]
        if ablation == "corrupt":
            return outputs
        if ablation == "zero":
            return {name: torch.zeros_like(output) for name, output in outputs.items()}
        assert batch.uses is not None
        rows = [i for i, use in enumerate(batch.uses) if use == "discovery"]
        seen = [self.run(tokens_of(batch, i)[0])[1] for i in rows]
        found = {}
        for name, output in outputs.items():
            overall = torch.cat([each[name] for each in seen]).mean(0)
            at = []
            for pos in range(len(output)):
                here = [each[name][pos] for each in seen if pos < len(each[name])]
                by_pos = ablation == "positional-mean" and here
                at.append(torch.stack(here).mean(0) if by_pos else overall)
            found[name] = torch.stack(at)
        return found


def tokens_of(batch: kc.PromptBatch, prompt: int) -> tuple[np.ndarray, np.ndarray]:
    n = int(batch.lengths[prompt])
    return batch.clean[prompt, :n], batch.corrupt[prompt, :n]


def difference(batch: kc.PromptBatch, prompt: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits[batch.target[prompt]] - logits[batch.foil[prompt]]


def prompts_for(batch: kc.PromptBatch, use: Use, fact: int) -> list[int]:
    assert batch.uses is not None
    return [i for i, each in enumerate(batch.uses) if each == use and batch.fact_idx[i] == fact]


def random_masks(model: kc.Model, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed).random((2, *model.topology.edge_mask.shape))
    return (draw < 0.5) & model.topology.edge_mask


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_circuits_run_as_with_plain_hooks(
    model: kc.Model, batch: kc.PromptBatch, ablation: Any
) -> None:
    twin, masks = Twin(model), random_masks(model)
    found = kc.evaluate(
        model, batch, kc.Circuits.from_mask(masks, model.topology), ablation=ablation
    )
    empty = np.zeros_like(masks[0])
    for fact in range(2):
        (row,) = prompts_for(batch, "evaluation", fact)
        metric, (clean, _) = difference(batch, row), tokens_of(batch, row)
        given = twin.given(batch, row, ablation)
        with torch.no_grad():
            expected = [metric(twin.circuit(clean, given, mask)) for mask in (masks[fact], empty)]
            full = metric(twin.run(clean)[0])
        values = [found.metric[fact], found.empty_metric[fact], found.clean_metric[fact]]
        np.testing.assert_allclose(values, [float(x) for x in (*expected, full)], rtol=1e-9)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_eap_multiplies_by_what_plain_hooks_see(
    model: kc.Model, batch: kc.PromptBatch, ablation: Any
) -> None:
    """(ablated - clean output) times the gradient at the receiver, mean over a fact's prompts."""
    twin, topology = Twin(model), model.topology
    found = kc.attribute(model, batch, "eap", ablation=ablation).values
    for fact in range(2):
        expected = np.zeros_like(found[fact])
        rows = prompts_for(batch, "discovery", fact)
        for row in rows:
            clean, _ = tokens_of(batch, row)
            given, current = twin.given(batch, row, ablation), twin.run(clean)[1]
            for receiver, slope in twin.slopes(clean, difference(batch, row)).items():
                for u, name in twin.senders(receiver):
                    product = ((given[name] - current[name]) * slope).sum().item()
                    expected[u, topology.backward_index(receiver)] += product / len(rows)
        assert np.abs(found[fact] - expected).max() <= 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_pruning_lowers_the_divergence_that_plain_hooks_see(
    model: kc.Model, batch: kc.PromptBatch, ablation: Any
) -> None:
    """One step's loss at drawn gates on every edge, and its slope along one direction."""
    twin, topology = Twin(model), model.topology
    part = batch.with_use("discovery")
    runs = GateRuns(
        model.weights, part, Loss(name="kl", metric="logit-difference"), ablation, False, MEMORY
    )
    edges = torch.as_tensor(np.flatnonzero(topology.edge_mask)).repeat(2, 1)
    generator = torch.Generator().manual_seed(0)
    gates, direction = torch.rand(2, 2, edges.shape[1], generator=generator, dtype=torch.float64)
    losses, gradient = runs.measure(edges)(torch.arange(2), gates, 1)
    for fact in range(2):
        row = prompts_for(batch, "discovery", fact)[1]
        clean, _ = tokens_of(batch, row)
        given = twin.given(batch, row, ablation)

        def loss(shift: float, fact: int = fact, clean: Any = clean, given: Any = given) -> float:
            mask = np.zeros(topology.edge_mask.shape)
            mask[topology.edge_mask] = (gates[fact] + shift * direction[fact]).numpy()
            with torch.no_grad():
                full = twin.run(clean)[0].log_softmax(-1)
                logits = twin.circuit(clean, given, mask).log_softmax(-1)
            return float((full.exp() * (full - logits)).sum())

        assert float(losses[fact]) == pytest.approx(loss(0.0), rel=1e-9)
        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        assert float((gradient[fact] * direction[fact]).sum()) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_longer_prompts_and_padding_change_nothing(model: kc.Model, ablation: Any) -> None:
    """Whatever is judged beside a fact, and however wide its rows are padded."""
    masks = random_masks(model)
    alone = batch_of(PROMPTS)
    long: tuple[int, int, Use] = (0, 15, "evaluation")
    beside = batch_of((*PROMPTS, long), n_padding=3)
    scores, wide = (
        kc.attribute(model, each, "eap", ablation=ablation).values for each in (alone, beside)
    )
    np.testing.assert_allclose(wide, scores, rtol=1e-9, atol=1e-13)
    circuits = kc.Circuits.from_mask(masks, model.topology)
    few, many = (
        kc.evaluate(model, each, circuits, ablation=ablation).metric for each in (alone, beside)
    )
    assert many[1] == pytest.approx(few[1], rel=1e-9)
    assert many[0] != pytest.approx(few[0], rel=1e-3)  # the long prompt is one of its own
    single = kc.evaluate(model, beside, circuits, ablation=ablation, memory=1).metric
    np.testing.assert_allclose(single, many, rtol=1e-9)
