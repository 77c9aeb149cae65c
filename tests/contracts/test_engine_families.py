"""The engine on every family: circuits are patched runs of transformers, scores are slopes of them.

The oracle of circuits is transformers alone, one prompt at a time and without padding: hooks give
what an attention layer or MLP last projects the values that it has on the corrupt prompt.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import kcircuits as kc
from kcircuits.engine.gradient import circuit_gradient
from kcircuits.engine.masked import circuit_logits, set_stage
from kcircuits.engine.metrics import get_metric
from kcircuits.engine.parity import checked_weights
from kcircuits.engine.tokens import TokenRows
from kcircuits.errors import CheckpointError
from kcircuits.models.backend import set_rotary_tables
from kcircuits.models.reference import double_throughout

MakeFolder = Callable[..., Path]
# What ``a0``, ``m0``, ... give to their last projection -> what it gets instead; None: the same.
See = Callable[[str, Tensor], Tensor | None]
STEP = 1e-5
# The modules of transformers through which heads and MLPs write.
HEADS_OUT = (".attn.c_proj", ".attention.dense", ".self_attn.dense", ".self_attn.o_proj")
MLP_OUT = (".mlp.c_proj", ".mlp.dense_4h_to_h", ".mlp.fc2", ".mlp.down_proj")


@pytest.fixture(scope="module")
def loaded(variant: str, tiny_folder: MakeFolder) -> kc.Model:
    """Each variant in float64, its rotary angles too."""
    model = kc.load_model(tiny_folder(variant), dtype=torch.float64)
    set_rotary_tables(model.hooked, torch.float64)
    return model


@pytest.fixture(scope="module")
def plain(variant: str, tiny_folder: MakeFolder, plain_model: Callable[..., Any]) -> Any:
    """The same model in transformers alone."""
    return plain_model(tiny_folder(variant))


def plain_logits(plain: Any, tokens: Any, see: See) -> Tensor:
    """Logits after the last token."""

    def hook(name: str, _module: Any, given: tuple[Tensor]) -> Tensor | None:
        return see(name, given[0])

    handles = []
    for kind, endings in (("a", HEADS_OUT), ("m", MLP_OUT)):
        modules = [module for name, module in plain.named_modules() if name.endswith(endings)]
        assert len(modules) == plain.config.num_hidden_layers
        for layer, module in enumerate(modules):
            handles.append(module.register_forward_pre_hook(partial(hook, f"{kind}{layer}")))
    try:
        with double_throughout(torch.float64), torch.no_grad():
            return plain(torch.as_tensor(tokens)[None]).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


def patched_logits(plain: Any, clean: Any, corrupt: Any, removed: Collection[str]) -> Tensor:
    """Logits on the clean prompt where removed senders write what they do on the corrupt one."""
    heads, given = range(plain.config.num_attention_heads), {}

    def patch(name: str, x: Tensor) -> Tensor:
        parts = [name] if name[0] == "m" else [f"{name}.h{head}" for head in heads]
        sources = (given[name] if part in removed else x for part in parts)
        return torch.cat([y.chunk(len(parts), -1)[i] for i, y in enumerate(sources)], -1)

    plain_logits(plain, corrupt, given.__setitem__)
    return plain_logits(plain, corrupt if "input" in removed else clean, patch)


def test_engine_reproduces_the_plain_model(loaded: kc.Model) -> None:
    assert checked_weights(loaded) is loaded.weights


def test_engine_that_computes_another_model_is_refused(loaded: kc.Model) -> None:
    spoiled = replace(loaded)  # a model of its own: the first one was checked already
    weights = spoiled.weights
    spoiled.__dict__["_weights"] = replace(weights, embed=weights.embed * 1.001)
    with pytest.raises(CheckpointError, match="differ from those of transformers"):
        kc.attribute(spoiled, kc.PromptBatch.from_tokens([[1, 2]], [[3, 2]], [[4, 5]]))


@pytest.mark.parametrize("share", [0.0, 1.0, 0.3, 0.5, 0.7])
def test_removed_senders_are_patched_in_transformers(
    loaded: kc.Model, plain: Any, batch: kc.PromptBatch, share: float
) -> None:
    """The full circuit has the clean logits, the empty one those of the corrupt run."""
    topology = loaded.topology
    is_removed = np.random.default_rng(0).random(topology.n_forward) < share
    if loaded.weights.attention[0].post_norm is not None:
        # One norm scales all heads of a layer: patched before it, they change each other.
        for layer in range(topology.n_layers):
            first = topology.n_before_attention(layer)
            is_removed[first : first + topology.n_heads] = is_removed[first]
    mask = np.repeat((topology.edge_mask & ~is_removed[:, None])[None], len(batch), 0)
    found = kc.evaluate(loaded, batch, kc.Circuits.from_mask(mask, topology))
    removed = {name for name, gone in zip(topology.forward_names, is_removed, strict=True) if gone}
    expected = []
    for i, n in enumerate(batch.lengths):
        logits = patched_logits(plain, batch.clean[i, :n], batch.corrupt[i, :n], removed)
        expected.append(float(logits[batch.targets[i][0]] - logits[batch.foils[i][0]]))
    np.testing.assert_allclose(found.metric, expected, rtol=1e-9, atol=1e-11)
    if share in (0.0, 1.0):
        same = found.empty_metric if share else found.clean_metric
        np.testing.assert_allclose(same, expected, rtol=1e-9, atol=1e-11)


def metrics_without(
    model: kc.Model, batch: kc.PromptBatch, shares: Sequence[float]
) -> Float[Tensor, "share edge prompt"]:
    """Logit differences of runs in which one edge alone is corrupted, by each share of it."""
    edges = np.argwhere(model.topology.edge_mask)
    n_runs = len(shares) * len(edges)
    repeated = batch.rows(np.tile(np.arange(len(batch)), n_runs))
    rows = TokenRows.from_batch(repeated, model.weights)
    masks = torch.as_tensor(model.topology.edge_mask, dtype=torch.float64).repeat(n_runs, 1, 1)
    for run, (share, (u, v)) in enumerate(product(shares, edges)):
        masks[run, u, v] -= share
    stage = set_stage(model.weights, rows)
    logits = circuit_logits(model.weights, stage, masks.repeat_interleave(len(batch), 0))
    values = get_metric("logit-difference").by_prompt(logits, stage.clean_logits, rows)
    return values.unflatten(0, (len(shares), len(edges), len(batch)))


def test_eap_is_the_slope_of_every_edge(loaded: kc.Model, batch: kc.PromptBatch) -> None:
    """d metric / d (share of the edge that is corrupted), for q, k, v, MLPs and logits alike."""
    up, down = metrics_without(loaded, batch, (STEP, -STEP))
    slopes = ((up - down) / (2 * STEP)).numpy()
    found = kc.attribute(loaded, batch, "eap").values[:, loaded.topology.edge_mask].T
    assert np.abs(found - slopes).max() <= 1e-6 * np.abs(slopes).max()


def test_exact_is_one_run_per_edge(loaded: kc.Model, batch: kc.PromptBatch) -> None:
    clean, corrupted = metrics_without(loaded, batch, (0.0, 1.0))
    effects = (corrupted - clean).numpy()
    found = kc.attribute(loaded, batch, "exact").values[:, loaded.topology.edge_mask].T
    assert np.abs(found - effects).max() <= 1e-9 * np.abs(effects).max()


def test_gradient_of_masks_is_their_slope(loaded: kc.Model, batch: kc.PromptBatch) -> None:
    """Along a random direction at a random point, for every prompt: what edge pruning descends."""
    rows = TokenRows.from_batch(batch, loaded.weights)
    stage, metric = set_stage(loaded.weights, rows), get_metric("kl")
    edges = torch.as_tensor(loaded.topology.edge_mask)
    generator = torch.Generator().manual_seed(0)
    mask, direction = (
        edges * torch.rand(len(batch), *edges.shape, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )

    def loss(logits: Tensor) -> Tensor:
        return metric.by_prompt(logits, stage.clean_logits, rows)

    up, down = (
        loss(circuit_logits(loaded.weights, stage, mask + sign * STEP * direction))
        for sign in (1, -1)
    )
    found = circuit_gradient(loaded.weights, stage, mask, loss)
    slope = (found.mask * direction).sum((1, 2))
    torch.testing.assert_close(slope, (up - down) / (2 * STEP), rtol=1e-6, atol=1e-9)


def test_scores_do_not_depend_on_chunks(loaded: kc.Model, batch: kc.PromptBatch) -> None:
    whole = kc.attribute(loaded, batch).values
    single = kc.attribute(loaded, batch, memory=1).values
    assert np.abs(whole - single).max() <= 1e-9 * np.abs(whole).max()
