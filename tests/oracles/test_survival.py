"""Spells and their life table: cases worked out by hand, a slow twin, and a known hazard."""

import numpy as np
import pytest

from kcircuits.analysis.survival import count_spells, life_table


def slow_counts(there, observed):
    """(n_spells, d_k, n_k) of one series, by walking each spell."""
    n = len(there)
    spells, ended, at_risk = 0, [0] * (n - 1), [0] * (n - 1)
    for start in range(1, n):
        began = there[start] and observed[start] and observed[start - 1] and not there[start - 1]
        if not began:
            continue
        spells += 1
        for k in range(1, n - start):
            if not observed[start + k]:
                break  # nobody looks any more
            at_risk[k - 1] += 1
            if not there[start + k]:
                ended[k - 1] += 1
                break
    return spells, ended, at_risk


@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_the_slow_twin(seed):
    rng = np.random.default_rng(seed)
    there, observed = rng.random((60, 8)) < 0.6, rng.random((60, 8)) < 0.85
    owner = rng.integers(0, 5, 60)
    found = count_spells(there, owner, 5, observed)
    for one in range(5):
        twins = [slow_counts(there[i], observed[i]) for i in range(60) if owner[i] == one]
        assert found.n_spells[one] == sum(twin[0] for twin in twins)
        np.testing.assert_array_equal(found.ended[one], np.sum([t[1] for t in twins], axis=0))
        np.testing.assert_array_equal(found.at_risk[one], np.sum([t[2] for t in twins], axis=0))


def test_spells_by_hand():
    there = np.array(
        [
            [1, 1, 0, 0, 0],  # there before anyone looked: left out
            [0, 1, 1, 0, 0],  # ended after 2
            [0, 0, 1, 1, 1],  # cut off after 3: at risk after 1 and 2
            [0, 1, 0, 1, 0],  # twice, ended after 1
            [0, 0, 0, 0, 1],  # never looked at again
            [0, 1, 1, 1, 0],  # nobody looked at epoch 2: cut off after 1, and begun again unseen
        ],
        dtype=bool,
    )
    observed = np.ones_like(there)
    observed[5, 2] = False
    counts = count_spells(there, np.zeros(6, dtype=int), 1, observed)
    assert counts.n_spells.tolist() == [6]
    assert counts.ended.tolist() == [[2, 1, 0, 0]]
    assert counts.at_risk.tolist() == [[4, 2, 0, 0]]
    table = life_table(counts, np.array(["one"]))
    np.testing.assert_allclose(table.hazard, [1 / 2, 1 / 2, np.nan, np.nan])
    np.testing.assert_allclose(table.survival, [1 / 2, 1 / 4, np.nan, np.nan])
    assert np.isnan(table.low).all()  # a single entity has no interval


def test_a_single_epoch_has_no_table():
    counts = count_spells(np.ones((3, 1), dtype=bool), np.arange(3), 3)
    table = life_table(counts, np.arange(3))
    assert table.n_spells == 0
    assert table.hazard.shape == (0,)


HAZARD = np.array([0.5, 0.3, 0.2, 0.1, 0.1, 0.1])


def ageing_spells(rng, n_series, n_epochs):
    """Series that are born with chance .3 and die at age k with chance ``HAZARD``."""
    there = np.zeros((n_series, n_epochs + 20), dtype=bool)
    age = np.zeros(n_series, dtype=int)
    for epoch in range(there.shape[1]):
        hazard = HAZARD[np.clip(age, 1, len(HAZARD)) - 1]
        stays = (age > 0) & (rng.random(n_series) >= hazard)
        born = (age == 0) & (rng.random(n_series) < 0.3)
        age = np.where(stays, age + 1, np.where(born, 1, 0))
        there[:, epoch] = age > 0
    return there[:, 20:]  # long before anyone looked


def test_the_table_finds_a_known_hazard_and_leaving_truncated_spells_in_would_not():
    rng = np.random.default_rng(0)
    there = ageing_spells(rng, 20_000, 7)
    counts = count_spells(there, np.zeros(len(there), dtype=int), 1)
    table = life_table(counts, np.array([0]))
    error = np.sqrt(HAZARD[:5] * (1 - HAZARD[:5]) / table.at_risk[:5])
    assert (np.abs(table.hazard[:5] - HAZARD[:5]) < 4 * error).all()
    np.testing.assert_allclose(table.survival[:5], np.cumprod(1 - HAZARD[:5]), atol=4 * error.max())
    # The same with a made-up epoch before the first at which nothing is there.
    padded = np.pad(there, ((0, 0), (1, 0)))
    naive = life_table(count_spells(padded, np.zeros(len(there), dtype=int), 1), np.array([0]))
    assert naive.hazard[0] < HAZARD[0] - 20 * error[0]


def test_intervals_over_entities_hold_the_hazard_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = []
    for _ in range(150):
        there = ageing_spells(rng, 40 * 20, 6)
        owner = np.repeat(np.arange(40), 20)
        table = life_table(count_spells(there, owner, 40), np.arange(40), n_draws=400)
        held.append((table.hazard_low[:2] <= HAZARD[:2]) & (HAZARD[:2] <= table.hazard_high[:2]))
        survival = np.cumprod(1 - HAZARD[:2])
        held[-1] = np.append(held[-1], (table.low[1] <= survival[1] <= table.high[1]))
    share = np.mean(held, axis=0)
    assert (share > 0.88).all(), share
    assert (share < 0.995).all(), share


def test_entities_are_drawn_whole():
    rng = np.random.default_rng(2)
    there = ageing_spells(rng, 400, 8)
    copied = np.concatenate([there, there])  # every series twice says nothing more
    owner = np.arange(400)
    once = life_table(count_spells(there, owner, 400), owner)
    twice = life_table(count_spells(copied, np.arange(800), 800), np.concatenate([owner, owner]))
    np.testing.assert_allclose(once.low, twice.low)
    np.testing.assert_allclose(once.hazard_high, twice.hazard_high)
