"""The page of ``kcircuits dynamics``: it draws, logs nothing and asks for nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kcircuits.analysis.dynamics.series import ProbeSeries, Skill
from kcircuits.study.dynamics.dynamics import Dynamics
from kcircuits.study.dynamics.page import dynamics_page

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=alert(1)>$x^2$"


def make_dynamics(*, n_epochs: int = 5, by: str | None = None, **changes: Any) -> Dynamics:
    rng = np.random.default_rng(0)
    n_facts = 20
    shape = (n_facts, n_epochs)
    values: dict[str, Any] = {
        "model": HOSTILE, "strategy": "full", "seed": 1,
        "epochs": np.arange(n_epochs, dtype=float),
        "fact_ids": tuple(f"{HOSTILE} {i}" for i in range(n_facts)),
        "entities": tuple(f"e{i // 2}" for i in range(n_facts)),
        "strata": tuple({"split": f"<b>{i % 2}" } for i in range(n_facts)),
        "fact_idx": np.arange(n_facts), "is_known": rng.random(shape) < 0.5,
        "logprob": -rng.random(shape), "recall": np.full(shape, np.nan),
        "loss": np.array([np.nan, *range(n_epochs - 1, 0, -1)]),
        "perplexity": np.full(n_epochs, np.nan),
        "skills": {"s": Skill(accuracy=rng.random(n_epochs))},
    }  # fmt: skip
    one = ProbeSeries(**(values | changes))
    two = ProbeSeries(**(values | changes | {"seed": 2}))
    return Dynamics(series=(one, two), by=by)


@pytest.mark.parametrize("by", [None, "split"])
def test_page_draws_all_figures(open_page: Callable, by: str | None) -> None:
    page = open_page(dynamics_page(make_dynamics(by=by)))
    page.wait_for_selector("#flows .js-plotly-plot")
    for name in ("curves", "loss", "flows", "facts", "survival"):
        assert page.locator(f"#{name} .js-plotly-plot").count() >= 1
    assert page.locator("#summary table tbody tr").count() == (2 if by is None else 4)
    assert page.locator("img").count() == 0


def test_page_of_a_run_with_one_epoch_and_no_loss_says_so(open_page: Callable) -> None:
    page = open_page(dynamics_page(make_dynamics(n_epochs=1, loss=np.array([np.nan]), skills={})))
    assert "No run has a training loss" in page.inner_text("#loss")
    assert "only one epoch" in page.inner_text("#flows")
