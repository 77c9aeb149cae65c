"""Graphs with history: every attribute against the arrays, and through the formats of networkx."""

import io
import json

import networkx as nx
import numpy as np
import pytest

from kcircuits.analysis.temporal.graph import history_graph, sum_by_place
from kcircuits.analysis.temporal.history import history
from kcircuits.core.topology import Topology
from kcircuits.errors import UsageError
from kcircuits.io.run_record import read_run_record
from kcircuits.study.run import Run

TOPOLOGY = Topology(n_layers=6, n_heads=4)
EPOCHS = ("ep0", "ep1", "ep2", "ep3")


@pytest.fixture(scope="module")
def track(synthetic, tmp_path_factory):
    facts = synthetic.make_facts(6, 4)
    known = np.ones((6, 4), dtype=bool)
    known[0, :2] = False
    known[3] = False
    epochs, _ = synthetic.make_epochs(
        facts, TOPOLOGY, n_edges=40, steps=[0.3, 0.1, 0.0], known=known, noise=0.3
    )
    folder = synthetic.write_run(tmp_path_factory.mktemp("runs") / "run", facts, epochs)
    record = read_run_record(folder)
    return Run(path=folder, record=record, request=record.requests[-1]).track(by="frequency")


def flat(graph, data):
    """The flat index of an edge, from its name."""
    u, v = TOPOLOGY.edge_index(data["name"])
    return u * TOPOLOGY.n_backward + v


def test_a_fact_graph_carries_the_history_of_every_edge_and_node(track):
    one = track["fact-001"]
    circuits = one.circuits
    graph = track.graph("fact-001")
    place = {int(edge): i for i, edge in enumerate(circuits.candidates)}
    found = history(circuits.edges, circuits.has_cell)
    seen = set()
    for start, stop, key, data in graph.edges(keys=True, data=True):
        i = place[flat(graph, data)]
        seen.add(i)
        sender, receiver = data["name"].split("->")
        assert (start, stop) == (sender, receiver.split("<")[0])
        assert key == data["kind"] == (receiver[-2] if "<" in receiver else "in")
        assert data["layer"] == TOPOLOGY.node_layer(start)
        here = [e for e, there in zip(EPOCHS, circuits.edges.in_both[:, i], strict=True) if there]
        assert data["epochs"].split(",") == here
        assert (data["first_seen"], data["last_seen"]) == (here[0], here[-1])
        assert data["n_epochs"] == len(here)
        assert data["lifetime"] == EPOCHS.index(here[-1]) - EPOCHS.index(here[0]) + 1
        assert data["n_spells"] == found.n_spells[i]
        for name, change in (("born", circuits.edges.born), ("died", circuits.edges.died)):
            at = [e for e, there in zip(EPOCHS[1:], change[:, i], strict=True) if there]
            assert data[name] == ",".join(at)
        for t, epoch in enumerate(EPOCHS):
            assert data[f"score_{epoch}"] == pytest.approx(circuits.scores[t, i])
    assert seen == set(np.flatnonzero(circuits.edges.in_both.any(0)))
    inner = {TOPOLOGY.nodes[n + 1] for n in np.flatnonzero(circuits.nodes.in_both.any(0))}
    assert inner <= set(graph) <= inner | {n for edge in graph.edges() for n in edge}
    for node in inner:
        n = TOPOLOGY.nodes.index(node)
        degree = circuits.structure.in_degree[2, n] + circuits.structure.out_degree[2, n]
        assert graph.nodes[node]["degree_ep2"] == degree
        assert graph.nodes[node]["n_epochs"] == circuits.nodes.in_both[:, n - 1].sum()


def test_a_graph_at_one_epoch_holds_what_is_there_then(track):
    circuits = track["fact-001"].circuits
    graph = track.graph("fact-001", epoch="ep2")
    edges = {flat(graph, data) for *_, data in graph.edges(data=True)}
    assert edges == set(circuits.candidates[circuits.edges.in_both[2]].tolist())


def test_a_stratum_graph_counts_facts_where_they_are_known(track):
    graph = track.graph(stratum="low")  # facts 0, 2, 4; fact 0 is known from ep2 on
    members = [track[f"fact-00{i}"].circuits for i in (0, 2, 4)]
    totals = {}
    for circuits in members:
        for i, edge in enumerate(circuits.candidates.tolist()):
            for t, epoch in enumerate(EPOCHS):
                row = totals.setdefault(edge, {})
                known = circuits.is_known[t]
                name, score = f"n_facts_{epoch}", f"score_{epoch}"
                row[name] = row.get(name, 0) + int(known and circuits.edges.in_both[t, i])
                n_known = sum(c.is_known[t] for c in members)
                row[score] = row.get(score, 0) + known * circuits.scores[t, i] / n_known
                if t == 0:
                    continue
                counts = known and circuits.is_known[t - 1]
                for change in ("born", "died"):
                    flag = getattr(circuits.edges, change)[t - 1, i]
                    key = f"n_{change}_{epoch}"
                    row[key] = row.get(key, 0) + int(counts and flag)
    here = {e: r for e, r in totals.items() if any(r[f"n_facts_{epoch}"] for epoch in EPOCHS)}
    assert len(here) == graph.number_of_edges()
    for *_, data in graph.edges(data=True):
        row = here[flat(graph, data)]
        assert {name: data[name] for name in row} == pytest.approx(row, abs=1e-6)
        at = [epoch for epoch in EPOCHS if row[f"n_facts_{epoch}"]]
        assert (data["first_seen"], data["last_seen"]) == (at[0], at[-1])
        assert (data["n_epochs"], data["lifetime"]) == (
            len(at), EPOCHS.index(at[-1]) - EPOCHS.index(at[0]) + 1,
        )  # fmt: skip
    assert max(r["n_born_ep1"] for r in here.values()) >= 1


def test_graphs_pass_through_graphml_and_node_link_json(track):
    for graph in (track.graph("fact-001"), track.graph(stratum="high")):
        text = io.BytesIO()
        nx.write_graphml(graph, text)
        text.seek(0)
        back = nx.read_graphml(text, force_multigraph=True)
        link = json.loads(json.dumps(nx.node_link_data(graph, edges="links"), allow_nan=False))
        again = nx.node_link_graph(link, edges="links")
        assert (
            dict(back.nodes(data=True)) == dict(again.nodes(data=True)) == dict(graph.nodes.data())
        )
        for other in (back, again):
            ours = {d["name"]: d for *_, d in graph.edges(data=True)}
            theirs = {d["name"]: d for *_, d in other.edges(data=True)}
            assert theirs == ours


def test_what_is_no_graph_is_refused(track):
    for given in ({}, {"fact_id": "fact-000", "stratum": "low"}):
        with pytest.raises(UsageError, match="give one of the two"):
            track.graph(**given)
    with pytest.raises(UsageError, match="no stratum 'middle'"):
        track.graph(stratum="middle")
    with pytest.raises(UsageError, match="'fact-009' is not in this track"):
        track.graph("fact-009")
    with pytest.raises(UsageError, match="'ep7' is not in this track"):
        track.graph("fact-000", epoch="ep7")


def test_a_graph_without_edges_is_empty():
    nothing = np.zeros(0, dtype=np.int64)
    graph = history_graph(
        "none", TOPOLOGY, edges=nothing, edge_columns={}, nodes=nothing, node_columns={}
    )
    assert graph.number_of_nodes() == graph.number_of_edges() == 0


def test_sums_by_place_equal_a_loop():
    rng = np.random.default_rng(0)
    places, values = rng.integers(0, 9, 30), rng.standard_normal((3, 30))
    found = sum_by_place(places, values, 9)
    for row in range(3):
        for place in range(9):
            assert found[row, place] == pytest.approx(values[row][places == place].sum())
