"""Scores, circuits and metrics agree with the reference files of the EAP-IG library."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import kcircuits as kc

pytestmark = pytest.mark.shared

FAMILIES = ("gpt2", "neox", "llama", "qwen3")
# The reference has the rotary tables of a HookedTransformer, float32 in any dtype; a
# TransformerBridge (transformer-lens 4) has those of transformers, rounded in another order.
EXACT = 1e-10 if find_spec("transformer_lens.HookedTransformer") else 2e-8
BOUND = {torch.float64: EXACT, torch.float32: 1e-5}
SCORES = {"eap": ("eap", {}), "eap_ig_inputs_5": ("eap-ig-inputs", {"ig_steps": 5})}


class Reference:
    """One family's model and numbers."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.numbers: dict[str, torch.Tensor] = load_file(folder / "reference.safetensors")
        self.names: dict[str, Any] = json.loads((folder / "reference.json").read_text())
        self.model = kc.load_model(folder / "model", dtype=dtype)
        self.batch = kc.PromptBatch.from_tokens(
            self["clean_tokens"], self["corrupt_tokens"], self["target_foil"]
        )

    def __getitem__(self, name: str) -> np.ndarray:
        return self.numbers[name].numpy()


@pytest.fixture(scope="module", params=FAMILIES)
def reference(request: pytest.FixtureRequest, shared_dir: Path) -> Reference:
    return Reference(shared_dir / "reference" / request.param, torch.float64)


@pytest.fixture(scope="module", params=FAMILIES)
def reference32(request: pytest.FixtureRequest, shared_dir: Path) -> Reference:
    return Reference(shared_dir / "reference" / request.param, torch.float32)


def error(values: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(values - expected).max() / np.abs(expected).max())


def test_names_and_edges_agree(reference: Reference) -> None:
    topology = reference.model.topology
    assert list(topology.forward_names) == reference.names["forward"]
    assert list(topology.backward_names) == reference.names["backward"]
    assert topology.n_edges == reference.names["n_edges"]
    assert np.array_equal(topology.edge_mask, reference["real_edge_mask"])


@pytest.mark.parametrize("name", SCORES)
def test_scores_agree_in_float64(reference: Reference, name: str) -> None:
    method, params = SCORES[name]
    scores = kc.attribute(reference.model, reference.batch, method, **params)
    assert scores.values.dtype == np.float64
    assert error(scores.values, reference[name]) <= BOUND[torch.float64]


@pytest.mark.parametrize("name", SCORES)
def test_scores_agree_in_float32(reference32: Reference, name: str) -> None:
    method, params = SCORES[name]
    scores = kc.attribute(reference32.model, reference32.batch, method, **params)
    assert error(scores.values, reference32[name]) <= BOUND[torch.float32]


def test_selected_circuits_agree(reference: Reference) -> None:
    scores = kc.attribute(reference.model, reference.batch, ig_steps=5)
    for size_idx, n_edges in enumerate(reference.names["circuit_sizes"]):
        circuits = kc.select(scores, n_edges=n_edges)
        assert np.array_equal(circuits.mask, reference["circuit_masks"][:, size_idx])


@pytest.mark.parametrize(
    ("ablation", "name"),
    [("corrupt", "circuit_metric_patching"), ("zero", "circuit_metric_zero")],
)
def test_circuit_metrics_agree(reference: Reference, ablation: Any, name: str) -> None:
    for size_idx in range(reference[name].shape[1]):
        mask = reference["circuit_masks"][:, size_idx]
        circuits = kc.Circuits.from_mask(mask, reference.model.topology)
        result = kc.evaluate(reference.model, reference.batch, circuits, ablation=ablation)
        assert error(result.metric, reference[name][:, size_idx]) <= EXACT
        assert error(result.clean_metric, reference["clean_metric"]) <= EXACT
        if ablation == "corrupt":
            assert error(result.empty_metric, reference["corrupt_metric"]) <= EXACT


def test_patching_one_edge_gives_its_exact_effect(reference: Reference) -> None:
    """The masked forward, one edge ablated at a time, is exact edge patching."""
    topology = reference.model.topology
    effects = np.zeros((len(reference.batch), topology.n_forward, topology.n_backward))
    for u, v in np.argwhere(topology.edge_mask):
        mask = np.repeat(topology.edge_mask[None], len(reference.batch), 0)
        mask[:, u, v] = False
        circuits = kc.Circuits.from_mask(mask, topology)
        result = kc.evaluate(reference.model, reference.batch, circuits)
        effects[:, u, v] = result.metric - result.clean_metric
    expected = reference["exact_patching"]
    assert np.abs(effects - expected).max() <= EXACT * np.abs(reference["clean_metric"]).max()


@pytest.mark.slow
def test_smollm2_agrees(shared_dir: Path) -> None:
    """Two real facts on the default model: the 2,000 largest edges and their circuit."""
    from kcircuits.models import fetch_model

    names = json.loads((shared_dir / "reference" / "smollm2.json").read_text())
    numbers = load_file(shared_dir / "reference" / "smollm2.safetensors")
    model = kc.load_model(fetch_model())
    assert model.topology.n_edges == names["n_edges"]
    for i, fact in enumerate(names["facts"]):
        batch = kc.PromptBatch.from_tokens(
            [fact["clean_ids"]], [fact["corrupt_ids"]], [[fact["target_id"], fact["foil_id"]]]
        )
        scores = kc.attribute(model, batch, ig_steps=5)
        flat = scores.values[0].ravel()
        index, values = (numbers[f"top_{name}_{i}"].numpy() for name in ("index", "value"))
        largest = np.abs(values).max()
        assert np.abs(flat[index] - values).max() <= 1e-4 * largest
        top = np.argsort(-np.abs(flat), kind="stable")[:200]
        assert set(top.tolist()) == set(index[np.argsort(-np.abs(values))[:200]].tolist())
        assert np.abs(flat).sum() == pytest.approx(float(numbers[f"abs_sum_{i}"]), rel=1e-4)
        circuits = kc.select(scores, n_edges=2000)
        theirs = set(numbers[f"mask_2000_pruned_index_{i}"].tolist())
        ours = set(np.flatnonzero(circuits.mask[0].ravel()).tolist())
        assert len(ours & theirs) >= 0.995 * len(theirs)  # edges at the cutoff may swap in float32
        result = kc.evaluate(model, batch, circuits)
        assert result.clean_metric[0] == pytest.approx(fact["clean_metric"], abs=1e-3)
        assert result.metric[0] == pytest.approx(fact["circuit_metric_top2000"], abs=2e-2)
