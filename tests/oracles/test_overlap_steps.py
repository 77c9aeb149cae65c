"""Tests of the steps of a track: Holm over steps, pooled joint swaps, their false alarms."""

from dataclasses import replace

import numpy as np
import pytest

from kcircuits.analysis.overlap.corrected import Items
from kcircuits.analysis.overlap.swap_test import (
    holm,
    joint_step_tests,
    joint_swap_test,
    joint_totals,
)
from kcircuits.analysis.overlap.turnover import compare_fact
from kcircuits.analysis.overlap.verdict import (
    Verdict,
    hold_over_steps,
    is_testable,
    judge_stratum,
)

N_TOTAL, N_EDGES, N_FACTS, N_STEPS = 400, 30, 24, 8
ITEMS = {
    "edge": Items(block=np.zeros(N_TOTAL, dtype=int), block_sizes=np.array([N_TOTAL])),
    "node": Items(
        block=np.zeros(1, dtype=int),
        block_sizes=np.array([1]),
        nodes=np.zeros((2, N_TOTAL), dtype=int),
    ),
}
TEMPLATES = [tuple("abcdefgh")] * N_FACTS


def verdict(p, word="changed", turnover=0.2, high=0.4):
    return Verdict(word=word, reason="swap test", turnover=turnover, high=high, p=p)


def test_holm_adjusts_a_fact_over_the_steps_at_which_it_is_tested():
    missing = Verdict(word="undetermined", reason="fact not known at ep1")
    track = [verdict(0.02), missing, verdict(0.001), verdict(0.9, "undetermined", 0.0)]
    held = hold_over_steps(track)
    assert [one.p for one in held if one.p == one.p] == pytest.approx(
        holm(np.array([0.02, 0.001, 0.9]))
    )
    assert held[1] == missing
    assert [one.word for one in held] == ["changed", "undetermined", "changed", "undetermined"]
    assert held[2].reason == "swap test q = 0.003 (Holm over 3 steps)"
    assert held[0].p == pytest.approx(0.04)
    late = hold_over_steps([verdict(0.03), verdict(0.04), verdict(0.5, "undetermined", 0.0)])
    assert [one.word for one in late] == ["undetermined"] * 3
    assert "Holm over 3 steps" in late[0].reason
    small = hold_over_steps([verdict(0.03, turnover=0.11, high=0.14), verdict(0.04)])
    assert small[0].word == "no-change"
    assert hold_over_steps([verdict(0.03)])[0].word == "changed"


def test_one_step_alone_is_the_joint_swap_test():
    rng = np.random.default_rng(0)
    statistics = [rng.standard_normal(128) for _ in range(5)]
    alone = joint_swap_test(statistics, TEMPLATES[:5])
    (test,) = joint_step_tests([joint_totals(statistics, TEMPLATES[:5])])
    assert alone == test
    total = np.sum(statistics, axis=0)
    assert alone.p == pytest.approx(np.mean(total >= total[0]))


def test_steps_pool_their_swaps_and_adjust_by_holm():
    rng = np.random.default_rng(1)
    totals = [scale * rng.standard_normal(128) for scale in (1, 5, 0.2)]
    totals[1][0] = 40.0
    pool = np.concatenate([one[1:] / one[1:].std() for one in totals])
    p = [(1 + (pool >= one[0] / one[1:].std()).sum()) / (1 + len(pool)) for one in totals]
    found = joint_step_tests(totals)
    assert [test.p for test in found] == pytest.approx(holm(np.array(p)).tolist())
    assert found[1].p == pytest.approx(3 / (1 + 3 * 127))  # below 1/128, which one step gives
    # what would have sufficed does suffice, and a little less does not
    for place, test in enumerate(found):
        for factor, is_enough in ((1.0001, True), (0.98, False)):
            changed = [one.copy() for one in totals]
            changed[1][0], changed[place][0] = 0.0, factor * test.detectable
            assert (joint_step_tests(changed)[place].p <= 0.05) == is_enough


def simulate(synthetic, seed, *, moved=0.0, moved_step=None, template=0.0):
    """Comparisons of all facts at every step of a track of 9 epochs; [step][fact]."""
    rng = np.random.default_rng(seed)
    shared = template * rng.standard_normal((N_STEPS + 1, 8, N_TOTAL))
    grid = []
    for _ in range(N_FACTS):
        signals = synthetic.signal_pair(rng, N_TOTAL, N_EDGES, moved)
        cutoff = np.sort(np.abs(signals[0]))[-N_EDGES]
        scores = [
            synthetic.prompt_scores(
                rng, signals[int(moved_step is not None and epoch > moved_step)], 8, 0.5, cutoff
            )
            + cutoff * shared[epoch]
            for epoch in range(N_STEPS + 1)
        ]
        scores = np.stack(scores).astype(np.float32)
        grid.append([compare_fact(scores[[i, i + 1]], N_EDGES, ITEMS) for i in range(N_STEPS)])
    return [list(step) for step in zip(*grid, strict=True)]


def judge(steps):
    entities = [f"e{i // 2}" for i in range(N_FACTS)]
    assert all(is_testable(facts) for facts in steps)
    totals = [joint_totals([one.statistics for one in facts], TEMPLATES) for facts in steps]
    return [
        judge_stratum(facts, entities, TEMPLATES, joint)
        for facts, joint in zip(steps, joint_step_tests(totals), strict=True)
    ]


@pytest.mark.slow
def test_tracks_without_change_raise_few_alarms_and_a_moved_step_is_found(synthetic):
    still = [judge(simulate(synthetic, seed, template=0.6)) for seed in range(5)]
    alarms = [any(one.word == "changed" for one in track) for track in still]
    assert not any(alarms)
    assert min(one.p for track in still for one in track) > 0.02
    track = judge(simulate(synthetic, 100, moved=0.3, moved_step=3))
    assert [one.word == "changed" for one in track] == [i == 3 for i in range(N_STEPS)]
    assert "Holm over 8 steps" in track[3].reason
    assert track[3].turnover == pytest.approx(0.3, abs=0.06)


def test_steps_that_cannot_be_tested_are_no_part_of_the_family(synthetic):
    facts = simulate(synthetic, 3)[0]
    assert is_testable(facts)
    assert not is_testable([])
    assert not is_testable([replace(one, is_identical=True) for one in facts])
    assert not is_testable([replace(facts[0], n_prompts=1), *facts[1:]])
    assert not is_testable([replace(one, k_ss=one.k_ss * 0) for one in facts])
