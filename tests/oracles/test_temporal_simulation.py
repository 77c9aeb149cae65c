"""Births, deaths and lifetimes in simulated scores with a known truth."""

import numpy as np
import pytest

from kcircuits.analysis.overlap.corrected import edge_items, node_items
from kcircuits.analysis.survival import life_table
from kcircuits.analysis.temporal.lifespans import add_spells
from kcircuits.analysis.temporal.tracking import FactScores, track_fact
from kcircuits.core.topology import Topology

TOPOLOGY = Topology(n_layers=6, n_heads=4)
FLAT = np.flatnonzero(TOPOLOGY.edge_mask)
N_EDGES, N_EPOCHS = 40, 6


def signals(rng, turn):
    """True scores [epoch, edge]; of each epoch's circuit a share ``turn`` changes places."""
    signal = rng.lognormal(0, 1.5, len(FLAT)) * rng.choice([-1, 1], len(FLAT))
    order = np.argsort(-np.abs(signal))
    there, rows = order[:N_EDGES].copy(), [signal]
    for _ in range(N_EPOCHS - 1):
        lost = rng.random(N_EDGES) < turn
        gained = rng.choice(np.setdiff1d(order, there), int(lost.sum()), replace=False)
        signal = signal.copy()
        signal[there[lost]], signal[gained] = signal[gained], signal[there[lost]]
        there[lost] = gained
        rows.append(signal)
    return np.stack(rows)


def tracked(rng, truth, *, noise, n_prompts=8, level="edge"):
    values = truth[:, None] * (1 + noise * rng.standard_normal((N_EPOCHS, n_prompts, len(FLAT))))
    everywhere = np.ones(N_EPOCHS, dtype=bool)
    fact = FactScores(
        values=values.astype(np.float32),
        candidates=FLAT,
        items={"edge": edge_items(TOPOLOGY, FLAT), "node": node_items(TOPOLOGY, FLAT)},
        has_cell=everywhere,
        is_known=everywhere,
    )
    return track_fact(fact, TOPOLOGY, N_EDGES, level, rng)


def table_of(counts):
    return life_table(add_spells(counts), np.arange(len(counts)), n_draws=200)


@pytest.mark.parametrize("level", ["edge", "node"])
@pytest.mark.parametrize("noise", [0.7, 1.5])
def test_without_change_births_deaths_and_hazard_are_those_of_swapped_labels(noise, level):
    rng = np.random.default_rng(0)
    facts = [tracked(rng, signals(rng, 0.0), noise=noise, level=level) for _ in range(120)]
    for change in ("born", "died"):
        here = np.array([getattr(one.items(level), change).sum(1).mean() for one in facts])
        null = np.array([getattr(one.swapped, change).mean() for one in facts])
        error = (here - null).std() / np.sqrt(len(facts))
        assert here.mean() > 0.05  # the method alone gives some
        assert abs((here - null).mean()) < 3.5 * error
    hubs = np.array([(one.hubs.born | one.hubs.died).sum(1).mean() for one in facts])
    null = np.array([one.swapped.hubs.mean() for one in facts])
    assert hubs.mean() > 0
    assert abs((hubs - null).mean()) < 3.5 * (hubs - null).std() / np.sqrt(len(facts))
    here = table_of([one.spells for one in facts])
    null = table_of([one.swapped.spells for one in facts])
    assert here.ended[0] > 8
    width = (here.hazard_high - here.hazard_low + null.hazard_high - null.hazard_low)[0] / 2
    assert abs(here.hazard[0] - null.hazard[0]) < width


def test_a_change_without_noise_is_found_edge_by_edge_at_its_epoch():
    rng = np.random.default_rng(1)
    truth = signals(rng, 0.15)
    one = tracked(rng, truth, noise=0.0)
    top = np.argsort(np.argsort(-np.abs(truth), axis=1), axis=1) < N_EDGES
    places = np.searchsorted(FLAT, one.candidates)
    np.testing.assert_array_equal(one.edges.in_both, top[:, places])
    np.testing.assert_array_equal(one.edges.born, (top[1:] & ~top[:-1])[:, places])
    np.testing.assert_array_equal(one.edges.died, (top[:-1] & ~top[1:])[:, places])
    assert set(one.candidates) == set(FLAT[top.any(0)])
    np.testing.assert_allclose(one.scores, truth[:, places], rtol=1e-4)


def test_a_planted_move_is_found_at_its_epoch_above_swapped_labels():
    rng = np.random.default_rng(2)
    born, swapped = [], []
    for _ in range(40):
        truth = signals(rng, 0.0)
        moved = signals(rng, 0.0)
        truth[3:] = moved[3:]  # all at once, from the third to the fourth epoch
        one = tracked(rng, truth, noise=0.5)
        born.append(one.edges.born.sum(1))
        swapped.append(one.swapped.born)
    born, swapped = np.mean(born, axis=0), np.mean(swapped, axis=0)
    assert born.argmax() == 2
    assert born[2] > 5 * np.delete(born, 2).max()
    assert born[2] > 2 * swapped[2]
    assert np.delete(born, 2) == pytest.approx(np.delete(swapped, 2), abs=0.35)


def test_the_hazard_of_a_true_turn_is_found_above_the_noise():
    """A quarter of the circuit leaves at each step: so the hazard without noise."""
    rng = np.random.default_rng(3)
    quiet = [tracked(rng, signals(rng, 0.25), noise=0.0) for _ in range(40)]
    table = table_of([one.spells for one in quiet])
    assert table.hazard_low[0] <= 0.25 <= table.hazard_high[0]
    noisy = [tracked(rng, signals(rng, 0.25), noise=0.5) for _ in range(60)]
    still = [tracked(rng, signals(rng, 0.0), noise=0.5) for _ in range(60)]
    with_change, without = (table_of([one.spells for one in facts]) for facts in (noisy, still))
    assert with_change.hazard[0] == pytest.approx(0.25, abs=0.06)
    assert with_change.n_spells > 4 * without.n_spells


def test_entropy_and_depth_move_no_more_than_halves_differ_without_change():
    rng = np.random.default_rng(4)
    facts = [tracked(rng, signals(rng, 0.0), noise=0.7) for _ in range(60)]
    moved = [tracked(rng, signals(rng, 0.6), noise=0.7) for _ in range(60)]
    for name in ("entropy_apart", "depth_apart"):

        def ratio(group, name=name):
            tables = np.mean([getattr(one, name) for one in group], axis=0)
            return np.diag(tables, 1).mean() / np.diag(tables).mean()

        assert ratio(facts) == pytest.approx(1, abs=0.08)
        if name == "depth_apart":
            assert ratio(moved) > 1.3
