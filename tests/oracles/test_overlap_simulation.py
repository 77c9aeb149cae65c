"""Turnover, swap test and verdicts on simulated steps where the truth is known.

A step is 100 facts with circuits of 100 of 2,000 edges, seen through noise per prompt at which
two halves of the prompts overlap about as much as on real models (k from .5 to .8).
"""

import numpy as np
import pytest

from kcircuits.analysis.overlap.corrected import Items
from kcircuits.analysis.overlap.turnover import compare_fact, pooled_turnover
from kcircuits.analysis.overlap.verdict import judge_facts, judge_stratum

N_TOTAL, N_EDGES, N_FACTS = 2_000, 100, 100
ITEMS = {
    "edge": Items(block=np.zeros(N_TOTAL, dtype=int), block_sizes=np.array([N_TOTAL])),
    "node": Items(
        block=np.zeros(1, dtype=int),
        block_sizes=np.array([1]),
        nodes=np.zeros((2, N_TOTAL), dtype=int),
    ),
}


@pytest.fixture(scope="module")
def simulate(synthetic):
    def step(*, n_prompts, moved=0.0, n_moved=0, noise=(0.7, 0.7), seed=0, template=0.0):
        rng = np.random.default_rng(seed)
        # noise that the prompts of one template share over all facts, anew at each epoch
        shared = template * rng.standard_normal((2, n_prompts, N_TOTAL))
        facts = []
        for i in range(N_FACTS):
            share = moved if i < n_moved else 0.0
            signals = synthetic.signal_pair(rng, N_TOTAL, N_EDGES, share)
            cutoff = np.sort(np.abs(signals[0]))[-N_EDGES]
            scores = [
                synthetic.prompt_scores(rng, signal, n_prompts, level, cutoff)
                + cutoff * shared[epoch]
                for epoch, (signal, level) in enumerate(zip(signals, noise, strict=True))
            ]
            facts.append(compare_fact(np.stack(scores).astype(np.float32), N_EDGES, ITEMS))
        return facts

    return step


def found(facts):
    verdicts = judge_facts(facts, [None] * len(facts))
    return np.array([verdict.word == "changed" for verdict in verdicts])


@pytest.mark.parametrize("n_prompts", [4, 5, 8])
def test_no_change_gives_no_turnover_and_no_alarms(simulate, n_prompts, record_property):
    steps = [simulate(n_prompts=n_prompts, seed=seed) for seed in range(3)]
    taus = [pooled_turnover(facts) for facts in steps]
    alarms = np.mean([found(facts) for facts in steps])
    record_property("mean_turnover", float(np.mean(taus)))
    record_property("false_alarms", float(alarms))
    assert abs(np.mean(taus)) < 0.01
    assert alarms <= 0.01
    ceilings = np.mean([fact.ceiling for facts in steps for fact in facts])
    assert 0.5 < ceilings < 0.85


def test_full_circuits_of_the_same_prompts_against_halves_are_biased(simulate):
    """Why halves: the naive turnover is far below 0 at no change."""
    facts = simulate(n_prompts=4)
    chance = N_EDGES / N_TOTAL
    o = np.array([2 * fact.same_prompts / (1 + fact.same_prompts) for fact in facts])
    naive = 1 - ((o - chance) / (1 - chance)).sum() / sum(fact.ceiling for fact in facts)
    assert naive < -0.1


@pytest.mark.parametrize(("n_prompts", "n_moved"), [(4, 50), (8, 50), (8, 10)])
def test_a_moved_fifth_of_the_circuit_is_found(simulate, n_prompts, n_moved):
    facts = simulate(n_prompts=n_prompts, moved=0.2, n_moved=n_moved, seed=1)
    changed = found(facts)
    assert changed[:n_moved].mean() >= 0.9
    assert changed[n_moved:].mean() <= 0.02
    assert pooled_turnover(facts[:n_moved]) == pytest.approx(0.2, abs=0.04)


def test_one_noisier_epoch_raises_few_alarms(simulate):
    facts = simulate(n_prompts=8, noise=(0.35, 0.8), seed=2)
    assert found(facts).mean() <= 0.05


def test_strata_are_judged_rightly(simulate):
    entities = [f"e{i // 2}" for i in range(N_FACTS)]
    templates = [tuple("abcdefgh")] * N_FACTS
    still = judge_stratum(simulate(n_prompts=8, seed=3), entities, templates)
    assert still.word == "no-change"
    assert still.low < 0 < still.high < 0.1
    moved = judge_stratum(
        simulate(n_prompts=8, moved=0.2, n_moved=N_FACTS, seed=3), entities, templates
    )
    assert moved.word == "changed"
    assert moved.low < 0.2 < moved.high
    assert 0.05 < moved.detectable < moved.turnover


def test_noise_of_shared_templates_is_not_called_change(simulate):
    entities = [f"e{i}" for i in range(N_FACTS)]
    shared = [tuple("abcdefgh")] * N_FACTS
    judged = [
        judge_stratum(simulate(n_prompts=8, template=1.0, seed=seed), entities, shared)
        for seed in range(2)
    ]
    assert all(verdict.word != "changed" for verdict in judged)
