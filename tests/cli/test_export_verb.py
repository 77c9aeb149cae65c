"""``kcircuits export``: the files it writes, its JSON, and what it refuses."""

import json
import subprocess
import sys
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

import kcircuits as kc
from kcircuits.cli.export import FORMATS
from kcircuits.cli.main import main
from kcircuits.core.cell import FailedCell, SparseMean
from kcircuits.core.topology import Topology

TOPOLOGY = Topology(n_layers=2, n_heads=4)
N_EDGES = 50


def dense(cell, seed):
    """The cell with the mean of all edges, which holds its prompts' means at the candidates."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(scale=1e-6, size=TOPOLOGY.edge_mask.shape) * TOPOLOGY.edge_mask
    mean.reshape(-1)[cell.candidates] = cell.prompt_scores.mean(0)
    return replace(cell, mean=mean.astype(np.float32))


def sparse(cell):
    nothing = np.zeros(1, dtype=np.float32)
    marginals = {"forward_marginals": nothing, "backward_marginals": nothing}
    mean = SparseMean(index=np.zeros(1, dtype=np.int32), values=nothing, **marginals)
    return replace(cell, sparse_mean=mean)


def on_a_path(chosen):
    """The edges that lie on a path from the input to the logits."""
    graph = kc.Circuits.from_mask(chosen[None], TOPOLOGY).graph("fact-0")
    after = {"input"} | nx.descendants(graph, "input")
    before = {"logits"} | nx.ancestors(graph, "logits")
    mask = np.zeros_like(chosen)
    for sender, receiver, edge in graph.edges(data="name"):
        mask[TOPOLOGY.edge_index(edge)] = sender in after and receiver in before
    return mask


@pytest.fixture(scope="module")
def cells(synthetic):
    """Cells of three facts at ep0 and ep1, whose last fact failed; at ep2 none keeps all scores."""
    facts = synthetic.make_facts(3, 4)
    ep0, ep1 = synthetic.make_cells(facts, TOPOLOGY, n_edges=N_EDGES, moved=0.3)
    epochs = [[dense(cell, i) for i, cell in enumerate(part)] for part in (ep0, ep1)]
    last = epochs[1][2]
    epochs[1][2] = FailedCell(
        key=last.key, checkpoint=last.checkpoint, fact_id=last.fact_id, fact_hash=last.fact_hash,
        component="m1->logits", message="a score is NaN",
    )  # fmt: skip
    return facts, {"ep0": epochs[0], "ep1": epochs[1], "ep2": [sparse(cell) for cell in ep0]}


@pytest.fixture(scope="module")
def run_dir(synthetic, cells, tmp_path_factory):
    return synthetic.write_run(tmp_path_factory.mktemp("runs") / "synthetic", *cells)


@pytest.fixture
def export(run_dir, capsys):
    def call(*args):
        code = main(["export", "eap-ig", *map(str, args), "--run", str(run_dir)])
        return code, capsys.readouterr()

    return call


@pytest.mark.parametrize("form", [[], ["--pt"]])
def test_files_hold_each_facts_circuit_and_all_its_scores(export, cells, tmp_path, form):
    out = tmp_path / "out"
    code, printed = export("--epoch", "first", "--out", out, "--d-model", 16, *form)
    assert code == 0
    assert printed.out.startswith(f"ep0: 3 facts in {out}\n")
    graphs = kc.read_eap_ig(out)
    assert graphs.d_model == 16
    assert all(file.suffix == (".pt" if form else ".json") for file in out.iterdir())
    for cell in cells[1]["ep0"]:
        row = graphs.fact_ids.index(cell.fact_id)
        assert np.array_equal(graphs.scores.values[row], cell.mean)
        top = np.sort(np.abs(cell.mean[TOPOLOGY.edge_mask]))[-N_EDGES]
        chosen = np.abs(cell.mean) >= top
        mask = graphs.circuits.mask[row]
        assert 0 < mask.sum() <= N_EDGES
        assert np.array_equal(mask, on_a_path(chosen))
        assert graphs.circuits.n_selected[row] == N_EDGES
        assert str(mask.sum()) in printed.out
    assert graphs.provenance.method == "eap-ig-inputs"


def test_json_names_the_files_and_the_facts_left_out(export, tmp_path):
    out = tmp_path / "out"
    code, printed = export("--epoch", "ep1", "--out", out, "--d-model", 16, "--json")
    told = json.loads(printed.out)
    assert code == 0
    assert told["schema"] == "kcircuits.export-eap-ig/1"
    assert (told["epoch"], told["out"], told["d_model"]) == ("ep1", str(out), 16)
    assert [row["fact"] for row in told["files"]] == ["fact-000", "fact-001"]
    assert {row["file"] for row in told["files"]} == {file.name for file in out.iterdir()}
    assert all(0 < row["edges"] <= N_EDGES for row in told["files"])
    assert told["left_out"] == ["fact-002"]
    _, printed = export("--epoch", "ep1", "--out", tmp_path / "b", "--d-model", 16)
    assert "1 facts have no numbers at ep1, e.g. 'fact-002': left out" in printed.err


def test_facts_are_chosen(export, tmp_path):
    out = tmp_path / "out"
    args = ("--epoch", "ep0", "--out", out, "--d-model", 16, "--fact", "fact-002", "fact-000")
    _, printed = export(*args, "--json")
    told = json.loads(printed.out)
    assert [row["fact"] for row in told["files"]] == ["fact-002", "fact-000"]
    assert told["left_out"] == []


def test_width_comes_from_the_checkpoint(export, tmp_path):
    from safetensors.numpy import save_file

    for name, config in (("a", {"hidden_size": 24}), ("b", {"n_embd": 32}), ("c", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        save_file({"w": np.zeros(1, dtype=np.float32)}, tmp_path / name / "model.safetensors")
    manifest = tmp_path / "manifest.yaml"
    lines = "".join(
        f"  - {{id: ep{i}, epoch: {i}, path: {name}}}\n" for i, name in enumerate("abc")
    )
    manifest.write_text(
        f"schema_version: 1\nrun: r\nbase_model: m\nfacts: f.jsonl\ncheckpoints:\n{lines}"
    )
    for epoch, width in (("ep0", 24), ("ep1", 32)):
        args = ("--epoch", epoch, "--out", tmp_path / epoch, "--manifest", manifest, "--json")
        assert json.loads(export(*args)[1].out)["d_model"] == width
    (tmp_path / "a" / "config.json").write_text("{}")
    code, printed = export("--epoch", "ep0", "--out", tmp_path / "x", "--manifest", manifest)
    assert code == 2
    assert "has none of hidden_size, n_embd" in printed.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--epoch", "ep0"], 2, "--d-model N"),
        (["--epoch", "ep9", "--d-model", "16"], 2, "'ep9' means no checkpoint"),
        (["--epoch", "ep0", "--d-model", "0"], 2, "d_model is 0"),
        (["--epoch", "ep0", "--d-model", "16", "--fact", "f"], 2, "'f' is not in this run"),
        (["--epoch", "ep0", "--d-model", "16", "--fact", "fact-000", "fact-000"], 2, "twice"),
        (["--epoch", "ep1", "--d-model", "16", "--fact", "fact-002"], 9, "a score is NaN"),
        (["--epoch", "ep2", "--d-model", "16"], 9, "keeps only the largest scores"),
    ],
)
def test_what_cannot_be_exported_is_refused(export, tmp_path, args, code, message):
    found, printed = export(*args, "--out", tmp_path / "out")
    assert (found, message in printed.err) == (code, True), printed.err
    assert not (tmp_path / "out").exists()


def test_full_folder_is_refused(export, tmp_path):
    (tmp_path / "notes.txt").touch()
    code, printed = export("--epoch", "ep0", "--out", tmp_path, "--d-model", 16)
    assert code == 2
    assert "is not empty" in printed.err


def test_every_format_is_listed_and_explained(capsys):
    assert main(["export", "--help"]) == 0
    out = capsys.readouterr().out
    for name, form in FORMATS.items():
        assert name in out
        assert form.summary in " ".join(out.split())
        assert main(["export", name, "--help"]) == 0


def test_json_files_need_no_torch(run_dir, tmp_path):
    code = (
        "import sys\nfrom kcircuits.cli.main import main\n"
        f"code = main(['export', 'eap-ig', '--run', {str(run_dir)!r}, '--epoch', 'ep0', "
        f"'--d-model', '16', '--out', {str(tmp_path / 'out')!r}])\n"
        "assert not {'torch', 'transformers', 'plotly'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
