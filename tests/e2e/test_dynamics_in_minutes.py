"""Every dynamic that a study of training looks for, in the model from scratch of the smoke preset.

What is asserted is large: a dynamic is there or it is not. The numbers are those of one seed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kcircuits.analysis.dynamics.series import ProbeSeries, fact_known, select_facts
from kcircuits.lab.build import Built, build
from kcircuits.lab.study import train_built
from kcircuits.study.dynamics.dynamics import open_dynamics
from kcircuits.study.dynamics.tables import summary_row

pytestmark = pytest.mark.slow

N_EPOCHS = 12
# Rate of the strategy's steps: the preset's, and one at which learning is unsteady.
RATE, UNSTEADY = 3e-4, 2e-3


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build("smoke", tmp_path_factory.mktemp("lab") / "lab")


@pytest.fixture(scope="module")
def full(built: Built, tmp_path_factory: pytest.TempPathFactory) -> ProbeSeries:
    return trained(built, tmp_path_factory.mktemp("full"), lr=RATE)


def trained(built: Built, to: Path, **settings: Any) -> ProbeSeries:
    manifest = train_built(built, to=to, n_epochs=N_EPOCHS, **settings)
    (series,) = open_dynamics(to / "runs" / manifest.run).series
    return series


def part(series: ProbeSeries, **strata: str) -> ProbeSeries:
    """The run seen through the facts with these strata."""
    chosen = [all(each.get(k) == v for k, v in strata.items()) for each in series.strata]
    return select_facts(series, np.array(chosen))


def known(series: ProbeSeries, **strata: str) -> list[float]:
    """Share of facts known at each epoch."""
    return fact_known(part(series, **strata)).mean(0).tolist()


def test_new_facts_are_acquired_and_frequent_ones_first(full: ProbeSeries) -> None:
    often, seldom = (known(full, split="trained", frequency=f) for f in ("high", "low"))
    assert often[0] <= 0.35
    assert often[-1] >= 0.8
    assert sum(often) > sum(seldom)
    assert full.loss[-1] < 0.7 * full.loss[1]


def test_what_no_document_tells_is_forgotten(full: ProbeSeries) -> None:
    controls = known(full, split="control")
    assert controls[0] >= 0.8
    assert min(controls) <= controls[0] - 0.3


def test_a_conflict_replaces_the_old_answer(full: ProbeSeries) -> None:
    """Documents tell otherwise of people that the base knows: the new answer wins."""
    updates = known(full, split="updated")
    assert updates[0] <= 0.35
    assert updates[-1] >= 0.6


def test_replay_keeps_more_of_what_no_document_tells(
    built: Built, full: ProbeSeries, tmp_path: Path
) -> None:
    replayed = trained(built, tmp_path, strategy="replay", lr=RATE)
    assert sum(known(replayed, split="control")) > sum(known(full, split="control"))
    assert known(replayed, split="trained")[-1] >= 0.6


def test_at_a_high_rate_facts_are_forgotten_and_learned_again(built: Built, tmp_path: Path) -> None:
    unsteady = part(trained(built, tmp_path, lr=UNSTEADY), split="trained")
    row = summary_row(unsteady, "all", k=3, last_exposure=None, seed=0)
    assert row["forgetting_events"] >= 3
    assert row["relearning_events"] >= 2
    assert row["divergence"]["diverging_steps"] >= 1
