"""``kcircuits track`` and ``kcircuits inspect``: text, JSON, pages, refusals, what they import."""

import json
import subprocess
import sys

import numpy as np
import pytest

from kcircuits.cli.main import main
from kcircuits.core.topology import Topology

TOPOLOGY = Topology(n_layers=6, n_heads=4)


@pytest.fixture(scope="module")
def run_dir(synthetic, tmp_path_factory):
    facts = synthetic.make_facts(24, 8)
    known = np.ones((24, 4), dtype=bool)
    known[6:18, 0] = False
    known[20:] = False
    epochs, _ = synthetic.make_epochs(
        facts, TOPOLOGY, n_edges=40, steps=[0.3, 0.2, 0.1], known=known, noise=0.4
    )
    return synthetic.write_run(tmp_path_factory.mktemp("runs") / "run", facts, epochs)


@pytest.fixture
def call(run_dir, capsys):
    def run(*args):
        code = main([*args, "--run", str(run_dir)])
        return code, capsys.readouterr()

    return run


def test_track_shows_shape_steps_lifetimes_core_hubs_and_settling(call):
    code, output = call("track")
    assert code == 0
    for part in ("synthetic: 24 facts, 4 epochs", "top 40 of ", "8 discovery prompts a fact",
                 "entropy", "depth", "to ep1", "born", "died", "noise", "turnover", "at risk",
                 "still there", "core: ", "with swapped labels", "hub", "in the core",
                 "Steps since a fact was acquired", "acquired", "known before",
                 "never known"):  # fmt: skip
        assert part in output.out, part
    assert all(len(line) <= 110 for line in output.out.splitlines())
    assert "\x1b" not in output.out
    assert "facts" in output.err  # the progress bar


def test_track_json_has_every_table(call):
    code, output = call("track", "--json", "--quiet", "--by", "frequency", "--top", "2")
    document = json.loads(output.out)
    assert code == 0
    assert output.err == ""
    assert document["schema"] == "kcircuits.track/1"
    assert document["epochs"] == ["ep0", "ep1", "ep2", "ep3"]
    assert {row["stratum"] for row in document["rows"]} == {"high", "low"}
    assert len(document["rows"]) == 8
    for name in ("life_table", "settling", "trends", "layers", "core", "hubs", "roles"):
        assert document[name], name
    assert len(document["hubs"]) <= 4
    assert set(document["rows"][1]) >= {
        "epoch", "facts", "known", "compared", "entropy", "entropy_low", "entropy_high",
        "entropy_noise", "depth", "births", "deaths", "kept", "births_swapped", "turnover", "hubs",
    }  # fmt: skip


def test_track_takes_epochs_facts_and_level(call):
    _, output = call(
        "track", "--json", "--quiet", "--epochs", "ep1..last", "--facts", "frequency=low",
        "--level", "node",
    )  # fmt: skip
    document = json.loads(output.out)
    assert document["epochs"] == ["ep1", "ep2", "ep3"]
    assert document["level"] == "node"
    assert document["rows"][0]["facts"] == 12


def test_inspect_shows_prompts_epochs_steps_and_edges(call):
    code, output = call("inspect", "fact-007", "--top", "4")
    assert code == 0
    for part in ("fact-007\n", "Person 3 | university | yes", "strata: frequency high",
                 "acquired at ep1", "Prompts", "phrase 0", "Epochs", "Steps", "ep0 -> ep1",
                 "cannot tell", "Strongest edges", "born or died", "●", "ep0..ep3",
                 "4 of "):  # fmt: skip
        assert part in output.out, part
    _, output = call("inspect", "fact-007", "--json", "--quiet", "--top", "4")
    document = json.loads(output.out)
    assert document["schema"] == "kcircuits.inspect/1"
    assert len(document["rows"]) == 4
    assert len(document["steps"]) == 3
    assert len(document["edges"]) == 4
    assert document["steps"][0]["reason"] == "fact not known at ep0"


@pytest.mark.parametrize("verb", [("track",), ("inspect", "fact-001")])
def test_html_writes_a_page(call, verb, tmp_path):
    file = tmp_path / "page.html"
    code, output = call(*verb, "--html", str(file), "--quiet")
    assert code == 0
    assert f"wrote {file}" in output.out
    assert "<html" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("track", "--epochs", "ep9"), 2, "'ep9' means no checkpoint"),
        (("track", "--epochs", "ep3..ep1"), 2, "runs backwards"),
        (("track", "--facts", "nobody"), 2, "neither a fact nor a stratum"),
        (("track", "--by", "colour"), 2, "no fact has a stratum 'colour'"),
        (("track", "--top", "-1"), 2, "--top is -1"),
        (("track", "--seed", "-1"), 2, "--seed is -1"),
        (("track", "--level", "layer"), 2, "invalid choice"),
        (("track", "--method", "eap"), 2, "no results by 'eap'"),
        (("inspect",), 2, "required: FACT"),
        (("inspect", "fact-99"), 2, "fact 'fact-99' is not in this run (24 facts)"),
        (("inspect", "fact-001", "--top", "-1"), 2, "--top is -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, args, code, message):
    found, output = call(*args)
    assert found == code
    assert message in output.err
    found, output = call(*args, "--json")
    assert found == code
    assert message in json.loads(output.out)["error"]["message"]


@pytest.mark.parametrize("verb", [["track"], ["inspect", "fact-001"]])
def test_verbs_import_neither_torch_nor_what_is_slow(run_dir, verb):
    script = (
        "import sys; from kcircuits.cli.main import main\n"
        f"assert main([*{verb!r}, '--run', {str(run_dir)!r}, '--quiet']) == 0\n"
        "slow = {'torch', 'transformers', 'networkx', 'plotly', 'pydantic', 'scipy.stats'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
