"""``kcircuits link`` on run folders made here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kcircuits.cli.main import main
from tests.cli.link_runs import MARK, write_run


@pytest.fixture(scope="module")
def folders(synthetic, tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("link")
    return [write_run(synthetic, root / f"seed{seed}", seed) for seed in range(3)]


@pytest.fixture
def link(folders, capsys):
    def call(*args, runs=folders):
        named = [part for run in runs for part in ("--run", str(run))]
        code = main(["link", *named, "--permutations", "500", *args])
        return code, capsys.readouterr()

    return call


def test_text_says_what_was_compared_and_what_follows(link):
    code, output = link()
    assert code == 0
    for part in ("lora, seed 0: 48 facts, 7 epochs, eap-ig-inputs, top 30 edges",
                 "exchange trajectories within frequency, exposure", "at risk", "AUROC",
                 "all, 3 training seeds: turnover precedes forgetting: trajectories exchanged",
                 "  lora, seed 2", "Turnover in the step itself  (descriptive)", "never known",
                 "Edges that distinguish 72 consolidated and 72 transient facts", MARK, "3 of 3",
                 "Nodes that distinguish"):  # fmt: skip
        assert part in output.out, part
    assert all(len(line) <= 120 for line in output.out.splitlines())
    assert "\x1b" not in output.out
    assert "runs: " in output.err


def test_json_is_one_object_and_quiet_keeps_stderr_empty(link):
    code, output = link("--json", "--quiet", "--top", "2", "--by", "exposure")
    found = json.loads(output.out)
    assert code == 0
    assert output.err == ""
    assert found["schema"] == "kcircuits.link/1"
    assert set(found) == {
        "schema", "by", "consolidated", "within", "permutations", "runs", "rows", "seeds", "steps",
        "same_step", "distinctions", "edges", "nodes",
    }  # fmt: skip
    assert [row["stratum"] for row in found["rows"]] == ["1", "3"]
    assert len(found["seeds"]) == 6
    assert len(found["edges"]) == len(found["nodes"]) == 2


def test_one_run_cannot_tell(link, folders):
    _, output = link("--quiet", runs=folders[:1])
    assert "all, 1 training seed: cannot tell: training seeds: 1; a claim needs 3" in output.out


def test_html_writes_a_page(link, tmp_path):
    file = tmp_path / "link.html"
    code, output = link("--html", str(file))
    assert code == 0
    assert f"wrote {file}" in output.out
    assert "<html" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--top", "-1"), "--top is -1"),
        (("--consolidated", "0"), "k is 0; expected at least 1"),
        (("--permutations", "0"), "permutations is 0; expected at least 1"),
        (("--by", "colour"), "no fact has a stratum 'colour'"),
        (("--within", "colour"), "no fact has a stratum 'colour'"),
        (("--method", "eap"), "holds no results by 'eap'"),
        (("--seed", "-1"), "seed is -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(link, args, message):
    code, output = link(*args)
    assert code == 2
    assert message in output.err


def test_link_imports_neither_torch_nor_what_is_slow(folders):
    script = (
        "import sys; from kcircuits.cli.main import main\n"
        f"assert main(['link', '--run', {str(folders[0])!r}, '--permutations', '50']) == 0\n"
        "slow = {'torch', 'transformers', 'networkx', 'plotly', 'scipy.stats'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
