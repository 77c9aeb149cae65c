"""Curves, smallest circuits and necessity against one evaluation at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.core.ranking import SIZES
from kcircuits.engine import masked
from kcircuits.errors import UsageError

MakeBatch = Callable[..., kc.PromptBatch]
COARSE = (0.02, 0.1, 0.3, 0.6, 1.0)


@pytest.fixture
def known_batch(make_batch: MakeBatch) -> kc.PromptBatch:
    """Random models favour targets by chance: of many prompts, those with a gap."""
    return make_batch(10)


@pytest.mark.parametrize("by", ["size", "importance"])
def test_a_curve_is_one_evaluation_per_size(
    tiny: Any, known_batch: kc.PromptBatch, by: Any
) -> None:
    scores = kc.attribute(tiny, known_batch)
    curve = kc.faithfulness_curve(tiny, known_batch, scores, sizes=COARSE, by=by)
    for place, size in enumerate(COARSE):
        circuits = kc.select(scores, fraction=size, by=by)
        result = kc.evaluate(tiny, known_batch, circuits)
        np.testing.assert_allclose(curve.metric[:, place], result.metric, atol=1e-9)
        np.testing.assert_allclose(curve.faithfulness[:, place], result.faithfulness, atol=1e-9)
        assert curve.n_edges[:, place].tolist() == circuits.n_edges.tolist()
        assert curve.n_selected[:, place].tolist() == circuits.n_selected.tolist()
    assert (~curve.is_gated).any()
    np.testing.assert_allclose(curve.faithfulness[~curve.is_gated, -1], 1)


def test_a_curve_runs_one_masked_forward_per_size_but_the_last(
    tiny_of: Callable[..., Any], known_batch: kc.PromptBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kcircuits.evaluation import judge

    calls = {"circuit": 0, "stage": 0}

    def counted(name: str, function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(judge, "circuit_logits", counted("circuit", masked.circuit_logits))
    monkeypatch.setattr(judge, "set_stage", counted("stage", masked.set_stage))
    model = tiny_of()
    scores = kc.attribute(model, known_batch, "eap")
    kc.faithfulness_curve(model, known_batch, scores, memory="8GiB")
    assert calls["circuit"] == (len(SIZES) - 1) * calls["stage"]


def test_a_curve_of_circuits_found_at_each_size(
    tiny_of: Callable[..., Any], known_batch: kc.PromptBatch
) -> None:
    model = tiny_of()
    scores = kc.attribute(model, known_batch)
    found = [kc.select(scores, fraction=size) for size in COARSE]
    given = kc.faithfulness_curve(model, known_batch, found, sizes=COARSE)
    taken = kc.faithfulness_curve(model, known_batch, scores, sizes=COARSE)
    np.testing.assert_array_equal(given.metric, taken.metric)
    with pytest.raises(UsageError, match="one for each size"):
        kc.faithfulness_curve(model, known_batch, found[:2], sizes=COARSE)


def test_the_smallest_circuit_reaches_and_one_edge_less_does_not(
    tiny: Any, known_batch: kc.PromptBatch
) -> None:
    scores = kc.attribute(tiny, known_batch)
    circuits = kc.smallest_circuit(tiny, known_batch, scores, faithfulness=0.7)
    result = kc.evaluate(tiny, known_batch, circuits)
    n_checked = 0
    for row, fact_id in enumerate(known_batch.fact_ids):
        n = int(circuits.n_selected[row])
        if result.is_gated[row] or n == tiny.topology.n_edges:
            continue
        n_checked += 1
        assert result.faithfulness[row] >= 0.7
        less = kc.evaluate(tiny, known_batch, kc.select(scores, n_edges=n - 1))
        assert less.row(fact_id)["faithfulness"] < 0.7
    assert n_checked >= 2


def test_necessity_is_one_evaluation_per_part(
    tiny_of: Callable[..., Any], known_batch: kc.PromptBatch
) -> None:
    model = tiny_of("layernorm")
    circuits = kc.select(kc.attribute(model, known_batch), n_edges=25)
    whole = kc.evaluate(model, known_batch, circuits).faithfulness
    for level in ("node", "edge"):
        found = kc.necessity(model, known_batch, circuits, level=level)
        np.testing.assert_allclose(found.faithfulness, whole, atol=1e-9)
        rest = kc.Circuits.from_mask(model.topology.edge_mask & ~circuits.mask, model.topology)
        np.testing.assert_allclose(
            found.completeness, 1 - kc.evaluate(model, known_batch, rest).faithfulness, atol=1e-9
        )
        for fact in range(3):
            for part, drop in zip(found.parts[fact], found.drops[fact], strict=True):
                mask = circuits.mask.copy()
                for u, v in np.argwhere(mask[fact]):
                    ends = (model.topology.forward_names[u], model.topology.backward_nodes[v])
                    name = model.topology.edge_name(u, v)
                    mask[fact, u, v] = name != part if level == "edge" else part not in ends
                one = kc.Circuits.from_mask(mask, model.topology)
                left = kc.evaluate(model, known_batch, one).faithfulness[fact]
                np.testing.assert_allclose(whole[fact] - left, drop, atol=1e-9)
        shares = found.minimality(0.05)
        for fact, drops in enumerate(found.drops):
            expected = np.nan if np.isnan(drops).any() else (np.abs(drops) >= 0.05).mean()
            np.testing.assert_equal(shares[fact], expected)


@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_faithfulness_out_of_range_is_refused(
    tiny_of: Callable[..., Any], make_batch: MakeBatch, value: float
) -> None:
    model, batch = tiny_of(), make_batch(2)
    with pytest.raises(UsageError, match="above 0 and up to 1"):
        kc.smallest_circuit(model, batch, kc.attribute(model, batch), faithfulness=value)
