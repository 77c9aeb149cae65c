"""Blocks of layers change nothing but the order of sums."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.core.topology import Topology
from kcircuits.engine.gradient import circuit_gradient
from kcircuits.engine.layer_blocks import Block
from kcircuits.engine.masked import circuit_logits, set_stage
from kcircuits.engine.metrics import get_metric
from kcircuits.engine.tokens import TokenRows


def blocks_of(monkeypatch: pytest.MonkeyPatch, model: Any, n_layers: int) -> list[range]:
    """Makes blocks of so many layers, and gives them."""
    n_receivers = 3 * model.topology.n_heads + 1
    monkeypatch.setattr("kcircuits.engine.layer_blocks._TOGETHER", n_layers * n_receivers)
    return [block.layers for block in Block.all_of(model.topology)]


def results(model: Any, batch: kc.PromptBatch) -> dict[str, Any]:
    rows = TokenRows.from_batch(batch, model.weights)
    stage, metric = set_stage(model.weights, rows), get_metric("logit-difference")
    drawn = np.random.default_rng(0).random((len(batch), *model.topology.edge_mask.shape))
    mask = torch.as_tensor(drawn * model.topology.edge_mask)
    found = circuit_gradient(
        model.weights,
        stage,
        mask,
        lambda logits: metric.by_prompt(logits, stage.clean_logits, rows),
    )
    return {
        "scores": torch.as_tensor(kc.attribute(model, batch).values),
        "logits": circuit_logits(model.weights, stage, mask),
        "gradient": found.mask,
    }


def test_results_do_not_depend_on_blocks(
    tiny: Any, make_batch: Callable[..., kc.PromptBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(3, n_shared=2)
    assert blocks_of(monkeypatch, tiny, 1) == [range(1), range(1, 2), range(2, 3)]
    alone = results(tiny, batch)
    for n_layers, expected in ((2, [range(2), range(2, 3)]), (9, [range(3)])):
        assert blocks_of(monkeypatch, tiny, n_layers) == expected
        for name, value in results(tiny, batch).items():
            torch.testing.assert_close(value, alone[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("is_parallel", [False, True])
def test_a_block_knows_its_receivers_and_senders(
    is_parallel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = Topology(n_layers=5, n_heads=2, is_parallel=is_parallel)
    monkeypatch.setattr("kcircuits.engine.layer_blocks._TOGETHER", 14)
    first, second, last = Block.all_of(topology)
    assert [block.layers for block in (first, second, last)] == [
        range(2), range(2, 4), range(4, 5),
    ]  # fmt: skip
    assert Block.of(topology, 3) == second
    assert topology.backward_names[second.columns][0] == "a2.h0<q>"
    assert topology.backward_names[second.columns][-1] == "m3"
    assert topology.forward_names[second.senders_before][-1] == "m1"
    assert topology.forward_names[second.senders_within(3)] == ("a2.h0", "a2.h1", "m2")
    assert topology.forward_names[second.senders][-1] == ("m2" if is_parallel else "a3.h1")
    assert first.senders_before == slice(1)
