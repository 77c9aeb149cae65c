"""Circuits of all facts together: what earlier work prints, between its noise and chance."""

import numpy as np
import pytest

from kcircuits.analysis.overlap.dataset_circuits import dataset_overlaps

N_FACTS, N_ALL, N_EDGES = 24, 800, 60


def dataset_overlap(scores, entities, n_edges, **options):
    (found,) = dataset_overlaps(scores, entities, n_edges, [(0, 1)], **options)
    return found


def draw(rng, *, moved=0.0, noise=1.5):
    """Facts around one true circuit at two epochs, of which a share moved."""
    signal = rng.lognormal(0, 1.0, N_ALL)
    later = signal.copy()
    order = np.argsort(-signal)
    n = round(moved * N_EDGES)
    lost = rng.choice(order[:N_EDGES], n, replace=False)
    gained = rng.choice(order[N_EDGES:], n, replace=False)
    later[lost], later[gained] = signal[gained], signal[lost]
    shape = (N_FACTS, N_ALL)
    return np.stack(
        [s + noise * s.mean() * 3 * rng.standard_normal(shape) for s in (signal, later)]
    )


def twin(scores, entities, sides, n_edges):
    """The same overlaps, one set of edge numbers after the other."""

    def circuit(epoch, members):
        mean = scores[epoch][[i for i, e in enumerate(entities) if e in members]].sum(0)
        return set(np.argsort(-np.abs(mean))[:n_edges].tolist())

    def k(x, y):
        chance = n_edges / scores.shape[2]
        return (len(x & y) / n_edges - chance) / (1 - chance)

    found = []
    for a_names, b_names in sides:
        a, b = ([circuit(t, names) for t in (0, 1)] for names in (a_names, b_names))
        found.append((k(a[0], b[0]), k(a[1], b[1]), (k(a[0], b[1]) + k(a[1], b[0])) / 2))
    k_ss, k_tt, k_st = np.mean(found, axis=0)
    c = np.sqrt(k_ss * k_tt)
    return k_st, c, 1 - k_st / c, (1 - c) / (1 - k_st)


def test_numbers_are_those_of_a_slow_twin():
    rng = np.random.default_rng(0)
    scores, entities = draw(rng, moved=0.3), np.array([f"e{i // 2}" for i in range(N_FACTS)])
    found = dataset_overlap(scores, entities, N_EDGES, n_splits=4, seed=3)
    names = np.unique(entities)
    order = np.random.default_rng(3).permuted(np.tile(np.arange(len(names)), (4, 1)), axis=1)
    sides = [(set(names[row < 6]), set(names[row >= 6])) for row in order]
    k_st, c, tau, share = twin(scores, entities, sides, N_EDGES)
    assert found.k_st == pytest.approx(k_st)
    assert found.ceiling == pytest.approx(c)
    assert found.turnover == pytest.approx(tau)
    assert found.noise_share == pytest.approx(share)
    left = [twin(np.delete(scores, np.flatnonzero(entities == name), axis=1),
                 entities[entities != name], [(a - {name}, b - {name}) for a, b in sides], N_EDGES)
            for name in names]  # fmt: skip
    for place, error in ((2, found.turnover_error), (3, found.noise_share_error)):
        values = np.array([row[place] for row in left])
        expected = np.sqrt((len(names) - 1) / len(names) * ((values - values.mean()) ** 2).sum())
        assert error == pytest.approx(expected)


def test_without_change_all_that_differs_is_noise_and_with_change_less():
    entities = np.array([f"e{i}" for i in range(N_FACTS)])
    still, moved = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        still.append(dataset_overlap(draw(rng), entities, N_EDGES, seed=seed))
        moved.append(dataset_overlap(draw(rng, moved=0.4), entities, N_EDGES, seed=seed))
    assert abs(np.mean([one.turnover for one in still])) < 0.04
    assert np.mean([one.noise_share for one in still]) == pytest.approx(1, abs=0.05)
    assert np.mean([one.turnover for one in moved]) == pytest.approx(0.4, abs=0.08)
    assert np.mean([one.noise_share for one in moved]) < 0.8
    # The Jaccard of all prompts is well below 1 though nothing changed.
    assert np.mean([one.jaccard for one in still]) < 0.9


def test_equal_scores_have_jaccard_1_and_no_turnover():
    scores = np.repeat(draw(np.random.default_rng(1))[:1], 2, axis=0)
    found = dataset_overlap(scores, np.arange(N_FACTS), N_EDGES)
    assert found.jaccard == 1
    assert found.turnover == pytest.approx(0, abs=1e-12)
    assert found.noise_share == pytest.approx(1)


def test_few_entities_have_no_error():
    scores = draw(np.random.default_rng(2))[:, :6]
    found = dataset_overlap(scores, np.arange(6), N_EDGES)
    assert np.isnan(found.turnover_error)
    assert np.isfinite(found.turnover)


def test_pairs_of_several_epochs_are_compared_as_each_by_itself():
    rng = np.random.default_rng(4)
    scores = np.concatenate([draw(rng, moved=0.2), draw(rng)])
    entities, pairs = np.arange(N_FACTS), [(0, 1), (0, 3), (2, 1)]
    together = dataset_overlaps(scores, entities, N_EDGES, pairs)
    alone = [dataset_overlap(scores[list(pair)], entities, N_EDGES) for pair in pairs]
    assert together == alone
