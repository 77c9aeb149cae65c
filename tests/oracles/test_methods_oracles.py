"""Every attribution method against its definition on the slow model, and what all of them share."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.core.ablation import CONSTANT, require_ablation
from kcircuits.core.answers import ROLES
from kcircuits.discovery.attribute import attribute_neurons
from kcircuits.discovery.registry import METHODS
from kcircuits.engine.attribution import Question, path_scores
from kcircuits.engine.constants import constants_of
from kcircuits.engine.masked import circuit_logits, set_stage
from kcircuits.engine.metrics import METRICS, get_metric
from kcircuits.engine.tokens import TokenRows
from kcircuits.errors import UsageError

MakeAnswers = Callable[..., kc.PromptBatch]
TinyOf = Callable[..., Any]

MEMORY = 2**30
ABLATIONS = ("corrupt", "zero", "mean", "positional-mean")
# Edge pruning is trained for a number of edges and scores none.
SCORING = {name: method for name, method in METHODS.items() if method.score is not None}


def assert_close(found: np.ndarray, expected: np.ndarray, share: float = 1e-11) -> None:
    """Within a share of the largest: sums of float64 in another order."""
    assert np.abs(found - expected).max() <= share * np.abs(expected).max()


@pytest.mark.parametrize("ablation", ["corrupt", "zero", "mean"])
def test_exact_is_one_masked_run_per_edge(
    tiny: Any, make_answers: MakeAnswers, ablation: Any
) -> None:
    """metric(all edges but one) - metric(all edges), for every edge and answers of any length."""
    batch, metric = make_answers(((1, 1), (2, 3)), (5, 6)), get_metric("logit-difference")
    edges = np.argwhere(tiny.topology.edge_mask)
    repeated = batch.rows(np.tile([0, 1], len(edges) + 1))
    constants = constants_of(tiny.weights, batch, ablation, MEMORY)
    rows = TokenRows.from_batch(repeated, tiny.weights, share_prefix=False)
    masks = torch.as_tensor(tiny.topology.edge_mask, dtype=torch.float64)
    masks = masks.repeat(len(edges) + 1, 1, 1)
    for i, (u, v) in enumerate(edges):
        masks[i, u, v] = 0
    stage = set_stage(tiny.weights, rows, ablation, constants)
    logits = circuit_logits(tiny.weights, stage, masks.repeat_interleave(2, 0)[rows.prompt])
    values = metric.by_prompt(logits, stage.clean_logits, rows).unflatten(0, (-1, 2)).numpy()
    expected = np.zeros((2, *tiny.topology.edge_mask.shape))
    expected[:, edges[:, 0], edges[:, 1]] = (values[:-1] - values[-1]).T
    assert_close(kc.attribute(tiny, batch, "exact", ablation=ablation).values, expected)


@pytest.mark.parametrize("rule", ["relp", "gim"])
def test_backward_rules_equal_explicit_stop_gradients(
    tiny: Any, make_answers: MakeAnswers, slow: ModuleType, rule: str
) -> None:
    batch = make_answers()
    found = kc.attribute(tiny, batch, rule).values
    plain = kc.attribute(tiny, batch, "eap").values
    for i in range(len(batch)):
        expected = slow.edge_scores(tiny.weights, batch, i, runs=lambda _c, _g: [{"rule": rule}])
        assert_close(found[i], expected)
        assert np.abs(found[i] - plain[i]).max() > 0.01 * np.abs(plain[i]).max()


def test_backward_rules_leave_the_forward_alone(tiny_of: TinyOf, slow: ModuleType) -> None:
    weights, tokens = tiny_of("post-norm").weights, [3, 1, 4, 1, 5]
    runs = [slow.run(weights, tokens, rule=rule).logits for rule in ("gradient", "relp", "gim")]
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(runs[0], runs[2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ablation", ["corrupt", "zero", "mean"])
def test_clean_corrupted_is_the_mean_of_both_ends(
    tiny_of: TinyOf, make_answers: MakeAnswers, slow: ModuleType, ablation: Any
) -> None:
    model, batch = tiny_of("layernorm"), make_answers()
    found = kc.attribute(model, batch, "clean-corrupted", ablation=ablation).values
    constants = constants_of(model.weights, batch, ablation, MEMORY)
    asked = Question(metric=get_metric("logit-difference"), ablation=ablation, constants=constants)
    rows = TokenRows.from_batch(batch, model.weights, share_prefix=ablation == "corrupt")
    ends = [path_scores(model.weights, rows, asked, (alpha,)).numpy() for alpha in (0.0, 1.0)]
    assert_close(found, (ends[0] + ends[1]) / 2)

    def both(_clean: Any, given: Any) -> list[dict[str, Any]]:
        return [{}, {"write": lambda u, out: given[u] if u == "input" else out}]

    for i in range(len(batch)):
        expected = slow.edge_scores(
            model.weights, batch, i, runs=both, ablation=ablation, constants=constants
        )
        assert_close(found[i], expected)


@pytest.mark.parametrize(
    ("style", "ablation"),
    [("layernorm", "corrupt"), ("parallel", "mean"), ("post-norm", "zero")],
)
def test_activations_are_interpolated_group_by_group(
    tiny_of: TinyOf, make_answers: MakeAnswers, slow: ModuleType, style: str, ablation: Any
) -> None:
    """n points for each of the input, every attention layer and every MLP, at clean inputs."""
    model, batch, n_steps = tiny_of(style), make_answers(((1, 1), (2, 1)), (4, 5)), 2
    found = kc.attribute(model, batch, "eap-ig-activations", ablation=ablation, ig_steps=n_steps)
    constants = constants_of(model.weights, batch, ablation, MEMORY)
    topology = model.topology
    groups: list[set[str]] = [{"input"}]
    for layer in range(topology.n_layers):
        groups.append({f"a{layer}.h{head}" for head in range(topology.n_heads)})
        groups.append({f"m{layer}"})

    def points(clean: Any, given: Any) -> Iterator[dict[str, Any]]:
        for group, step in product(groups, range(1, n_steps + 1)):

            def write(
                u: str, out: torch.Tensor, group: set[str] = group, step: int = step
            ) -> torch.Tensor:
                alpha = step / n_steps
                return given[u] + alpha * (clean[u] - given[u]) if u in group else out

            yield {"write": write}

    for i in range(len(batch)):
        expected = slow.edge_scores(
            model.weights,
            batch,
            i,
            runs=lambda clean, given: list(points(clean, given)),
            ablation=ablation,
            constants=constants,
        )
        assert_close(found.values[i], expected)


@pytest.mark.parametrize("method", SCORING)
def test_methods_metrics_and_ablations_combine(
    tiny_of: TinyOf, make_answers: MakeAnswers, method: str
) -> None:
    """Finite, of the right shape, the same twice, and nothing where there is no edge."""
    model, batch = tiny_of("grouped"), make_answers(((1, 1), (2, 2)), (4, 5))
    shape = (2, *model.topology.edge_mask.shape)
    for metric, ablation in product(METRICS, ABLATIONS):
        require_ablation(ablation)
        if METHODS[method].needs_clean_gradient and not METRICS[metric].has_clean_gradient:
            continue
        options: Any = {"metric": metric, "ablation": ablation}
        options |= {"ig_steps": 2} if "ig_steps" in METHODS[method].defaults else {}
        values = kc.attribute(model, batch, method, **options).values
        assert values.shape == shape
        assert np.isfinite(values).all()
        assert values.any(axis=(1, 2)).all()
        assert not values[:, ~model.topology.edge_mask].any()
        if ablation in ("corrupt", "positional-mean"):
            again = kc.attribute(model, batch, method, **options).values
            np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", SCORING)
def test_equal_prompts_score_zero(
    tiny_of: TinyOf, make_answers: MakeAnswers, method: str, metric: str
) -> None:
    batch = make_answers()
    same = replace(batch, corrupt=batch.clean)
    if METHODS[method].needs_clean_gradient and not METRICS[metric].has_clean_gradient:
        with pytest.raises(UsageError, match="gradient at the clean run is zero") as caught:
            kc.attribute(tiny_of(), batch, method, metric=metric)
        assert "eap-ig-inputs" in (caught.value.hint or "")
        return
    values = kc.attribute(tiny_of(), same, method, metric=metric).values
    np.testing.assert_allclose(values, 0, atol=1e-12)  # exact patching runs rows in other shapes


@pytest.mark.parametrize("metric", METRICS)
def test_importance_is_what_ablation_makes_worse(
    tiny_of: TinyOf, make_answers: MakeAnswers, metric: str
) -> None:
    """Ablating an important edge lowers the logit difference, and raises the divergence."""
    scores = kc.attribute(tiny_of(), make_answers(), "exact", metric=metric)
    is_divergence = metric == "kl"
    np.testing.assert_array_equal(
        scores.importance, scores.values if is_divergence else -scores.values
    )


def test_methods_with_levels_score_roles_and_neurons(
    tiny_of: TinyOf, make_answers: MakeAnswers
) -> None:
    model, batch = tiny_of(), make_answers()
    for name, method in SCORING.items():
        if not method.has_levels:
            with pytest.raises(UsageError, match="scores edges only, not by role"):
                kc.attribute(model, batch, name, by_role=True)
            with pytest.raises(UsageError, match="scores edges only, not by neuron"):
                attribute_neurons(model, batch, name)
            continue
        found = kc.attribute(model, batch, name, by_role=True)
        assert found.by_role is not None
        assert found.by_role.shape == (4, len(ROLES), *model.topology.edge_mask.shape)
        assert_close(found.values, kc.attribute(model, batch, name).values)
        assert_close(found.by_role.sum(1), found.values)
        neurons = attribute_neurons(model, batch, name).values
        assert neurons.shape == (4, model.topology.n_layers, model.weights.d_mlp)
        assert np.isfinite(neurons).all()
        assert neurons.any(axis=2).all()


@pytest.mark.parametrize("ablation", CONSTANT)
def test_neurons_have_no_constants(
    tiny_of: TinyOf, make_answers: MakeAnswers, ablation: Any
) -> None:
    with pytest.raises(UsageError, match=f"neurons have no {ablation} ablation"):
        attribute_neurons(tiny_of(), make_answers(), ablation=ablation)
