"""The engine on every family: the plain model's logits, full and empty circuits, EAP's slope."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.engine.parity import checked_weights
from kcircuits.errors import CheckpointError

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def loaded(variant: str, tiny_folder: MakeFolder) -> kc.Model:
    return kc.load_model(tiny_folder(variant), dtype=torch.float64)


@pytest.fixture
def batch() -> kc.PromptBatch:
    rng = np.random.default_rng(0)
    clean, corrupt = rng.integers(0, 96, (2, 3, 10))
    corrupt[:, :2] = clean[:, :2]
    return kc.PromptBatch.from_tokens(clean, corrupt, [[1, 2], [30, 4], [50, 60]])


def test_engine_reproduces_the_plain_model(loaded: kc.Model) -> None:
    assert checked_weights(loaded) is loaded.weights


def test_engine_that_computes_another_model_is_refused(loaded: kc.Model) -> None:
    spoiled = replace(loaded)  # a model of its own: the first one was checked already
    weights = spoiled.weights
    spoiled.__dict__["_weights"] = replace(weights, embed=weights.embed * 1.001)
    with pytest.raises(CheckpointError, match="differ from those of transformers"):
        kc.attribute(spoiled, kc.PromptBatch.from_tokens([[1, 2]], [[3, 2]], [[4, 5]]))


def test_full_and_empty_circuits(loaded: kc.Model, batch: kc.PromptBatch) -> None:
    edges = np.repeat(loaded.topology.edge_mask[None], 3, 0)
    full = kc.evaluate(loaded, batch, kc.Circuits.from_mask(edges, loaded.topology))
    np.testing.assert_allclose(full.metric, full.clean_metric, atol=1e-9)
    empty = kc.evaluate(loaded, batch, kc.Circuits.from_mask(edges & False, loaded.topology))
    np.testing.assert_allclose(empty.metric, empty.empty_metric, atol=1e-9)


def test_scores_do_not_depend_on_chunks(loaded: kc.Model, batch: kc.PromptBatch) -> None:
    whole = kc.attribute(loaded, batch).values
    single = kc.attribute(loaded, batch, memory=1).values
    assert np.abs(whole - single).max() <= 1e-9 * np.abs(whole).max()
