"""Circuits that move: planted ones on each other's weights, and those of strata, leak-free."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.core.cell import Cell
from kcircuits.core.topology import Topology
from kcircuits.engine.chunks import parse_memory
from kcircuits.engine.forward import run_rows
from kcircuits.errors import UsageError
from kcircuits.evaluation.judge import Judge
from kcircuits.lab.ground_truth import WeightsModel
from kcircuits.lab.ground_truth.planted import D_VOCAB, N_POS, build
from kcircuits.study.transfer.circuits import stratum_circuits

OpenWith = Callable[[dict[str, np.ndarray]], kc.Run]

# --- two models with different planted circuits


def common_prompts(first: Any, second: Any, n_prompts: int) -> kc.PromptBatch:
    """Prompts whose target both models prefer to the foil, more so than on the corrupt prompt."""
    rng, kept = np.random.default_rng(0), []
    while len(kept) < n_prompts:
        clean = rng.integers(0, D_VOCAB, N_POS)
        corrupt = (clean + rng.integers(1, D_VOCAB, N_POS)) % D_VOCAB
        rows = torch.as_tensor(np.stack([clean, corrupt]))
        with torch.no_grad():
            gains = [run_rows(weights, rows).diff(dim=0)[0].neg() for weights in (first, second)]
        pairs = torch.minimum(*(gain[:, None] - gain[None, :] for gain in gains))
        if float(pairs.max()) >= 1.0:
            kept.append((clean, corrupt, divmod(int(pairs.argmax()), D_VOCAB)))
    clean, corrupt, answers = zip(*kept, strict=True)
    return kc.PromptBatch.from_tokens(np.stack(clean), np.stack(corrupt), answers)


def slow_faithfulness(slow: ModuleType, weights: Any, batch: Any, mask: np.ndarray) -> np.ndarray:
    """F of one circuit on each prompt: the plain model, edge by edge."""
    topology = weights.topology

    def part(row: Any, edges: np.ndarray) -> float:
        given = slow.run(weights, row.corrupt).outputs

        def edge(u: str, v: str, out: torch.Tensor) -> torch.Tensor:
            inside = edges[topology.forward_index(u), topology.backward_index(v)]
            return out if inside else given[u]

        logits = slow.run(weights, row.clean, edge=edge).logits
        return float(slow.measure(logits, logits, row, "logit-difference"))

    found = []
    for i in range(len(batch)):
        rows = list(slow.answer_rows(batch, i, "logit-difference"))
        full, empty, circuit = (
            sum(part(row, edges) for row in rows)
            for edges in (topology.edge_mask, np.zeros_like(mask), mask)
        )
        found.append((circuit - empty) / (full - empty))
    return np.array(found)


@pytest.mark.parametrize("seeds", [(0, 1), (2, 3)])
def test_planted_circuits_move_to_their_exact_value(
    slow: ModuleType, seeds: tuple[int, int]
) -> None:
    """On its own weights each is the whole model; on the other's it is what they share."""
    known = [build(seed) for seed in seeds]
    batch = common_prompts(known[0].weights, known[1].weights, 4)
    both = known[0].circuit & known[1].circuit
    for own, other in ((known[0], known[1]), (known[1], known[0])):
        model = WeightsModel(own.weights)
        judge = Judge(
            model, batch, batch.fact_ids, model.topology, metric="logit-difference",
            ablation="corrupt", memory=parse_memory("1GiB"),
        )  # fmt: skip
        moved = [own.circuit, other.circuit, both]
        judged = judge.run_edges([[np.flatnonzero(mask)] * len(batch) for mask in moved])
        found = (judged.circuit - judged.empty[:, None]) / (judged.clean - judged.empty)[:, None]
        np.testing.assert_allclose(found[:, 0], 1, atol=1e-9)
        np.testing.assert_allclose(found[:, 1], found[:, 2], atol=1e-9)
        wanted = slow_faithfulness(slow, own.weights, batch, other.circuit)
        np.testing.assert_allclose(found[:, 1], wanted, atol=1e-9)
        assert (np.abs(found[:, 1] - 1) > 0.05).any()


def test_circuits_of_another_graph_are_refused() -> None:
    known = build(0)
    model = WeightsModel(known.weights)
    other = Topology(n_layers=known.weights.topology.n_layers + 1, n_heads=2)
    with pytest.raises(UsageError, match="the circuits belong to"):
        Judge(
            model, known.batch, known.batch.fact_ids, other, metric="logit-difference",
            ablation="corrupt", memory=2**30,
        )  # fmt: skip


# --- circuits of strata

TOPOLOGY, N_EDGES = Topology(n_layers=3, n_heads=2), 12


def dense(cells: list[Cell], scores: dict[str, np.ndarray]) -> list[Cell]:
    """The cells with all mean scores, those given in the place of their own."""
    found = []
    for cell in cells:
        mean = np.zeros(TOPOLOGY.edge_mask.size, dtype=np.float32)
        mean[cell.candidates] = cell.prompt_scores.mean(0)
        mean = scores.get(cell.fact_id, mean.reshape(TOPOLOGY.edge_mask.shape))
        found.append(replace(cell, mean=mean.astype(np.float32), values={"faithfulness": 1.0}))
    return found


@pytest.fixture
def open_with(synthetic: ModuleType, tmp_path: Path) -> OpenWith:
    """Eight subjects of two facts each; a subject's facts are in both strata."""

    def make(scores: dict[str, np.ndarray]) -> kc.Run:
        facts = synthetic.make_facts(16, 4)
        cells, _ = synthetic.make_cells(facts, TOPOLOGY, n_edges=N_EDGES)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return kc.open_run(synthetic.write_run(folder, facts, {"ep0": dense(cells, scores)}))

    return make


def circuits_of(run: kc.Run, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    rows = {name: row for name, row in run.rows("ep0").items() if name not in left_out}
    return stratum_circuits(run, rows, "ep0", run.facts, "frequency")


def by_hand(run: kc.Run, stratum: str, subject: str | None, left_out: tuple[str, ...] = ()) -> set:
    """Edges of the top n of the mean of the others' scores, each divided by its L1 norm."""
    total = np.zeros(TOPOLOGY.edge_mask.shape)
    for fact, cell in zip(run.facts, run.cells("ep0", dense=True), strict=True):
        is_inside = fact.strata["frequency"] == stratum and fact.subject != subject
        if is_inside and fact.id not in left_out:
            assert cell.mean is not None
            total += cell.mean / np.abs(cell.mean).sum(dtype=np.float64)
    scores = kc.EdgeScores(
        values=total[None], topology=TOPOLOGY, fact_ids=("all",), fact_idx=np.array([0]),
        provenance=run.cells("ep0")[0].provenance,
    )  # fmt: skip
    return set(np.flatnonzero(kc.select(scores, n_edges=N_EDGES).mask[0]).tolist())


def test_strata_circuits_equal_means_by_hand(open_with: OpenWith) -> None:
    run = open_with({})
    left_out = ("fact-003", "fact-004")
    found = circuits_of(run, left_out)
    assert list(found) == ["high", "low"]
    for stratum, one in found.items():
        made = one.circuits.make()
        for fact in run.facts:
            wanted = by_hand(run, stratum, fact.subject, left_out)
            assert set(made[fact.id].tolist()) == wanted
            n_others = sum(
                other.strata["frequency"] == stratum
                and other.subject != fact.subject
                and other.id not in left_out
                for other in run.facts
            )
            assert one.n_facts[fact.id] == one.n_entities[fact.id] == n_others


def test_no_fact_is_judged_by_a_circuit_that_its_subject_shaped(open_with: OpenWith) -> None:
    """One fact has a huge score on edges that no other fact uses: its own mark.

    Facts about its subject, in either stratum, never meet the mark; all others do. And whatever
    the fact's scores are, the circuits for its subject stay what they were.
    """
    path = ("input->m0", "m0->m1", "m1->m2", "m2->logits")
    mark = np.zeros(TOPOLOGY.edge_mask.shape)
    for edge in path:
        mark[TOPOLOGY.edge_index(edge)] = 1e6
    marked = {"fact-004": mark}  # low; of the same subject as fact-005, which is high
    plain, run = open_with({}), open_with(marked)
    assert run.facts[4].subject == run.facts[5].subject
    places = set(np.flatnonzero(mark).tolist())
    before = {name: one.circuits.make() for name, one in circuits_of(plain).items()}
    after = {name: one.circuits.make() for name, one in circuits_of(run).items()}
    for fact in run.facts:
        meets = places <= set(after["low"][fact.id].tolist())
        assert meets == (fact.subject != run.facts[4].subject)
        is_same = np.array_equal(after["low"][fact.id], before["low"][fact.id])
        assert is_same == (fact.subject == run.facts[4].subject)
        np.testing.assert_array_equal(after["high"][fact.id], before["high"][fact.id])


def test_keys_of_strata_circuits_follow_what_shapes_them(open_with: OpenWith) -> None:
    """Facts about one subject share a key; leaving a fact out changes those that it shaped."""
    run = open_with({})
    whole, part = circuits_of(run), circuits_of(run, ("fact-002",))
    keys, fewer = whole["low"].circuits.keys, part["low"].circuits.keys
    assert keys["fact-004"] == keys["fact-005"] != keys["fact-006"]
    # fact-002 and fact-003 are about the subject that was left out for them anyhow
    assert {name for name in keys if keys[name] == fewer[name]} == {"fact-002", "fact-003"}
    assert part["high"].circuits.keys == whole["high"].circuits.keys


def test_one_subject_alone_makes_no_circuit_for_its_own_facts(open_with: OpenWith) -> None:
    run = open_with({})
    others = tuple(fact.id for fact in run.facts if fact.id != "fact-000")
    one = circuits_of(run, others)["low"]
    assert "fact-000" not in one.circuits.keys
    assert "fact-001" not in one.circuits.keys
    assert one.n_entities["fact-002"] == 1
    assert set(one.circuits.make()) == set(one.circuits.keys)
