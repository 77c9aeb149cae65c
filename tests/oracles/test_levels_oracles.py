"""Scores by role of the position, of neurons and of nodes, against finite differences.

Nothing here differentiates: a share of what ablation would change is added to one edge, neuron or
sender of the slow model, at some positions, and the metric measured.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kcircuits as kc
from kcircuits.core.answers import LAST, REST, ROLES, SUBJECT
from kcircuits.discovery import METHODS
from kcircuits.discovery.attribute import attribute_neurons

MakeAnswers = Callable[..., kc.PromptBatch]
TinyOf = Callable[..., Any]
# What a run does differently, given the size of the step: options of the slow model.
Change = Callable[[float], dict[str, Any]]

STEP = 1e-5
METRIC = "logit-difference"


def slope(slow: ModuleType, weights: Any, row: Any, change: Change, **start: Any) -> float:
    """Of a row's part of the metric with respect to the size of a change."""
    clean = slow.run(weights, row.clean).logits
    up, down = (
        slow.run(weights, row.clean, **start, **change(sign * STEP)).logits for sign in (1, -1)
    )
    values = [slow.measure(logits, clean, row, METRIC) for logits in (up, down)]
    return float(values[0] - values[1]) / (2 * STEP)


def edge_change(edge: tuple[str, str], moved: Tensor) -> Change:
    return lambda size: {"edge": lambda u, v, x: x + size * moved if (u, v) == edge else x}


def node_change(node: str, moved: Tensor) -> Change:
    return lambda size: {"write": lambda u, x: x + size * moved if u == node else x}


def neuron_change(layer: int, neuron: int, moved: Tensor) -> Change:
    def fire(at: int, hidden: Tensor, size: float) -> Tensor:
        if at != layer:
            return hidden
        only = torch.zeros_like(hidden)
        only[:, neuron] = moved[:, neuron]
        return hidden + size * only

    return lambda size: {"fire": lambda at, hidden: fire(at, hidden, size)}


def roles_of(batch: kc.PromptBatch, prompt: int, n_pos: int) -> Tensor:
    """Subject, rest of the prompt, and last: the prompt's last token and the answer's."""
    assert batch.subject_mask is not None
    last = int(batch.lengths[prompt]) - 1
    is_subject = batch.subject_mask[prompt]
    roles = [SUBJECT if is_subject[pos] else REST for pos in range(last)]
    return torch.tensor(roles + [LAST] * (n_pos - last))


@pytest.mark.parametrize(
    ("style", "ablation"),
    [("layernorm", "corrupt"), ("post-norm", "corrupt"), ("parallel", "zero")],
)
def test_a_role_is_the_effect_of_its_positions(
    tiny_of: TinyOf, make_answers: MakeAnswers, slow: ModuleType, style: str, ablation: Any
) -> None:
    """Edges that carry a share of the ablated activation at the positions of one role alone."""
    model, n_prompts = tiny_of(style), 3
    batch = make_answers(((1, 1), (2, 2), (1, 3)), (6, 5, 7), n_shared=2)
    scores = kc.attribute(model, batch, "eap", by_role=True, ablation=ablation)
    edges = np.argwhere(model.topology.edge_mask)[7::17]
    expected = np.zeros((n_prompts, len(ROLES), len(edges)))
    for i in range(n_prompts):
        for row in slow.answer_rows(batch, i, METRIC):
            clean = slow.run(model.weights, row.clean).outputs
            given = slow.ablated_outputs(model.weights, row, ablation)
            roles = roles_of(batch, i, len(row.clean))
            for role, (e, (u, v)) in product(range(len(ROLES)), enumerate(edges)):
                name = model.topology.forward_names[u], model.topology.backward_names[v]
                moved = (given[name[0]] - clean[name[0]]) * (roles == role)[:, None]
                change = edge_change(name, moved)
                expected[i, role, e] += slope(slow, model.weights, row, change)
    assert scores.by_role is not None
    found = scores.by_role[:, :, edges[:, 0], edges[:, 1]]
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(scores.values).max()
    assert (np.abs(expected).max((0, 2)) > 1e-3).all()


@pytest.mark.parametrize("method", ["eap", "eap-ig-inputs", "relp"])
def test_roles_add_up(tiny: Any, make_answers: MakeAnswers, method: str) -> None:
    """Whatever the chunk, the shared prefix and the positions of the subject."""
    batch = make_answers(n_shared=2)
    scores = kc.attribute(tiny, batch, method, by_role=True)
    largest = np.abs(scores.values).max()
    assert scores.by_role is not None
    np.testing.assert_allclose(scores.by_role.sum(1), scores.values, atol=1e-12 * largest)
    plain = kc.attribute(tiny, batch, method).values
    np.testing.assert_allclose(scores.values, plain, atol=1e-12 * largest)
    chunks = kc.attribute(tiny, batch, method, by_role=True, memory=1).by_role
    np.testing.assert_allclose(chunks, scores.by_role, atol=1e-11 * largest)
    nowhere = replace(batch, subject_mask=None)
    without = kc.attribute(tiny, nowhere, method, by_role=True).by_role
    assert without is not None
    assert not without[:, SUBJECT].any()
    np.testing.assert_allclose(
        without[:, REST], scores.by_role[:, [SUBJECT, REST]].sum(1), atol=1e-11 * largest
    )


@pytest.mark.parametrize(
    ("style", "ablation", "alpha"),
    [("layernorm", "corrupt", 1.0), ("post-norm", "corrupt", 0.0), ("qk-norm", "zero", 1.0)],
)
def test_a_neuron_is_the_effect_of_its_activation(
    tiny_of: TinyOf,
    make_answers: MakeAnswers,
    slow: ModuleType,
    style: str,
    ablation: Any,
    alpha: float,
) -> None:
    """Every neuron moves a little from its clean towards its ablated activation, everywhere.

    With alpha 0 the slope is that of the run of ablated embeddings (one step on the left grid).
    """
    model, batch = tiny_of(style), make_answers(((1, 1), (2, 2)), (6, 5))
    method = "eap" if alpha else "eap-ig-inputs"
    params: dict[str, Any] = {} if alpha else {"ig_steps": 1}
    found = attribute_neurons(model, batch, method, ablation=ablation, **params).values
    expected = np.zeros_like(found)
    for i in range(2):
        for row in slow.answer_rows(batch, i, METRIC):
            clean = slow.run(model.weights, row.clean)
            other = slow.run(model.weights, row.corrupt)
            start = clean.outputs["input"] if alpha else other.outputs["input"]
            for layer, neuron in np.ndindex(*found.shape[1:]):
                given = other.hidden[layer] if ablation == "corrupt" else 0.0
                change = neuron_change(layer, neuron, given - clean.hidden[layer])
                expected[i, layer, neuron] += slope(
                    slow,
                    model.weights,
                    row,
                    change,
                    write=lambda u, x, start=start: start if u == "input" else x,
                )
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(found).max()


@pytest.mark.parametrize("style", ["layernorm", "parallel", "grouped", "qk-norm"])
@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.score and m.has_levels])
def test_neurons_of_a_layer_add_up_to_its_mlp(
    tiny_of: TinyOf, make_answers: MakeAnswers, style: str, method: str
) -> None:
    """What an MLP writes is linear in its neurons (without a post-norm)."""
    model, batch = tiny_of(style), make_answers()
    neurons = attribute_neurons(model, batch, method).values
    nodes = kc.attribute(model, batch, method).nodes()
    for layer in range(model.topology.n_layers):
        of_mlp = nodes.values[:, model.topology.forward_index(f"m{layer}")]
        np.testing.assert_allclose(neurons[:, layer].sum(1), of_mlp, rtol=1e-9, atol=1e-12)


def test_a_node_is_the_effect_of_its_output(
    tiny: Any, make_answers: MakeAnswers, slow: ModuleType
) -> None:
    """The sum over a sender's edges = the slope when all that it writes moves."""
    batch = make_answers(((1, 1), (2, 2)), (6, 5))
    found = kc.attribute(tiny, batch, "eap").nodes()
    expected = np.zeros_like(found.values)
    for i in range(2):
        for row in slow.answer_rows(batch, i, METRIC):
            clean = slow.run(tiny.weights, row.clean).outputs
            given = slow.run(tiny.weights, row.corrupt).outputs
            for u, name in enumerate(tiny.topology.forward_names):
                change = node_change(name, given[name] - clean[name])
                expected[i, u] += slope(slow, tiny.weights, row, change)
    assert np.abs(found.values - expected).max() <= 1e-6 * np.abs(expected).max()
