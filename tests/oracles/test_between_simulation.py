"""Overlaps between facts on simulated circuits whose common edges are known.

Circuits of 100 of 2,000 edges, seen through noise per prompt; part of a circuit is in those of all
facts, part in those of its relation, the rest is its own.
"""

import numpy as np
import pytest

from kcircuits.analysis.overlap.between_facts import FactPairs, pool_pairs
from kcircuits.analysis.overlap.clusters import find_clusters
from kcircuits.analysis.overlap.contrast import contrast
from kcircuits.analysis.overlap.corrected import Items
from kcircuits.analysis.overlap.fact_halves import (
    cross_overlaps,
    fact_halves,
    halves_of,
    quarters_of,
)
from kcircuits.analysis.overlap.rand_index import adjusted_rand

N_TOTAL, N_EDGES, N_FACTS, N_PROMPTS = 2_000, 100, 40, 8
ITEMS = Items(block=np.zeros(N_TOTAL, dtype=int), block_sizes=np.array([N_TOTAL]))
LABELS = np.array([f"r{i % 4}" for i in range(N_FACTS)])
APART = ~np.eye(N_FACTS, dtype=bool)


@pytest.fixture(scope="module")
def simulate(synthetic):
    def epoch(*, seed, shared=0.0, within=0.0, template_noise=0.0, in_order=True):
        """All pairs and the quarters; prompts in the order of their templates, or not."""
        rng = np.random.default_rng(seed)
        signals = synthetic.related_signals(
            rng, LABELS.tolist(), N_TOTAL, N_EDGES, shared=shared, within=within
        )
        templates = [[f"{label} {k}" for k in range(N_PROMPTS)] for label in LABELS]
        scores = synthetic.related_scores(rng, signals, templates, template_noise=template_noise)
        if not in_order:
            scores = [rows[rng.permutation(N_PROMPTS)] for rows in scores]

        def circuits(members):
            return [fact_halves(s, N_EDGES, members, ITEMS, np.arange(N_TOTAL)) for s in scores]

        halves = circuits(halves_of(N_PROMPTS))
        (overlaps,) = cross_overlaps(halves, halves, [ITEMS])
        entities = np.array([f"e{i}" for i in range(N_FACTS)])
        pairs = FactPairs(overlaps=overlaps, matched=None, entities=entities, is_pair=APART)
        quarters = zip(*map(circuits, quarters_of(N_PROMPTS)), strict=True)
        return pairs, list(quarters)

    return epoch


def shares(pairs):
    same = LABELS[:, None] == LABELS
    return [pool_pairs(pairs, APART & mask).shared for mask in (same, ~same)]


def true_share(planted):
    """Own edges of two facts meet by accident: the rest of both, anywhere in the other edges."""
    rest = 1 - planted
    accident = rest**2 * N_EDGES / N_TOTAL
    return (planted + accident - N_EDGES / N_TOTAL) / (1 - N_EDGES / N_TOTAL)


@pytest.mark.parametrize(("shared", "within"), [(0.2, 0.3), (0.5, 0.1), (0.0, 0.0), (1.0, 0.0)])
def test_what_facts_share_is_what_was_planted(simulate, shared, within):
    found = np.mean(
        [[s.estimate for s in shares(simulate(seed=i, shared=shared, within=within)[0])]
         for i in range(3)], axis=0
    )  # fmt: skip
    assert found[0] == pytest.approx(true_share(shared + within), abs=0.02)
    assert found[1] == pytest.approx(true_share(shared), abs=0.02)


def test_noise_of_shared_templates_is_no_shared_circuit(simulate):
    """Facts of one relation, nothing in common but the noise of their templates."""
    aligned, _ = simulate(seed=1, template_noise=1.5)
    mixed, _ = simulate(seed=1, template_noise=1.5, in_order=False)
    assert aligned.overlaps.own.mean() < 0.5  # the noise is there
    same = LABELS[:, None] == LABELS
    assert abs(pool_pairs(aligned, APART & same).shared.estimate) < 0.02
    assert pool_pairs(mixed, APART & same).shared.estimate > 0.15  # what alignment avoids
    assert contrast(aligned, APART, LABELS, n_prompts=N_PROMPTS).word == "not-more-alike"


@pytest.mark.slow
@pytest.mark.parametrize("template_noise", [0.0, 0.7])
def test_without_a_difference_few_are_called_more_alike(simulate, template_noise, record_property):
    found = [
        contrast(
            simulate(seed=100 + i, shared=0.4, template_noise=template_noise)[0],
            APART, LABELS, n_prompts=N_PROMPTS, n_permutations=199,
        )
        for i in range(40)
    ]  # fmt: skip
    low = np.mean([one.p <= 0.05 for one in found])
    record_property("p_below_.05", float(low))
    covered = np.mean([one.difference.low <= 0 <= one.difference.high for one in found])
    record_property("covered", float(covered))
    assert {one.word for one in found} == {"not-more-alike"}
    # Noise of few templates meets by accident, alike in all facts of two relations: exchanging
    # facts does not show that, so p alone would alarm too often. The margin of the verdict does.
    assert low <= (0.15 if not template_noise else 0.35)  # 40 repeats
    assert max(one.difference.high for one in found) < 0.05
    assert covered >= (0.85 if not template_noise else 0.7)


def test_a_planted_difference_is_found(simulate):
    pairs, _ = simulate(seed=2, shared=0.3, within=0.15)
    found = contrast(pairs, APART, LABELS, n_prompts=N_PROMPTS)
    assert found.word == "more-alike"
    assert found.p == pytest.approx(0.001)
    truth = true_share(0.45) - true_share(0.3)
    assert found.difference.low < truth < found.difference.high


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shared", "within"), [(0.2, 0.3), (0.5, 0.15)])
def test_planted_clusters_are_recovered(simulate, shared, within, seed):
    pairs, quarters = simulate(seed=seed, shared=shared, within=within)
    found = find_clusters(pairs, quarters, ITEMS, n_permutations=99)
    assert found.word == "clusters"
    assert found.n_clusters == 4
    assert found.separation == pytest.approx(
        true_share(shared + within) - true_share(shared), abs=0.04
    )
    codes = np.unique(LABELS, return_inverse=True)[1]
    assert adjusted_rand(found.labels, codes[None])[0] == pytest.approx(1)
    strips = LABELS[found.order]
    assert np.count_nonzero(strips[1:] != strips[:-1]) == 3  # the tree keeps groups together


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shared", "template_noise"), [(0.5, 0.0), (0.0, 0.0), (0.5, 0.7)])
def test_without_clusters_none_are_found(simulate, shared, template_noise, seed):
    """Also where facts share a circuit, nothing, or the noise of their relation's templates."""
    pairs, quarters = simulate(seed=seed, shared=shared, template_noise=template_noise)
    found = find_clusters(pairs, quarters, ITEMS, n_permutations=99)
    assert found.word == "no-clusters"
    assert found.n_clusters == 0
    assert found.p > 0.05 or found.separation < 0.05 or found.stability.max() < 0.5
    assert found.reason.endswith("needed")  # which of the three conditions failed
    assert abs(found.separation) < 0.05


def test_few_facts_or_prompts_cannot_tell(simulate):
    pairs, quarters = simulate(seed=0, shared=0.5)
    without = find_clusters(pairs, [None] * N_FACTS, ITEMS)
    assert without.word == "undetermined"
    assert "0 facts with 4 discovery prompts or more; 10 are needed" in without.reason
    assert sorted(without.order) == list(range(N_FACTS))
    some = [quarters[i] if i < 30 else None for i in range(N_FACTS)]
    found = find_clusters(pairs, some, ITEMS, n_permutations=9)
    assert found.facts.tolist() == list(range(30))
