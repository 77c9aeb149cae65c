"""Calls of the Python API that cannot be meant: an error that says so, never a wrong number."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from kcircuits import Circuits, EdgeScores, PromptBatch, Topology, select
from kcircuits.core.manifest import Checkpoint, resolve_ref
from kcircuits.core.provenance import Provenance
from kcircuits.errors import FactsError, UsageError

TOPOLOGY = Topology(n_layers=2, n_heads=2)
CLEAN, CORRUPT, PAIR = [[1, 2, 3], [4, 5, 6]], [[1, 7, 3], [4, 8, 6]], [[5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": [[1, 2], [3]]}, "cannot be read"),
        ({"clean": torch.ones(2, 3, requires_grad=True)}, "cannot be read"),
        ({"clean": [[1.0, 2.0, 3.0]] * 2}, "must be whole numbers, not float64"),
        ({"clean": [[-1, 2, 3], [4, 5, 6]]}, "-1 is no token id; expected 0 or more"),
        ({"target_foil": [5, 6]}, "do not fit together"),
        ({"lengths": [0, 3]}, r"lengths are \[0, 3\]; expected 2 numbers from 1 to 3"),
        ({"lengths": [3, 4]}, r"lengths are \[3, 4\]; expected 2 numbers from 1 to 3"),
        ({"lengths": [3]}, r"lengths are \[3\]; expected 2 numbers"),
        ({"fact_idx": [0, 2]}, "fact_idx must name each of the 3 facts"),
        ({"fact_ids": ["a", "a"]}, "names a fact twice: a, a"),
    ],
)
def test_tokens_that_cannot_be_meant(change: dict[str, Any], message: str) -> None:
    given = {"clean": CLEAN, "corrupt": CORRUPT, "target_foil": PAIR} | change
    with pytest.raises(FactsError, match=message):
        PromptBatch.from_tokens(**given)


def test_tokens_may_be_tensors_and_lists() -> None:
    batch = PromptBatch.from_tokens(torch.tensor(CLEAN), CORRUPT, np.array(PAIR, dtype=np.uint16))
    assert batch.clean.tolist() == CLEAN
    assert batch.foil.tolist() == [6, 8]
    assert batch.lengths.tolist() == [3, 3]


@pytest.mark.parametrize(
    "rule",
    [
        {"n_edges": 2.5},
        {"n_edges": "3"},
        {"n_edges": -1},
        {"n_edges": 10**9},
        {"fraction": "0.1"},
        {"fraction": math.nan},
        {"fraction": 0},
        {"threshold": "1"},
        {"threshold": math.nan},
        {"threshold": 0},
    ],
)
def test_budgets_that_cannot_be_meant(rule: dict[str, Any]) -> None:
    scores = EdgeScores(
        values=np.ones((1, *TOPOLOGY.edge_mask.shape)),
        topology=TOPOLOGY,
        fact_ids=("f",),
        fact_idx=np.zeros(1, dtype=np.int64),
        provenance=Provenance(method="test"),
    )
    (name, value), *_ = rule.items()
    with pytest.raises(UsageError, match=f"{name} is {value!r}; expected"):
        select(scores, **rule)


@pytest.mark.parametrize("fact_ids", [("a",), ("a", "a"), ("a", "b", "c"), ()])
def test_masks_need_one_name_each(fact_ids: tuple[str, ...]) -> None:
    mask = np.zeros((2, *TOPOLOGY.edge_mask.shape), dtype=bool)
    with pytest.raises(UsageError, match=f"{len(fact_ids)} fact_ids for 2 masks"):
        Circuits.from_mask(mask, TOPOLOGY, fact_ids=fact_ids)


def test_a_step_of_many_digits_is_no_checkpoint(tmp_path) -> None:
    with pytest.raises(UsageError, match="means no checkpoint"):
        resolve_ref("step" + "9" * 5000, (Checkpoint(id="ep0", path=tmp_path, step=9),))
