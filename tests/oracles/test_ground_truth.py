"""The known circuits are what they are said to be, and methods find those that they promise to."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.core.topology import Topology
from kcircuits.discovery import METHODS
from kcircuits.engine.layers import normalise
from kcircuits.errors import UsageError
from kcircuits.evaluation.auroc import edge_auroc, edge_recall
from kcircuits.lab.ground_truth import GROUND_TRUTHS, KnownCircuit, WeightsModel
from kcircuits.lab.ground_truth.planted import build as build_planted
from kcircuits.lab.ground_truth.planted import random_circuit

SEEDS = (0, 1)
# Effects are sums of some hundred float64 products; metrics are of order 1 to 100.
ROUNDING = 1e-12
# Smallest effect of an edge that counts as one, as a share of m(clean) - m(corrupt). The effects
# of hand-written edges are above 0.3, those of random ones (some keys hardly matter) above 1e-6.
SMALLEST_EFFECT = 1e-7

all_truths = pytest.mark.parametrize("name", GROUND_TRUTHS)
all_seeds = pytest.mark.parametrize("seed", SEEDS)


@cache
def known_of(name: str, seed: int) -> KnownCircuit:
    return GROUND_TRUTHS[name].build(seed, torch.float64)


def metric_of(known: KnownCircuit, masks: np.ndarray) -> np.ndarray:
    """Logit difference [mask, prompt] when only the edges of each mask carry clean activations."""
    batch, (n_masks, n_prompts) = known.batch, (len(masks), len(known.batch))
    answers = np.stack([batch.target, batch.foil], 1)
    tiled = kc.PromptBatch.from_tokens(
        *(np.tile(ids, (n_masks, 1)) for ids in (batch.clean, batch.corrupt, answers))
    )
    topology = known.weights.topology
    circuits = kc.Circuits.from_mask(np.repeat(masks, n_prompts, axis=0), topology)
    result = kc.evaluate(WeightsModel(known.weights), tiled, circuits)
    return result.metric.reshape(n_masks, n_prompts)


def effects(known: KnownCircuit, whole: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Largest |effect| over prompts of corrupting each edge of ``whole`` by itself.

    As a share of m(clean) - m(corrupt), both of the full model.
    """
    topology = known.weights.topology
    without = np.repeat(whole[None], len(edges), axis=0)
    without[np.arange(len(edges)), edges[:, 0], edges[:, 1]] = False
    ends = np.stack([topology.edge_mask, np.zeros_like(topology.edge_mask), whole])
    values = metric_of(known, np.concatenate([ends, without]))
    clean, corrupt, start = values[:3]
    return np.abs((values[3:] - start) / (clean - corrupt)).max(1)


def accuracy(known: KnownCircuit, batch: kc.PromptBatch) -> float:
    """Share of the clean prompts whose target is the model's first choice."""
    model = WeightsModel(known.weights)
    everything = np.repeat(model.topology.edge_mask[None], batch.n_facts, axis=0)
    circuits = kc.Circuits.from_mask(everything, model.topology)
    return float(kc.evaluate(model, batch, circuits, k=1).hit_at_k.mean())


@all_truths
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_model_answers_clean_prompts_with_target_and_corrupt_ones_with_foil(
    name: str, dtype: torch.dtype
) -> None:
    for seed in range(3):
        known = GROUND_TRUTHS[name].build(seed, dtype)
        batch = known.batch
        swapped = replace(
            batch,
            clean=batch.corrupt,
            corrupt=batch.clean,
            targets=batch.foils,
            foils=batch.targets,
        )
        assert known.weights.dtype == dtype
        assert accuracy(known, batch) == 1.0
        assert accuracy(known, swapped) == 1.0


@all_truths
def test_edges_outside_the_circuit_have_no_effect(name: str) -> None:
    """Each by itself; within the stated bound where the model is noisy."""
    known = known_of(name, 0)
    topology = known.weights.topology
    outside = np.argwhere(topology.edge_mask & ~known.circuit)
    bound = max(GROUND_TRUTHS[name].largest_outside, ROUNDING)
    assert effects(known, topology.edge_mask, outside).max() <= bound


@all_truths
@all_seeds
def test_circuit_alone_is_faithful(name: str, seed: int) -> None:
    """All edges outside it corrupted together: the metric is that of the full model."""
    known = known_of(name, seed)
    ends = np.stack([known.circuit, known.weights.topology.edge_mask])
    circuit, clean, corrupt = metric_of(known, np.stack([*ends, np.zeros_like(known.circuit)]))
    faithfulness = (circuit - corrupt) / (clean - corrupt)
    bound = max(GROUND_TRUTHS[name].largest_outside, ROUNDING)
    assert np.abs(faithfulness - 1).max() <= bound


@all_truths
@all_seeds
def test_circuit_is_minimal_where_it_is_said_to_be(name: str, seed: int) -> None:
    """No edge can go: neither from the full model nor from the circuit alone."""
    known = known_of(name, seed)
    inside = np.argwhere(known.circuit)
    for whole in (known.weights.topology.edge_mask, known.circuit):
        smallest = effects(known, whole, inside).min()
        if GROUND_TRUTHS[name].is_minimal:
            assert smallest > max(GROUND_TRUTHS[name].largest_outside, SMALLEST_EFFECT)
        else:
            assert smallest <= ROUNDING


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (name, method)
        for name, truth in GROUND_TRUTHS.items()
        for method in METHODS
        if method in truth.recovered_by
    ],
)
@all_seeds
def test_method_recovers_the_circuit_that_it_promises(name: str, method: str, seed: int) -> None:
    known = known_of(name, seed)
    scores = kc.attribute(WeightsModel(known.weights), known.batch, method)
    n_facts = known.batch.n_facts
    found = kc.select(scores, n_edges=known.n_edges, prune=False).mask
    np.testing.assert_array_equal(found, np.repeat(known.circuit[None], n_facts, axis=0))
    assert (edge_auroc(scores.values, known.circuit, scores.topology) == 1).all()


def test_every_promise_is_that_of_a_method() -> None:
    promised = frozenset().union(*(truth.recovered_by for truth in GROUND_TRUTHS.values()))
    assert promised <= set(METHODS)


@pytest.mark.parametrize(
    ("name", "method", "blind"),
    [
        ("or", "exact", ["input->a0.h0<v>", "input->a0.h1<v>", "a0.h0->m0", "a0.h1->m0"]),
        ("or", "eap", ["input->a0.h0<v>", "input->a0.h1<v>", "a0.h0->m0", "a0.h1->m0"]),
        ("saturation", "eap", ["input->a0.h0<v>", "a0.h0->m0"]),
    ],
)
def test_method_is_blind_where_the_table_says_so(name: str, method: str, blind: list[str]) -> None:
    known = known_of(name, 0)
    scores = kc.attribute(WeightsModel(known.weights), known.batch, method)
    size = {
        edge: abs(scores.values[0][scores.topology.edge_index(edge)])
        for edge in [*blind, "m0->logits"]
    }
    assert size.pop("m0->logits") > 1
    assert max(size.values()) <= ROUNDING


@pytest.mark.parametrize("name", ["or", "saturation"])
def test_pruning_sees_what_single_edges_and_gradients_do_not(name: str) -> None:
    """It runs circuits: a backup counts once the other signal is gone."""
    known = known_of(name, 0)
    circuits = kc.prune(
        WeightsModel(known.weights),
        known.batch,
        n_edges=known.n_edges,
        candidates=1.0,
        recipe=kc.Recipe(steps=150),
    )
    assert (circuits.mask == known.circuit).all()


def test_gradients_see_a_slope_that_has_no_effect() -> None:
    known = known_of("slope", 0)
    scores = kc.attribute(WeightsModel(known.weights), known.batch, "eap")
    seen = {row["edge"] for row in scores.top_edges("fact-0", 2)}
    assert seen == {"input->a0.h1<v>", "a0.h1->m0"}


@pytest.mark.parametrize("method", ["eap", "eap-ig-inputs", "relp"])
def test_what_is_overlooked_under_noise_is_where_attention_has_made_up_its_mind(
    method: str,
) -> None:
    known = known_of("look-up, noisy", 0)
    scores = kc.attribute(WeightsModel(known.weights), known.batch, method)
    found = kc.select(scores, n_edges=known.n_edges, prune=False).mask
    missed = {
        scores.topology.backward_kinds[int(v)] for _, _, v in np.argwhere(known.circuit & ~found)
    }
    assert missed == {"q", "k"}


@pytest.mark.parametrize(("n_layers", "n_heads"), [(1, 1), (2, 4), (4, 1)])
def test_planted_circuits_come_in_every_shape(n_layers: int, n_heads: int) -> None:
    known = build_planted(3, n_layers=n_layers, n_heads=n_heads, n_facts=2)
    topology = known.weights.topology
    assert (topology.n_layers, topology.n_heads) == (n_layers, n_heads)
    kinds = np.array(topology.backward_kinds)[known.circuit.any(0)]
    assert set(kinds) == {"q", "k", "v", "mlp", "logits"}
    scores = kc.attribute(WeightsModel(known.weights), known.batch, "eap")
    found = kc.select(scores, n_edges=known.n_edges, prune=False).mask
    assert (found == known.circuit).all()


def test_planted_circuits_differ_by_seed_alone() -> None:
    first, again, other = (build_planted(seed) for seed in (0, 0, 1))
    assert (first.circuit == again.circuit).all()
    assert (first.batch.clean == again.batch.clean).all()
    assert torch.equal(first.weights.embed, again.weights.embed)
    assert (first.circuit != other.circuit).any()
    assert WeightsModel(first.weights).content_hash == WeightsModel(again.weights).content_hash
    assert WeightsModel(first.weights).content_hash != WeightsModel(other.weights).content_hash


def test_random_circuit_has_no_edge_that_leads_nowhere() -> None:
    topology = Topology(n_layers=3, n_heads=3)
    for seed in range(20):
        mask = random_circuit(topology, 0.2, np.random.default_rng(seed))
        readers = {
            topology.backward_names[v]: set(np.flatnonzero(mask[:, v]))
            for v in np.flatnonzero(mask.any(0))
        }
        nodes = {name.partition("<")[0] for name in readers}
        for u in np.flatnonzero(mask.any(1)):
            # Whoever sends also receives; whoever receives also sends (the ends apart).
            assert topology.forward_names[u] in nodes | {"input"}
        senders = {topology.forward_names[u] for u in np.flatnonzero(mask.any(1))}
        assert nodes - {"logits"} <= senders
        for name in readers:
            head, _, kind = name.partition("<")
            if kind in ("q>", "k>"):
                assert {f"{head}<q>", f"{head}<k>", f"{head}<v>"} <= readers.keys()


def test_norm_of_hand_written_models_is_exactly_the_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float64, torch.float32):
        weights = GROUND_TRUTHS["induction"].build(0, dtype).weights
        x = 100 * torch.randn(7, weights.d_model, generator=generator, dtype=dtype)
        assert torch.equal(normalise(x, weights.final_norm).output, x)


def slow_auroc(size: list[float], is_true: list[bool]) -> float:
    """Every pair of an edge inside and one outside: 1 won, 1/2 tied."""
    pairs = [
        1.0 if inside > outside else 0.5 if inside == outside else 0.0
        for inside, yes in zip(size, is_true, strict=True)
        if yes
        for outside, other in zip(size, is_true, strict=True)
        if not other
    ]
    return sum(pairs) / len(pairs)


@all_seeds
def test_auroc_is_the_share_of_pairs_won(seed: int) -> None:
    topology = Topology(n_layers=2, n_heads=2)
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, (5, *topology.edge_mask.shape)).astype(float)
    values[0] = rng.normal(size=topology.edge_mask.shape)
    truth = topology.edge_mask & (rng.random(topology.edge_mask.shape) < 0.3)
    slow = [
        slow_auroc(list(np.abs(matrix)[topology.edge_mask]), list(truth[topology.edge_mask]))
        for matrix in values
    ]
    np.testing.assert_allclose(edge_auroc(values, truth, topology), slow, rtol=1e-12)


def test_recall_is_expected_over_random_breaking_of_ties() -> None:
    topology = Topology(n_layers=1, n_heads=1)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, (3, *topology.edge_mask.shape)).astype(float)
    truth = topology.edge_mask & (rng.random(topology.edge_mask.shape) < 0.5)
    n_true, is_true = int(truth.sum()), truth[topology.edge_mask]
    size = values[:, topology.edge_mask]
    simulated = np.zeros(len(values))
    n_draws = 4000
    for _ in range(n_draws):
        order = np.lexsort((rng.random(size.shape), -size), axis=1)
        simulated += is_true[order[:, :n_true]].mean(1) / n_draws
    # Standard error of a share over 4,000 draws: at most 0.008.
    np.testing.assert_allclose(edge_recall(values, truth, topology), simulated, atol=0.03)
    assert (edge_recall(np.where(truth, -5.0, values), truth, topology) == 1).all()


def test_auroc_takes_rounding_for_a_tie() -> None:
    topology = Topology(n_layers=1, n_heads=1)
    truth = np.zeros_like(topology.edge_mask)
    truth[0, 0] = truth[0, -1] = True
    values = np.zeros((1, *truth.shape))
    values[0, 0, -1] = -8.0
    values[0, 1, -1] = 1e-29
    n_false = topology.n_edges - 2
    assert edge_auroc(values, truth, topology)[0] == pytest.approx(
        (n_false + n_false / 2) / 2 / n_false
    )


def test_auroc_refuses_circuits_that_leave_nothing_to_tell() -> None:
    topology = Topology(n_layers=1, n_heads=1)
    values = np.zeros((1, *topology.edge_mask.shape))
    beyond = np.ones_like(topology.edge_mask)
    for truth in (topology.edge_mask, np.zeros_like(topology.edge_mask), beyond):
        with pytest.raises(UsageError, match="cannot be told"):
            edge_auroc(values, truth, topology)
