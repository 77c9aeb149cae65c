"""Renumbered heads are the same model in every family; noise has the size that it should have."""

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.analysis.overlap.permutation import renumber_heads
from kcircuits.core.candidates import flat_edges
from kcircuits.engine.forward import run_rows
from kcircuits.errors import UsageError
from kcircuits.lab.ground_truth import WeightsModel
from kcircuits.lab.weight_changes import add_noise, permute_heads, random_head_order

# float64 sums in another order.
ROUNDING = 1e-10


@pytest.fixture(scope="module")
def weights(variant, tiny_folder):
    return kc.load_model(tiny_folder(variant), dtype=torch.float64).weights


@pytest.fixture
def order(weights):
    return random_head_order(weights, np.random.default_rng(0))


def test_renumbered_heads_are_the_same_function(weights, order):
    tokens = torch.randint(0, 96, (3, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (run_rows(w, tokens) for w in (weights, permute_heads(weights, order)))
    assert (before - after).abs().max() <= ROUNDING * before.abs().max()
    assert not torch.equal(weights.attention[0].o, permute_heads(weights, order).attention[0].o)


def test_scores_of_renumbered_heads_are_the_same_under_other_names(weights, order, batch):
    """``order[i]`` at s is i at t; so its inverse is who at t is each head at s."""
    before, after = (
        kc.attribute(WeightsModel(w), batch, "eap-ig-inputs", ig_steps=2).values
        for w in (weights, permute_heads(weights, order))
    )
    edges = flat_edges(weights.topology)
    named = renumber_heads(edges, np.argsort(order, axis=1), weights.topology)
    rows = len(before)
    np.testing.assert_allclose(
        after.reshape(rows, -1)[:, edges],
        before.reshape(rows, -1)[:, named],
        rtol=0,
        atol=1e-8 * np.abs(before).max(),
    )


def test_random_order_keeps_groups_together_and_leaves_no_head_in_place(weights):
    n_heads, n_groups = weights.topology.n_heads, weights.n_kv_heads
    for seed in range(20):
        order = random_head_order(weights, np.random.default_rng(seed))
        assert (np.sort(order, axis=1) == np.arange(n_heads)).all()
        assert not (order == np.arange(n_heads)).any()
        groups = (order // (n_heads // n_groups)).reshape(len(order), n_groups, -1)
        assert (groups == groups[..., :1]).all()


def test_an_order_that_tears_groups_apart_is_refused(tiny_folder):
    weights = kc.load_model(tiny_folder("llama"), dtype=torch.float64).weights
    assert weights.n_kv_heads == 2
    for heads in ([0, 2, 1, 3], [0, 0, 1, 1]):
        with pytest.raises(UsageError, match="no order of heads in 2 groups"):
            permute_heads(weights, np.array([heads, heads]))


def test_noise_has_the_share_of_each_matrix_and_one_direction(tiny_folder):
    weights = kc.load_model(tiny_folder("llama"), dtype=torch.float64).weights
    small, large, other = (
        add_noise(weights, scale, seed, is_relative=True)
        for scale, seed in ((0.1, 0), (0.2, 0), (0.1, 1))
    )
    for pick in (
        lambda w: w.embed,
        lambda w: w.unembed,
        *(lambda w, n=name: getattr(w.attention[1], n) for name in "qkvo"),
        *(lambda w, n=name: getattr(w.mlp[0], n) for name in ("up", "gate", "down")),
    ):
        noise = pick(small) - pick(weights)
        # Of some hundred draws, the spread is known to a tenth.
        assert float(noise.std() / pick(weights).std()) == pytest.approx(0.1, rel=0.2)
        torch.testing.assert_close(pick(large) - pick(weights), 2 * noise)
        assert not torch.allclose(pick(other), pick(small))
    assert torch.equal(small.final_norm.gain, weights.final_norm.gain)
    nothing = add_noise(weights, 0.0, 0, is_relative=True)
    assert WeightsModel(nothing).content_hash == WeightsModel(weights).content_hash
