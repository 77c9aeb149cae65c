"""The test of turnover before forgetting where it is known whether there is a link.

`python benchmarks/link.py` repeats this a thousand times over more settings.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from kcircuits.analysis.link.turnover_forgetting import ForgettingTest, forgetting_test
from kcircuits.analysis.link.verdict import judge_link

N_REPEATS = 200


@pytest.fixture(scope="module")
def simulate():
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "synthetic_link.py"
    spec = importlib.util.spec_from_file_location("synthetic_link", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.simulate_runs


def repeated(simulate, n_repeats, **options) -> list[ForgettingTest]:
    return [
        forgetting_test(simulate(seed=seed, **options), n_permutations=199, seed=seed)
        for seed in range(n_repeats)
    ]


def free_p(runs, rng, n_permutations=199) -> float:
    """The invalid test: turnover of forgotten against retained, fact-steps shuffled one by one."""
    parts = [(run.is_at_risk, run.is_forgotten, run.turnover[:, :-1]) for run in runs]
    lost = np.concatenate([forgotten[risk] for risk, forgotten, _ in parts]).astype(float)
    values = np.concatenate([turnover[risk] for risk, _, turnover in parts])
    centred = lost - lost.mean()
    draws = np.stack([rng.permutation(values) for _ in range(n_permutations)])
    reaching = np.abs(draws @ centred) >= abs(values @ centred) - 1e-12
    return (1 + reaching.sum()) / (1 + n_permutations)


@pytest.mark.slow
def test_drift_frailty_strata_and_margins_alone_alarm_as_often_as_said(simulate, record_property):
    found = repeated(simulate, N_REPEATS)
    alarms = np.mean([test.p <= 0.05 for test in found])
    covered = np.mean([test.auroc.low <= 0.5 <= test.auroc.high for test in found])
    record_property("alarms", float(alarms))
    record_property("coverage", float(covered))
    assert alarms <= 0.05 + 2.33 * np.sqrt(0.05 * 0.95 / N_REPEATS)
    assert covered >= 0.95 - 2.33 * np.sqrt(0.05 * 0.95 / N_REPEATS)
    assert abs(np.mean([test.auroc.estimate for test in found]) - 0.5) < 0.02


def test_a_few_repeats_without_a_link_raise_few_alarms(simulate):
    found = repeated(simulate, 40, n_runs=2)
    assert sum(test.p <= 0.05 for test in found) <= 6  # of 40 at 5%: one in 100 has more


def test_shuffling_fact_steps_freely_alarms_too_often(simulate):
    """Why trajectories are exchanged whole: drift and frailty alone look like a link."""
    rng = np.random.default_rng(0)
    runs = [simulate(seed=seed, confounding=0) for seed in range(60)]
    assert np.mean([free_p(run, rng) <= 0.05 for run in runs]) > 0.3


def test_the_margin_must_be_held_constant(simulate):
    """Turnover and forgetting both follow the margin: unadjusted, that looks like a link."""
    found = repeated(simulate, 20)
    assert np.mean([test.auroc_raw.estimate for test in found]) > 0.56
    assert abs(np.mean([test.auroc.estimate for test in found]) - 0.5) < 0.03


def test_a_planted_link_is_found(simulate):
    found = repeated(simulate, 20, link=1.2, n_entities=80)
    assert np.mean([test.p <= 0.05 for test in found]) >= 0.8
    words = [judge_link(test, test.p, 3)[0] for test in found]
    assert words.count("precedes") >= 16
    assert "less-turnover" not in words
    back = repeated(simulate, 10, link=-1.2, n_entities=80)
    words = [judge_link(test, test.p, 3)[0] for test in back]
    assert words.count("less-turnover") >= 7


def test_much_data_without_a_link_rules_one_out(simulate):
    found = repeated(simulate, 10, n_entities=160, confounding=0)
    words = [judge_link(test, test.p, 3)[0] for test in found]
    assert words.count("no-link") >= 8
