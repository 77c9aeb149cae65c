"""Graphs of the EAP-IG library: files that it saved, files that we write, and files that are wrong.

The files in ``eap_ig/`` were saved by that library (its main branch of July 2025) on tiny random
float64 models of these families; ``metrics.json`` holds what its ``evaluate_graph`` gave for them.
"""

import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.core.provenance import Provenance
from kcircuits.core.scores import EdgeScores
from kcircuits.core.selection import select_nodes
from kcircuits.core.topology import Topology
from kcircuits.discovery.interchange import file_name
from kcircuits.errors import InputError, NonFiniteError, UsageError

FILES = Path(__file__).parent / "eap_ig"
GRAPHS = ("gpt2", "llama", "neox")
TOPOLOGY = Topology(n_layers=2, n_heads=3)


def edge_scores(
    *fact_ids: str, topology: Topology = TOPOLOGY, dtype: str = "float32", **provenance: object
) -> EdgeScores:
    rng = np.random.default_rng(len(fact_ids))
    values = rng.normal(size=(len(fact_ids), *topology.edge_mask.shape)) * topology.edge_mask
    return EdgeScores(
        values=values.astype(dtype),
        topology=topology,
        fact_ids=fact_ids,
        fact_idx=np.arange(len(fact_ids)),
        provenance=Provenance(
            method="eap-ig-inputs", params={"ig_steps": 5}, checkpoint="ab12", **provenance
        ),
    )


def document(name: str = "gpt2.json") -> dict:
    return json.loads((FILES / name).read_text())


# --- files that the library saved


@pytest.mark.parametrize("name", GRAPHS)
def test_saved_graph_gives_its_edges_and_the_opposite_of_its_scores(name: str) -> None:
    raw = document(f"{name}.json")
    graphs = kc.read_eap_ig(FILES / f"{name}.json")
    topology = graphs.topology
    assert topology == Topology(n_layers=2, n_heads=4, is_parallel=name == "neox")
    assert (graphs.fact_ids, graphs.d_model) == ((name,), 24)
    assert len(raw["edges"]) == topology.n_edges
    for edge, entry in raw["edges"].items():
        u, v = topology.edge_index(edge)
        assert graphs.scores.values[0, u, v] == -entry["score"]
        assert graphs.scores.importance[0, u, v] == entry["score"]
        assert graphs.circuits.mask[0, u, v] == entry["in_graph"]
    assert graphs.circuits.n_edges[0] == 40
    assert not graphs.scores.values[0, ~topology.edge_mask].any()
    assert (graphs.node_scores, graphs.neuron_scores, graphs.neuron_mask) == (None, None, None)


def test_metric_that_is_better_when_higher_keeps_its_sign() -> None:
    graphs = kc.read_eap_ig(FILES / "gpt2.json", is_loss=False)
    assert np.array_equal(
        graphs.scores.values, kc.read_eap_ig(FILES / "gpt2.json").scores.importance
    )


def test_graph_without_selection_has_no_circuit() -> None:
    graphs = kc.read_eap_ig(FILES / "importances.json")
    assert graphs.circuits is None
    assert np.array_equal(graphs.scores.values, kc.read_eap_ig(FILES / "gpt2.json").scores.values)
    circuits = kc.select(graphs.scores, n_edges=40)
    assert np.array_equal(circuits.mask, kc.read_eap_ig(FILES / "gpt2.json").circuits.mask)


@pytest.mark.parametrize("name", [*GRAPHS, "importances"])
def test_writing_a_saved_graph_gives_the_same_document(name: str, tmp_path: Path) -> None:
    raw = document(f"{name}.json")
    (file,) = kc.write_eap_ig(tmp_path / "again.json", kc.read_eap_ig(FILES / f"{name}.json"))
    written = json.loads(file.read_text())
    assert written.pop("kcircuits")["fact"] == name
    assert written == raw


@pytest.mark.parametrize("name", ["gpt2", "nodes", "neurons"])
def test_writing_a_saved_torch_file_gives_the_same_matrices(name: str, tmp_path: Path) -> None:
    import torch

    graphs = kc.read_eap_ig(FILES / f"{name}.pt")
    (file,) = kc.write_eap_ig(tmp_path / "again.pt", graphs)
    old = torch.load(FILES / f"{name}.pt", weights_only=True)
    new = torch.load(file, weights_only=True)
    assert new.pop("kcircuits")["fact"] == name
    # At node and neuron level the library marks places where there is no edge, and takes them for
    # edges when it works the nodes out.
    old["edges_in_graph"] &= torch.from_numpy(graphs.topology.edge_mask)
    if name != "gpt2":
        del old["nodes_in_graph"], new["nodes_in_graph"]
    assert new.keys() == old.keys()
    for field, value in old.items():
        same = torch.equal(new[field], value) if torch.is_tensor(value) else new[field] == value
        assert same, field


def test_torch_form_holds_what_the_json_form_holds() -> None:
    from_json, from_torch = (kc.read_eap_ig(FILES / f"gpt2{end}") for end in (".json", ".pt"))
    assert np.array_equal(from_json.scores.values, from_torch.scores.values)
    assert np.array_equal(from_json.circuits.mask, from_torch.circuits.mask)
    assert from_json.topology == from_torch.topology


@pytest.mark.parametrize("suffix", [".json", ".pt"])
@pytest.mark.parametrize("level", ["nodes", "neurons"])
def test_node_and_neuron_levels_survive_both_forms(level: str, suffix: str, tmp_path: Path) -> None:
    graphs = kc.read_eap_ig(FILES / f"{level}.pt")
    again = kc.read_eap_ig(*kc.write_eap_ig(tmp_path / f"x{suffix}", graphs))
    assert graphs.scores is again.scores is None
    assert graphs.circuits.scores is None
    assert np.array_equal(graphs.circuits.mask, again.circuits.mask)
    if level == "nodes":
        assert np.array_equal(graphs.node_scores.values, again.node_scores.values)
        assert graphs.neuron_scores is again.neuron_scores is None
    else:
        assert graphs.neuron_scores.shape == (1, 11, 24)
        assert 0 < graphs.neuron_mask.sum() <= 100
        assert np.array_equal(graphs.neuron_scores, again.neuron_scores)
        assert np.array_equal(graphs.neuron_mask, again.neuron_mask)
        assert graphs.node_scores is again.node_scores is None


def test_node_scores_are_the_opposite_of_the_file() -> None:
    import torch

    raw = torch.load(FILES / "nodes.pt", weights_only=True)["nodes_scores"]
    assert np.array_equal(kc.read_eap_ig(FILES / "nodes.pt").node_scores.values[0], -raw.numpy())


def test_oldest_form_is_read(tmp_path: Path) -> None:
    raw = document()
    raw["nodes"] = {name: node["in_graph"] for name, node in raw["nodes"].items()}
    del raw["cfg"]["d_model"]
    for entry in raw["edges"].values():
        entry["score"] = None
    file = tmp_path / "old.json"
    file.write_text(json.dumps(raw))
    graphs = kc.read_eap_ig(file)
    assert graphs.scores is None
    assert graphs.d_model is None
    assert np.array_equal(graphs.circuits.mask, kc.read_eap_ig(FILES / "gpt2.json").circuits.mask)
    with pytest.raises(UsageError, match="d_model is None"):
        kc.write_eap_ig(tmp_path / "new.json", graphs)
    kc.write_eap_ig(tmp_path / "new.json", graphs, d_model=24)


# --- what we write


@pytest.mark.parametrize("suffix", [".json", ".pt"])
@pytest.mark.parametrize(
    ("dtype", "is_importance"), [("float32", False), ("float64", False), ("float64", True)]
)
def test_circuits_come_back_as_they_were(
    dtype: str, is_importance: bool, suffix: str, tmp_path: Path
) -> None:
    scores = edge_scores("f1", "f2", dtype=dtype, is_importance=is_importance)
    circuits = kc.select(scores, n_edges=30)
    file = tmp_path / f"f2{suffix}"
    assert kc.write_eap_ig(file, circuits, "f2", d_model=6) == [file]
    graphs = kc.read_eap_ig(file, TOPOLOGY)
    again = graphs.circuits
    assert again.fact_ids == ("f2",)
    assert np.array_equal(again.mask[0], circuits.mask[1])
    assert again.scores.dtype == graphs.scores.values.dtype == np.dtype(dtype)
    assert np.array_equal(again.scores[0], scores.values[1])
    assert np.array_equal(graphs.scores.importance[0], scores.importance[1])
    assert (again.n_selected[0], again.n_ties[0]) == (30, circuits.n_ties[1])
    assert again.provenance == graphs.scores.provenance == scores.provenance
    assert graphs.d_model == 6


def test_file_holds_importances_and_nodes_that_the_circuit_passes_through(tmp_path: Path) -> None:
    scores = edge_scores("f1")
    circuits = kc.select(scores, n_edges=20)
    (file,) = kc.write_eap_ig(tmp_path / "x.json", circuits, d_model=6)
    raw = json.loads(file.read_text())
    assert raw["cfg"] == {"n_layers": 2, "n_heads": 3, "parallel_attn_mlp": False, "d_model": 6}
    best = max(raw["edges"], key=lambda name: raw["edges"][name]["score"])
    assert scores.values[0][TOPOLOGY.edge_index(best)] == scores.values.min() < 0
    ends = {end.split("<")[0] for name in circuits.edges("f1") for end in name.split("->")}
    assert {name for name, node in raw["nodes"].items() if node["in_graph"]} == ends | {"logits"}
    assert list(raw["nodes"]) == list(TOPOLOGY.nodes)


def test_dangling_node_is_not_in_the_graph(tmp_path: Path) -> None:
    mask = np.zeros((1, *TOPOLOGY.edge_mask.shape), dtype=bool)
    for name in ("input->m0", "m0->logits", "input->a0.h1<q>", "a0.h2->logits"):
        mask[0][TOPOLOGY.edge_index(name)] = True
    circuits = kc.Circuits.from_mask(mask, TOPOLOGY)
    (file,) = kc.write_eap_ig(tmp_path / "x.json", circuits, d_model=6)
    raw = json.loads(file.read_text())
    members = {name for name, node in raw["nodes"].items() if node["in_graph"]}
    assert members == {"input", "m0", "logits"}


def test_circuit_without_scores_scores_its_membership(tmp_path: Path) -> None:
    mask = kc.select(edge_scores("f1"), n_edges=20).mask
    circuits = kc.Circuits.from_mask(mask, TOPOLOGY, fact_ids=("f1",))
    (file,) = kc.write_eap_ig(tmp_path / "x.json", circuits, d_model=6)
    entries = json.loads(file.read_text())["edges"].values()
    assert all(entry["score"] == float(entry["in_graph"]) for entry in entries)
    graphs = kc.read_eap_ig(file)
    assert graphs.scores is None
    assert graphs.circuits.scores is None
    assert np.array_equal(graphs.circuits.mask, mask)


def test_empty_circuit_is_still_one(tmp_path: Path) -> None:
    mask = np.zeros((1, *TOPOLOGY.edge_mask.shape), dtype=bool)
    files = kc.write_eap_ig(tmp_path / "x.json", kc.Circuits.from_mask(mask, TOPOLOGY), d_model=6)
    assert kc.read_eap_ig(*files).circuits.n_edges.tolist() == [0]


@pytest.mark.parametrize("suffix", [".json", ".pt"])
def test_scores_alone_come_back_without_a_circuit(suffix: str, tmp_path: Path) -> None:
    scores = edge_scores("f1")
    graphs = kc.read_eap_ig(*kc.write_eap_ig(tmp_path / f"x{suffix}", scores, d_model=6))
    assert graphs.circuits is None
    assert np.array_equal(graphs.scores.values, scores.values)
    nodes = scores.nodes()
    graphs = kc.read_eap_ig(*kc.write_eap_ig(tmp_path / f"y{suffix}", nodes, d_model=6))
    assert graphs.scores is graphs.circuits is None
    assert np.array_equal(graphs.node_scores.values, nodes.values)
    assert graphs.node_scores.provenance == scores.provenance
    chosen = select_nodes(graphs.node_scores, n_nodes=3)
    assert np.array_equal(chosen.mask, select_nodes(nodes, n_nodes=3).mask)


def test_prompts_apart_are_averaged(tmp_path: Path) -> None:
    apart = edge_scores("f1", "f2")
    apart = replace(apart, fact_ids=("f",), fact_idx=np.zeros(2, int), prompt_idx=np.arange(2))
    graphs = kc.read_eap_ig(*kc.write_eap_ig(tmp_path / "x.json", apart, d_model=6))
    assert np.array_equal(graphs.scores.values, apart.mean_by_fact().values)


NASTY = ("../../etc/passwd", "/abs", "a/b", "CON", "", "A", "a", "é", "e", "x" * 300, "..", "a b\n")


@pytest.mark.parametrize("suffix", [".json", ".pt"])
def test_folder_holds_every_fact_under_a_safe_name(suffix: str, tmp_path: Path) -> None:
    facts = tuple(fact for fact in NASTY if fact)
    circuits = kc.select(edge_scores(*facts), n_edges=20)
    folder = tmp_path / "out"
    files = kc.write_eap_ig(folder, circuits, d_model=6, suffix=suffix)
    assert sorted(files) == sorted(folder.iterdir())
    graphs = kc.read_eap_ig(folder)
    assert sorted(graphs.fact_ids) == sorted(facts)
    for row, fact in enumerate(graphs.fact_ids):
        old = facts.index(fact)
        assert np.array_equal(graphs.circuits.mask[row], circuits.mask[old])
        assert np.array_equal(graphs.scores.values[row], circuits.scores[old])
        assert files[old].name == file_name(fact, suffix)


def test_file_names_are_plain_and_distinct() -> None:
    names = [file_name(fact) for fact in NASTY]
    assert len({name.lower() for name in names}) == len(NASTY)
    assert all(re.fullmatch(r"[a-z0-9-]{14,53}\.json", name) for name in names)
    assert file_name("Capital of Côte d'Ivoire").startswith("capital-of-cote-d-ivoire-")


def test_what_was_read_can_be_selected_from_by_the_reader_alone() -> None:
    """No torch is needed for JSON."""
    code = (
        "import sys, kcircuits as kc\n"
        f"graphs = kc.read_eap_ig({str(FILES / 'gpt2.json')!r})\n"
        "kc.select(graphs.scores, n_edges=10)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what is refused


def change(path: tuple[str, ...], value: object):
    def edit(raw: dict) -> None:
        for part in path[:-1]:
            raw = raw[part]
        if value is ...:
            del raw[path[-1]]
        else:
            raw[path[-1]] = value

    return edit


EDGE = "input->a1.h2<k>"
WRONG = {
    "no cfg": (change(("cfg",), ...), "is None, expected fields", "cfg"),
    "edges as a list": (change(("edges",), []), "expected fields", "edges"),
    "edge missing": (change(("edges", EDGE), ...), f"'{EDGE}' is missing", "edges"),
    "edge invented": (
        change(("edges", "m1->m0"), {"score": 1.0, "in_graph": True}),
        "'m1->m0' does not exist",
        "edges",
    ),
    "parallel": (
        change(("cfg", "parallel_attn_mlp"), True),
        "2 layers of 4 heads in parallel make 102: 'a0.h0->m0' does not exist",
        "edges",
    ),
    "parallel as a number": (
        change(("cfg", "parallel_attn_mlp"), 0), "expected true or false", "cfg.parallel_attn_mlp"
    ),
    "key-value heads": (change(("cfg", "n_heads"), 2), "make 7 senders; the file names 11", "cfg"),
    "many layers": (change(("cfg", "n_layers"), 10**12), "the file names 11", "cfg"),
    "no layers": (change(("cfg", "n_layers"), True), "expected a whole number", "cfg.n_layers"),
    "node missing": (change(("nodes", "m1"), ...), "the file names 10", "cfg"),
    "node renamed": (
        lambda raw: raw["nodes"].__setitem__("m9", raw["nodes"].pop("m1")), "'m1' is missing",
        "nodes",
    ),
    "node as text": (change(("nodes", "m1"), "yes"), "true or false", "nodes.m1"),
    "edge as a number": (change(("edges", EDGE), 1.0), "is 1.0, expected fields", f"edges.{EDGE}"),
    "score as text": (
        change(("edges", EDGE, "score"), "1"), "is '1', expected a number", f"edges.{EDGE}.score"
    ),
    "score missing": (
        change(("edges", EDGE, "score"), ...), "is None, expected a number", f"edges.{EDGE}.score"
    ),
    "score too large": (
        change(("edges", EDGE, "score"), 10**400), "expected a number", f"edges.{EDGE}.score"
    ),
    "membership as a number": (
        change(("edges", EDGE, "in_graph"), 1), "expected true or false", f"edges.{EDGE}.in_graph"
    ),
    "neurons cut": (
        change(("nodes", "m1", "neurons_scores"), [0.5] * 23), "expected 24 values",
        "nodes.m1.neurons_scores",
    ),
    "notes of another kind": (change(("kcircuits",), {"format": "x"}), "format is 'x'", "format"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_file_is_refused_with_its_field(name: str, tmp_path: Path) -> None:
    edit, message, field = WRONG[name]
    raw = document()
    edit(raw)
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        kc.read_eap_ig(file)
    assert caught.value.file == str(file)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"cfg": 1,\n "cfg": 2}', "'cfg' is there twice"),
        (b'{"cfg": \n{,', "is not JSON"),
        (b"[1, 2]", "expected fields"),
        (b"\xff", "byte 0xff is not UTF-8"),
        (b'{"a":' * 100_000, "is not JSON that can be read"),
    ],
)
def test_file_that_is_no_graph_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        kc.read_eap_ig(file)


def test_score_that_is_not_finite_names_the_edge(tmp_path: Path) -> None:
    raw = document()
    raw["edges"][EDGE]["score"] = float("nan")
    file = tmp_path / "nan.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(NonFiniteError, match=re.escape(f"edge {EDGE} is nan")):
        kc.read_eap_ig(file)


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


def test_torch_file_that_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    raw = torch.load(FILES / "gpt2.pt", weights_only=True)
    torch.save({**raw, "extra": Trap()}, tmp_path / "trap.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "cut.pt").write_bytes((FILES / "gpt2.pt").read_bytes()[:3000])
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("trap", "plain", "cut", "empty"):
        with pytest.raises(InputError, match="no torch file of plain values"):
            kc.read_eap_ig(tmp_path / f"{name}.pt")
    assert not (tmp_path / "trapped").exists()


def test_torch_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    import torch

    raw = torch.load(FILES / "gpt2.pt", weights_only=True)
    stray = raw["edges_scores"].clone()
    stray[-1, 0] = 0.5
    changes = {
        "edges_scores": (raw["edges_scores"].T, r"is \(27, 11\), expected numbers of"),
        "edges_in_graph": (raw["edges_scores"], "expected true and false"),
        "src_nodes": (raw["src_nodes"][::-1], "other nodes than input to m1"),
        "dst_nodes": (raw["dst_nodes"][:-1], "other nodes than a0.h0<q> to logits"),
    }  # fmt: skip
    for field, (value, message) in changes.items():
        torch.save({**raw, field: value}, tmp_path / "x.pt")
        with pytest.raises(InputError, match=message) as caught:
            kc.read_eap_ig(tmp_path / "x.pt")
        assert caught.value.field == field
    torch.save({**raw, "edges_scores": stray}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"m1->a0\.h0<q>, which is no edge"):
        kc.read_eap_ig(tmp_path / "x.pt")


def test_arguments_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    circuits = kc.select(edge_scores("f1", "f2"), n_edges=20)
    folder, file = tmp_path / "out", tmp_path / "x.json"
    with pytest.raises(UsageError, match="d_model is None"):
        kc.write_eap_ig(folder, circuits)
    with pytest.raises(UsageError, match=r"x.json holds one fact, there are 2"):
        kc.write_eap_ig(file, circuits, d_model=6)
    with pytest.raises(UsageError, match="no fact 'f3'"):
        kc.write_eap_ig(file, circuits, "f3", d_model=6)
    with pytest.raises(UsageError, match=r"neither \.json nor \.pt"):
        kc.write_eap_ig(folder, circuits, "f1", d_model=6)
    with pytest.raises(UsageError, match=r"ndarray has no EAP-IG form"):
        kc.write_eap_ig(file, circuits.mask, d_model=6)
    kc.write_eap_ig(folder, circuits, d_model=6)
    with pytest.raises(UsageError, match="is not empty"):
        kc.write_eap_ig(folder, circuits, d_model=6)
    with pytest.raises(UsageError, match="the graphs have 6"):
        kc.write_eap_ig(file, kc.read_eap_ig(folder), "f1", d_model=8)
    with pytest.raises(UsageError, match="scores are importances"):
        kc.read_eap_ig(folder, is_loss=False)
    with pytest.raises(UsageError, match="a folder holds many facts"):
        kc.read_eap_ig(folder, fact_id="f1")
    with pytest.raises(InputError, match="expected Topology"):
        kc.read_eap_ig(folder, Topology(n_layers=2, n_heads=4))
    with pytest.raises(InputError, match="no such file"):
        kc.read_eap_ig(file)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    kc.write_eap_ig(tmp_path / "a.json", edge_scores("f1"), d_model=6)
    kc.write_eap_ig(tmp_path / "b.json", edge_scores("f1"), d_model=6)
    with pytest.raises(InputError, match="two files are of fact 'f1'"):
        kc.read_eap_ig(tmp_path)
    other = kc.read_eap_ig(tmp_path / "b.json", fact_id="f2")
    assert other.fact_ids == ("f2",)
    kc.write_eap_ig(tmp_path / "b.json", other)
    assert kc.read_eap_ig(tmp_path).fact_ids == ("f1", "f2")
    kc.write_eap_ig(tmp_path / "b.json", edge_scores("f2", is_importance=True), d_model=6)
    with pytest.raises(InputError, match="different methods"):
        kc.read_eap_ig(tmp_path)
    wide = edge_scores("f2", topology=Topology(n_layers=1, n_heads=3))
    kc.write_eap_ig(tmp_path / "b.json", wide, d_model=6)
    with pytest.raises(InputError, match="cannot be read as one"):
        kc.read_eap_ig(tmp_path)
