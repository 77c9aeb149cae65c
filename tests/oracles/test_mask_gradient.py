"""The gradient of circuit runs against finite differences, for every edge and every constant."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.engine.constants import mean_constants
from kcircuits.engine.gradient import circuit_gradient
from kcircuits.engine.masked import Stage, circuit_logits, set_stage
from kcircuits.engine.metrics import get_metric
from kcircuits.engine.tokens import TokenRows

MakeBatch = Callable[..., kc.PromptBatch]
STEP = 1e-5


def random_mask(topology: kc.Topology, n_rows: int, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).random((n_rows, *topology.edge_mask.shape))
    return torch.as_tensor(values * topology.edge_mask)


def values_of(model: Any, stage: Stage, mask: torch.Tensor, name: str) -> torch.Tensor:
    logits = circuit_logits(model.weights, stage, mask)
    return get_metric(name).by_prompt(logits, stage.clean_logits, stage.rows)


@pytest.mark.parametrize("name", ["kl", "logit-difference"])
def test_every_edge_has_the_slope_of_the_masked_run(
    tiny: Any, make_batch: MakeBatch, name: str
) -> None:
    batch = make_batch(2, n_shared=2)
    rows = TokenRows.from_batch(batch, tiny.weights)
    stage, metric = set_stage(tiny.weights, rows), get_metric(name)
    mask = random_mask(tiny.topology, 2)
    found = circuit_gradient(
        tiny.weights, stage, mask, lambda logits: metric.by_prompt(logits, stage.clean_logits, rows)
    )
    torch.testing.assert_close(found.values, values_of(tiny, stage, mask, name))
    largest = found.mask.abs().max()
    for u, v in np.argwhere(tiny.topology.edge_mask):
        shift = torch.zeros_like(mask)
        shift[:, u, v] = STEP
        up, down = (values_of(tiny, stage, mask + sign * shift, name) for sign in (1, -1))
        slope = (up - down) / (2 * STEP)
        assert (found.mask[:, u, v] - slope).abs().max() <= 1e-6 * largest
    assert not found.mask[:, ~torch.as_tensor(tiny.topology.edge_mask)].any()


def test_answers_of_several_tokens_have_a_gradient_too(tiny_of: Any) -> None:
    model = tiny_of("post-norm")
    pairs = [[[3, 4], [7]], [[5, 6], [8, 9, 10]], [[1], [2]]]
    batch = kc.PromptBatch.from_tokens(
        [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 1, 2]],
        [[1, 5, 3, 4], [5, 8, 7, 8], [9, 8, 1, 2]],
        pairs,
    )
    rows = TokenRows.from_batch(batch, model.weights)
    stage, metric = set_stage(model.weights, rows), get_metric("logit-difference")
    mask = random_mask(model.topology, len(rows.clean))
    found = circuit_gradient(
        model.weights,
        stage,
        mask,
        lambda logits: metric.by_prompt(logits, stage.clean_logits, rows),
    )
    for u, v in np.argwhere(model.topology.edge_mask)[::7]:
        shift = torch.zeros_like(mask)
        shift[:, u, v] = STEP
        up, down = (
            values_of(model, stage, mask + sign * shift, "logit-difference") for sign in (1, -1)
        )
        slope = (up - down) / (2 * STEP)
        by_prompt = rows.by_prompt(found.mask[:, u, v])
        assert (by_prompt - slope).abs().max() <= 1e-6 * found.mask.abs().max()


def test_rows_do_not_touch_each_other(tiny: Any, make_batch: MakeBatch) -> None:
    batch = make_batch(3)
    metric = get_metric("kl")

    def gradient(part: kc.PromptBatch, mask: torch.Tensor) -> torch.Tensor:
        rows = TokenRows.from_batch(part, tiny.weights)
        stage = set_stage(tiny.weights, rows)
        return circuit_gradient(
            tiny.weights,
            stage,
            mask,
            lambda logits: metric.by_prompt(logits, stage.clean_logits, rows),
        ).mask

    mask = random_mask(tiny.topology, 3)
    together = gradient(batch, mask)
    for row in range(3):
        alone = gradient(batch.rows([row]), mask[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-9, atol=1e-13)


def test_constants_have_the_slope_of_the_masked_run(tiny: Any, make_batch: MakeBatch) -> None:
    batch = make_batch(2, 5, n_shared=0)
    rows = TokenRows.from_batch(batch, tiny.weights, share_prefix=False)
    constants = mean_constants(tiny.weights, [rows], by_position=False)
    mask, metric = random_mask(tiny.topology, 2), get_metric("kl")
    stage = set_stage(tiny.weights, rows, "optimal", constants)
    found = circuit_gradient(
        tiny.weights,
        stage,
        mask,
        lambda logits: metric.by_prompt(logits, stage.clean_logits, rows),
        of_ablated=True,
    )
    assert found.ablated is not None
    slopes = found.ablated.sum((0, 2))
    generator = np.random.default_rng(0)
    for u in range(tiny.topology.n_forward):
        i = int(generator.integers(constants.shape[2]))
        shift = torch.zeros_like(constants)
        shift[u, 0, i] = STEP
        up, down = (
            values_of(
                tiny,
                set_stage(tiny.weights, rows, "optimal", constants + sign * shift),
                mask,
                "kl",
            ).sum()
            for sign in (1, -1)
        )
        slope = float((up - down) / (2 * STEP))
        assert abs(float(slopes[u, i]) - slope) <= 1e-6 * float(slopes.abs().max())
