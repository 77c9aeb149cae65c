"""``kcircuits diff``: what it prints, its JSON, its exit codes, and what it does not import."""

import json
import subprocess
import sys

import pytest

from kcircuits.cli.main import main
from kcircuits.core.topology import Topology

TOPOLOGY = Topology(n_layers=6, n_heads=4)
ROW_TYPES = {
    "stratum": str, "facts": int, "gained": float, "lost": float, "kept": float,
    "jaccard": float, "ceiling": float, "chance": float, "turnover": float,
    "turnover_low": float, "turnover_high": float, "verdict": str,
}  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(synthetic, tmp_path_factory):
    """ep1 differs from ep0 in half the facts, ep2 is ep1 again, ep3 has another budget."""
    facts = synthetic.make_facts(24, 8)
    options = {"noise": 0.4, "unknown": ["fact-003"]}
    moved = [0.5] * 12 + [0.0] * 12
    ep0, ep1 = synthetic.make_cells(facts, TOPOLOGY, n_edges=40, moved=moved, **options)
    _, ep3 = synthetic.make_cells(facts, TOPOLOGY, n_edges=41, moved=moved, **options)
    folder = tmp_path_factory.mktemp("runs") / "synthetic"
    return synthetic.write_run(folder, facts, {"ep0": ep0, "ep1": ep1, "ep2": ep1, "ep3": ep3})


@pytest.fixture
def diff(run_dir, capsys):
    def call(*args):
        code = main(["diff", *args, "--run", str(run_dir)])
        return code, capsys.readouterr()

    return call


def test_text_shows_epochs_overlap_edges_nodes_and_facts(diff):
    code, output = diff("ep0", "ep1")
    assert code == 0
    text = output.out
    assert text.startswith("ep0 -> ep1")
    for part in ("000000000000  unverified", "eap-ig-inputs (ig_steps 5)", "top 40 of ",
                 "8 discovery prompts a fact", "Jaccard", "ceiling", "chance", "turnover",
                 "changed: joint swap test p", "left out: 1 fact not known at both epochs",
                 "Edges that changed most", "Nodes that changed most",
                 "acquired     1  fact-003"):  # fmt: skip
        assert part in text, part
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "\x1b" not in text


def test_identical_epochs_say_so(diff):
    _, output = diff("ep1", "ep2")
    assert "  all  identical scores\n" in output.out
    assert "Edges that changed" not in output.out


def test_json_is_the_contract(diff):
    code, output = diff("first", "ep1", "--json", "--top", "3")
    document = json.loads(output.out)
    assert code == 0
    assert document["schema"] == "kcircuits.diff/1"
    assert (document["from"], document["to"], document["level"]) == ("ep0", "ep1", "edge")
    assert document["method"] == "eap-ig-inputs"
    assert isinstance(document["fraction"], float)
    assert document["prompts"] == 8
    assert isinstance(document["jaccard_same_prompts"], float)
    (row,) = document["rows"]
    assert row["stratum"] == "all"
    for name, kind in ROW_TYPES.items():
        assert isinstance(row[name], kind), name
    assert row["verdict"] in ("changed", "no-change", "undetermined")
    assert len(document["edges"]) == 3
    for edge in document["edges"]:
        assert isinstance(edge["fact"], str)
        assert isinstance(edge["edge"], str)
        assert isinstance(edge["from"], float)
        assert isinstance(edge["to"], float)
    assert set(document["facts"]) == {"acquired", "retained", "forgotten"}
    assert document["facts"]["acquired"] == ["fact-003"]
    assert document["unverified"] == ["ep0"]


def test_by_gives_a_row_per_stratum(diff):
    _, output = diff("ep0", "ep1", "--by", "frequency", "--json")
    assert [row["stratum"] for row in json.loads(output.out)["rows"]] == ["high", "low"]


def test_level_counts_nodes(diff):
    _, edges = diff("ep0", "ep1", "--json")
    _, nodes = diff("ep0", "ep1", "--json", "--level", "node")
    edges, nodes = json.loads(edges.out), json.loads(nodes.out)
    assert nodes["level"] == "node"
    assert nodes["rows"][0]["chance"] > edges["rows"][0]["chance"]


def test_fact_shows_one_fact(diff):
    code, output = diff("ep0", "ep1", "--fact", "fact-001")
    assert code == 0
    assert output.out.startswith("ep0 -> ep1  fact fact-001")
    _, output = diff("ep0", "ep1", "--fact", "fact-001", "--json")
    document = json.loads(output.out)
    assert document["rows"][0]["facts"] == 1
    assert {edge["fact"] for edge in document["edges"]} == {"fact-001"}


def test_top_0_lists_nothing(diff):
    _, output = diff("ep0", "ep1", "--top", "0")
    assert "Edges that changed" not in output.out
    assert "Nodes that changed" not in output.out


def test_html_writes_a_page(diff, tmp_path):
    file = tmp_path / "diff.html"
    code, output = diff("ep0", "ep1", "--html", str(file))
    assert code == 0
    assert str(file) in output.out
    assert "<html" in file.read_text(encoding="utf-8")


def test_exit_code_tells_whether_something_changed(diff):
    assert diff("ep0", "ep1", "--exit-code")[0] == 1
    assert diff("ep1", "ep2", "--exit-code")[0] == 0
    assert diff("ep0", "ep1")[0] == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("ep0", "ep9"), 2, "'ep9' means no checkpoint"),
        (("ep0", "ep1", "--fact", "nobody"), 2, "fact 'nobody' is not in this run"),
        (("ep0", "ep1", "--by", "colour"), 2, "no fact has a stratum 'colour'"),
        (("ep0", "ep1", "--by", "frequency", "--fact", "fact-001"), 2, "exclude each other"),
        (("ep0", "ep1", "--top", "-1"), 2, "--top is -1"),
        (("ep0", "ep1", "--level", "layer"), 2, "invalid choice"),
        (("ep0",), 2, "required: B"),
        (("ep0", "ep3"), 9, "budget is 40 in one cell and 41 in another"),
    ],
)
def test_what_cannot_be_compared_is_refused(diff, args, code, message):
    found, output = diff(*args)
    assert found == code
    assert message in output.err
    found, output = diff(*args, "--json")
    assert found == code
    assert message in json.loads(output.out)["error"]["message"]


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert main(["diff", "ep0", "ep1", "--run", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_diff_imports_neither_torch_nor_what_is_slow(run_dir):
    script = (
        "import sys; from kcircuits.cli.main import main\n"
        f"assert main(['diff', 'ep0', 'ep1', '--run', {str(run_dir)!r}]) == 0\n"
        "slow = {'torch', 'transformers', 'networkx', 'plotly', 'pydantic', 'scipy.stats'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
