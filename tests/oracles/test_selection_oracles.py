"""Every rule of selection, and the ranks of nested circuits, against slow obvious twins."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.core.greedy import greedy_edge_mask
from kcircuits.core.node_scores import NodeScores
from kcircuits.core.provenance import Provenance
from kcircuits.core.ranking import SIZES, edge_ranks, nested_circuits
from kcircuits.core.selection import select_nodes, top_edge_mask
from kcircuits.errors import NonFiniteError, UsageError

TOPOLOGIES = {
    "serial": kc.Topology(n_layers=2, n_heads=2),
    "parallel": kc.Topology(n_layers=2, n_heads=3, is_parallel=True),
}
SMALL = kc.Topology(n_layers=1, n_heads=2)


def edges_of(topology: kc.Topology) -> dict[str, tuple[int, int]]:
    pairs = np.argwhere(topology.edge_mask).tolist()
    return {topology.edge_name(u, v): (u, v) for u, v in pairs}


def make_scores(values: Any, topology: kc.Topology, **provenance: Any) -> kc.EdgeScores:
    values = np.asarray(values) * topology.edge_mask
    return kc.EdgeScores(
        values=values,
        topology=topology,
        fact_ids=tuple(f"f{i}" for i in range(len(values))),
        fact_idx=np.arange(len(values)),
        provenance=Provenance(method="test", **provenance),
    )


def random_values(kind: str, topology: kc.Topology, n_facts: int = 4, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    shape = (n_facts, *topology.edge_mask.shape)
    if kind == "ties":
        return rng.integers(-2, 3, shape).astype(np.float32)
    return rng.standard_normal(shape)


def by_value(topology: kc.Topology, strength: np.ndarray) -> list[str]:
    """Edge names, the strongest first, equal ones by name."""
    edges = edges_of(topology)
    return sorted(edges, key=lambda name: (-strength[edges[name]], name))


def slow_greedy(topology: kc.Topology, strength: np.ndarray, n: int) -> set[str]:
    """Looks through all edges again for every one that it takes."""
    edges, nodes, circuit = edges_of(topology), {"logits"}, []
    for _ in range(n):
        open_edges = [
            name for name, (_, v) in edges.items()
            if name not in circuit and topology.backward_nodes[v] in nodes
        ]  # fmt: skip
        best = min(open_edges, key=lambda name: (-strength[edges[name]], name))
        circuit.append(best)
        nodes.add(best.split("->")[0])
    return set(circuit)


def names_of(topology: kc.Topology, mask: np.ndarray) -> set[str]:
    return {topology.edge_name(int(u), int(v)) for u, v in np.argwhere(mask)}


def all_greedy_circuits(topology: kc.Topology, strength: np.ndarray, n: int) -> set[frozenset[str]]:
    """The circuits of every way to break ties."""
    edges, states = edges_of(topology), {frozenset[str]()}
    for _ in range(n):
        grown = set()
        for circuit in states:
            nodes = {"logits"} | {name.split("->")[0] for name in circuit}
            open_edges = [
                name for name, (_, v) in edges.items()
                if name not in circuit and topology.backward_nodes[v] in nodes
            ]  # fmt: skip
            best = max(strength[edges[name]] for name in open_edges)
            grown |= {circuit | {name} for name in open_edges if strength[edges[name]] == best}
        states = grown
    return states


@pytest.mark.parametrize("style", TOPOLOGIES)
@pytest.mark.parametrize("kind", ["ties", "noise"])
@pytest.mark.parametrize("by", ["size", "importance"])
def test_greedy_equals_a_search_through_all_edges(style: str, kind: str, by: Any) -> None:
    topology = TOPOLOGIES[style]
    values = random_values(kind, topology)
    scores = make_scores(values, topology)
    strength = np.abs(scores.values) if by == "size" else -scores.values
    for n in (0, 1, 2, 5, 9, 14, 20, topology.n_edges):
        circuits = kc.select(scores, greedy=n, by=by, prune=False)
        assert circuits.n_selected.tolist() == [n] * len(values)
        for fact in range(len(values)):
            expected = slow_greedy(topology, strength[fact], n)
            assert set(circuits.edges(f"f{fact}")) == expected


def test_greedy_takes_what_the_circuit_has_reached_only() -> None:
    topology = TOPOLOGIES["serial"]
    values = np.zeros((1, *topology.edge_mask.shape))
    by_name = edges_of(topology)
    for name, value in {
        "m1->logits": 1.0, "a1.h0->m1": -0.5, "input->a1.h0<v>": 0.1, "m0->a1.h0<k>": 0.2,
        "a1.h1->logits": 0.05, "input->m0": -9.0, "a0.h0->a1.h1<q>": 8.0,
    }.items():  # fmt: skip
        values[0][by_name[name]] = value
    scores = make_scores(values, topology)
    grown = [set(kc.select(scores, greedy=n, prune=False).edges("f0")) for n in range(7)]
    order = [next(iter(b - a)) for a, b in pairwise(grown)]
    assert order == [
        "m1->logits", "a1.h0->m1", "m0->a1.h0<k>", "input->m0", "input->a1.h0<v>", "a1.h1->logits",
    ]  # fmt: skip
    assert set(kc.select(scores, greedy=3).edges("f0")) == set()  # nothing comes from the input
    assert len(kc.select(scores, greedy=4).edges("f0")) == 4


def test_greedy_counts_ties_where_another_order_gives_another_circuit() -> None:
    rng = np.random.default_rng(1)
    n_ambiguous = n_clear = n_both_taken = 0
    for _ in range(60):
        strength = rng.integers(0, 6, SMALL.edge_mask.shape) * SMALL.edge_mask.astype(float)
        for n in (1, 3, 5, 8, 11, SMALL.n_edges):
            masks, n_ties = greedy_edge_mask(strength[None], SMALL, n)
            circuit = names_of(SMALL, masks[0])
            possible = all_greedy_circuits(SMALL, strength, n)
            assert circuit in possible
            assert (n_ties[0] > 0) == (len(possible) > 1)
            assert n_ties[0] >= len(frozenset().union(*possible) - circuit)
            n_ambiguous += len(possible) > 1
            n_clear += len(possible) == 1
            last = min(strength[edges_of(SMALL)[name]] for name in circuit)
            left = names_of(SMALL, SMALL.edge_mask & ~masks[0] & (strength == last))
            n_both_taken += len(possible) > 1 and not left
    assert min(n_ambiguous, n_clear, n_both_taken) > 5


@pytest.mark.parametrize("style", TOPOLOGIES)
@pytest.mark.parametrize("by", ["size", "importance"])
def test_top_and_threshold_equal_sorting_by_value_and_name(style: str, by: Any) -> None:
    topology = TOPOLOGIES[style]
    edges = edges_of(topology)
    scores = make_scores(random_values("ties", topology), topology)
    strength = np.abs(scores.values) if by == "size" else -scores.values
    for n in (0, 1, 7, 20, topology.n_edges):
        circuits = kc.select(scores, n_edges=n, by=by, prune=False)
        for fact in range(len(scores.values)):
            order = by_value(topology, strength[fact])
            assert set(circuits.edges(f"f{fact}")) == set(order[:n])
            last = strength[fact][edges[order[n - 1]]] if n else None
            left = sum(strength[fact][edges[name]] == last for name in order[n:])
            assert circuits.n_ties[fact] == left
    above = kc.select(scores, threshold=1.0, by=by, prune=False)
    for fact in range(len(scores.values)):
        assert set(above.edges(f"f{fact}")) == {e for e in edges if strength[fact][edges[e]] >= 1}
    assert above.n_ties.tolist() == [0] * len(scores.values)


def test_importance_is_the_negative_score_or_the_value_itself() -> None:
    topology = SMALL
    values = random_values("noise", topology)
    helpful = kc.select(make_scores(values, topology), n_edges=4, by="importance", prune=False)
    for fact in helpful.fact_ids:
        chosen = {data["name"] for *_, data in helpful.graph(fact).edges(data=True)}
        order = by_value(topology, -values[helpful.fact_ids.index(fact)])
        assert chosen == set(order[:4])
    probabilities = np.abs(values)
    kept = make_scores(probabilities, topology, is_importance=True)
    top = kc.select(kept, n_edges=4, by="importance", prune=False)
    np.testing.assert_array_equal(top.mask, kc.select(kept, n_edges=4, prune=False).mask)
    assert kept.nodes().importance.min() >= 0
    assert make_scores(probabilities, topology).nodes().importance.max() <= 0


@pytest.mark.parametrize("style", TOPOLOGIES)
@pytest.mark.parametrize("kind", ["ties", "noise"])
@pytest.mark.parametrize("by", ["size", "importance"])
def test_ranks_cut_at_n_equal_the_top_n(style: str, kind: str, by: Any) -> None:
    topology = TOPOLOGIES[style]
    scores = make_scores(random_values(kind, topology), topology)
    ranks = edge_ranks(scores, by=by)
    assert ranks.dtype == np.int32
    strength = np.abs(scores.values) if by == "size" else scores.importance
    for n in range(topology.n_edges + 1):
        top, _ = top_edge_mask(strength, topology, n, is_signed=True)
        np.testing.assert_array_equal(ranks < n, top)


@pytest.mark.parametrize("by", ["size", "importance"])
@pytest.mark.parametrize("prune", [True, False])
def test_nested_circuits_equal_selecting_each_size(by: Any, prune: bool) -> None:
    topology = kc.Topology(n_layers=4, n_heads=4)
    per_prompt = make_scores(random_values("ties", topology, n_facts=6), topology)
    scores = kc.EdgeScores(
        values=per_prompt.values,
        topology=topology,
        fact_ids=("x", "y"),
        fact_idx=np.array([0, 1, 0, 1, 0, 1]),
        prompt_idx=np.array([0, 0, 1, 1, 2, 2]),
        provenance=per_prompt.provenance,
    )
    nested = nested_circuits(scores, by=by)
    assert nested.sizes == SIZES
    assert len(nested) == 10
    for i, fraction in enumerate(SIZES):
        circuits = kc.select(scores, fraction=fraction, by=by, prune=prune)
        ours = nested.circuits(i, prune=prune)
        np.testing.assert_array_equal(ours.mask, circuits.mask)
        np.testing.assert_array_equal(ours.n_selected, circuits.n_selected)
        np.testing.assert_array_equal(ours.n_ties, circuits.n_ties)
        assert ours.fact_ids == ("x", "y")
    assert nested.n_ties.any()


class Network:
    """A residual stream in numpy: receivers read sums of what earlier senders wrote."""

    def __init__(self, topology: kc.Topology, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.topology = topology
        self.weights = rng.standard_normal((len(topology.nodes), 3, 3))
        self.read = rng.standard_normal(3)

    def run(self, x: np.ndarray, at_receiver: Any = (), at_sender: Any = ()) -> tuple[Any, list]:
        """The metric and what every sender wrote, with (index, vector) added where told."""
        topology, outputs = self.topology, []
        for node, name in enumerate(topology.nodes):
            inputs = []
            for v in np.flatnonzero(topology.node_of_backward == node):
                total = sum((z for z in outputs[: topology.n_senders[v]]), np.zeros(3, complex))
                inputs.append(total + sum(d for i, d in at_receiver if i == v))
            if name == "logits":
                return self.read @ np.tanh(inputs[0]), outputs
            matrix = self.weights[node] / 3
            if name == "input":
                out = x.astype(complex)
            elif len(inputs) == 3:
                out = matrix @ (np.tanh(inputs[0]) * inputs[1] + np.tanh(inputs[2]))
            else:
                out = np.tanh(matrix @ inputs[0])
            outputs.append(out + sum(d for i, d in at_sender if i == node))
        raise AssertionError


def test_node_scores_are_the_attribution_of_the_nodes_output() -> None:
    """Derivatives by complex steps: edge by edge at receivers' own inputs, and at outputs."""
    topology, step = TOPOLOGIES["serial"], 1e-30j
    network, rng = Network(topology), np.random.default_rng(3)
    _, clean = network.run(x := rng.standard_normal(3))
    _, corrupt = network.run(rng.standard_normal(3))
    change = [(b - a).real for a, b in zip(clean, corrupt, strict=True)]
    values = np.zeros((1, *topology.edge_mask.shape))
    for u, v in np.argwhere(topology.edge_mask):
        values[0, u, v] = network.run(x, [(v, change[u] * step)])[0].imag / step.imag
    found = make_scores(values, topology).nodes()
    expected = [
        network.run(x, (), [(u, change[u] * step)])[0].imag / step.imag
        for u in range(topology.n_forward)
    ]
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(found["f0"], expected, rtol=1e-12)
    best = max(range(topology.n_forward), key=lambda u: abs(expected[u]))
    assert found.top_nodes("f0", 2)[0] == {
        "node": topology.forward_names[best], "score": pytest.approx(expected[best]),
    }  # fmt: skip


@pytest.mark.parametrize("style", TOPOLOGIES)
@pytest.mark.parametrize("by", ["size", "importance"])
def test_chosen_nodes_hold_all_edges_between_them(style: str, by: Any) -> None:
    topology = TOPOLOGIES[style]
    names = topology.forward_names[1:]
    values = np.random.default_rng(5).integers(-3, 4, (5, topology.n_forward)).astype(float)
    values[:, 0] = 100.0  # the input competes with nobody
    scores = NodeScores(
        values=values,
        topology=topology,
        fact_ids=tuple("abcde"),
        provenance=Provenance(method="test"),
    )
    for n in (0, 1, 3, len(names)):
        circuits = select_nodes(scores, n_nodes=n, by=by)
        for fact, fact_id in enumerate("abcde"):
            of_fact = np.abs(values[fact]) if by == "size" else -values[fact]
            strength = dict(zip(names, of_fact[1:], strict=True))
            order = sorted(names, key=lambda name: (-strength[name], name))
            nodes = {"input", "logits", *order[:n]}
            expected = {
                name for name in edges_of(topology)
                if {name.split("->")[0], name.split("->")[1].split("<")[0]} <= nodes
            }  # fmt: skip
            assert set(circuits.edges(fact_id)) == expected
            left = sum(strength[name] == strength[order[n - 1]] for name in order[n:]) if n else 0
            assert circuits.n_ties[fact] == left
    share = select_nodes(scores, fraction=0.5, by=by)
    assert share.node_mask.sum(1).tolist() == [2 + len(names) // 2] * 5


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"greedy": -1}, "greedy is -1; expected a whole number"),
        ({"greedy": 2.5}, "greedy is 2.5; expected a whole number"),
        ({"greedy": 10**9}, "greedy is 1000000000; expected"),
        ({"greedy": 3, "n_edges": 3}, "exactly one of n_edges, fraction, threshold and greedy"),
        ({}, "exactly one of"),
        ({"n_edges": 3, "by": "magnitude"}, "by is 'magnitude'; expected one of size, importance"),
    ],
)
def test_rules_that_cannot_be_meant(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kc.select(make_scores(random_values("noise", SMALL), SMALL), **rule)


def test_node_rules_and_sizes_that_cannot_be_meant() -> None:
    scores = make_scores(random_values("noise", SMALL), SMALL)
    for rule, message in (
        ({"n_nodes": 4}, "n_nodes is 4; expected a whole number from 0 to 3"),
        ({"fraction": 0}, "fraction is 0; expected a number above 0"),
        ({"fraction": 0.5, "n_nodes": 2}, "exactly one of n_nodes and fraction"),
        ({}, "exactly one of n_nodes and fraction"),
    ):
        with pytest.raises(UsageError, match=message):
            select_nodes(scores.nodes(), **rule)
    for sizes in ((), (0.5, 0.1), (0.1, 0.1)):
        with pytest.raises(UsageError, match="expected shares in ascending order"):
            nested_circuits(scores, sizes=sizes)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_not_ranked(bad: float) -> None:
    values = random_values("noise", SMALL)
    values[1][edges_of(SMALL)["a0.h1->m0"]] = bad
    with np.errstate(invalid="ignore"):
        scores = make_scores(np.where(SMALL.edge_mask, values, 0), SMALL)
    with pytest.raises(NonFiniteError, match=r"fact 'f1': the score of a0\.h1->m0 is not finite"):
        kc.select(scores, n_edges=3)
