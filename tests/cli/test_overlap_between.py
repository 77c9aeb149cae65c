"""``kcircuits overlap --facts-at`` and ``--with``: what they print, their JSON and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kcircuits.cli import overlap_facts, overlap_with
from kcircuits.cli.options import Parser, add_method, common
from kcircuits.core.topology import Topology
from kcircuits.errors import IncomparableError, UsageError

TOPOLOGY = Topology(n_layers=6, n_heads=4)


def make_parser():
    parser = Parser(parents=[common()])
    add_method(parser)
    overlap_facts.add_options(parser)
    overlap_with.add_options(parser)
    parser.add_argument("--by")
    parser.add_argument("--epochs")
    parser.add_argument("--level", default="edge")
    parser.add_argument("--html", type=Path)
    return parser


@pytest.fixture(scope="module")
def run_dirs(synthetic, tmp_path_factory):
    facts = synthetic.make_facts(24, 8)
    make = {"topology": TOPOLOGY, "n_edges": 40, "noise": 0.5}
    seeds = [
        synthetic.make_related_cells(facts, seed=seed, unknown=["fact-003"], **make)
        for seed in (0, 1)
    ]
    folder = tmp_path_factory.mktemp("runs")
    return [
        synthetic.write_run(folder / f"seed{i}", facts, {"ep0": seeds[0], "ep1": seeds[i]})
        for i in (0, 1)
    ]


@pytest.fixture
def call(run_dirs, capsys):
    def called(*words):
        args = make_parser().parse_args([*map(str, words), "--run", str(run_dirs[0]), "--quiet"])
        verb = overlap_with.run_with if args.with_ref else overlap_facts.run_facts_at
        assert verb(args) == 0
        return capsys.readouterr().out

    return called


def test_facts_at_prints_groups_verdict_and_clusters(call):
    text = call("--facts-at", "ep0")
    for part in ("facts at ep0", "top 40 of ", "8 discovery prompts a fact", "23 facts",
                 "left out: 1 facts: not known", "one relation", "two of them", "one entity",
                 "birthplace", "chance", "ceiling", "shared", "more alike: labels exchanged",
                 "Groups of facts by their circuits", "4 groups: adjusted Rand",
                 "adjusted Rand index with relation: 1.00", "group 1: 6 facts ("):  # fmt: skip
        assert part in text, part
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "\x1b" not in text


def test_facts_at_prints_json(call):
    document = json.loads(call("--facts-at", "first", "--json", "--by", "frequency"))
    assert document["schema"] == "kcircuits.overlap-facts/1"
    assert (document["epoch"], document["by"]) == ("ep0", "frequency")
    assert {"rows", "contrast", "strata", "clusters", "facts", "shared"} <= set(document)


def test_with_a_run_prints_overlap_verdict_and_second_floor(call, run_dirs):
    text = call("--with", run_dirs[1])
    title = "A fact with itself, and with other facts of its relation"
    for part in ("seed0 and seed1", "top 40 of ", "ep0 all", "identical scores", title, "ceiling"):
        assert part in text, part
    assert all(len(line) <= 100 for line in text.splitlines())
    document = json.loads(call("--with", run_dirs[1], "--epochs", "ep1", "--json"))
    assert document["schema"] == "kcircuits.overlap-with/1"
    assert document["epochs"] == ["ep1"]
    assert document["rows"][0]["verdict"] == "changed"


def test_pages_are_written(call, run_dirs, tmp_path):
    for i, words in enumerate((["--facts-at", "ep0"], ["--with", run_dirs[1]])):
        file = tmp_path / f"{i}.html"
        assert str(file) in call(*words, "--html", file)
        assert "<html" in file.read_text(encoding="utf-8")


def test_what_is_not_there_is_refused(call, tmp_path):
    with pytest.raises(UsageError, match="holds no results by 'edge-pruning'"):
        call("--with", "edge-pruning")
    with pytest.raises(UsageError, match="holds no results"):
        call("--with", tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        call("--with", "runs/nowhere")
    with pytest.raises(UsageError, match="means no checkpoint"):
        call("--facts-at", "ep7")
    with pytest.raises(IncomparableError):
        call("--with", _other_facts(tmp_path))


def _other_facts(folder):
    from kcircuits.io.run_record import RequestRecord, RunRecord, write_run_record

    request = RequestRecord(
        settings={"method": "eap-ig-inputs", "params": {}, "fraction": None},
        batch_size=1, facts=(), checkpoints=(), batches=(),
    )  # fmt: skip
    write_run_record(folder / "empty", RunRecord(run="empty", manifest="", requests=(request,)))
    return folder / "empty"


def test_neither_imports_torch(run_dirs):
    script = (
        "import sys\nfrom test_overlap_between import *\n"
        f"words = ['--run', {str(run_dirs[0])!r}, '--quiet']\n"
        "parse = make_parser().parse_args\n"
        "overlap_facts.run_facts_at(parse(['--facts-at', 'ep0', *words]))\n"
        f"overlap_with.run_with(parse(['--with', {str(run_dirs[1])!r}, *words]))\n"
        "assert not {'torch', 'transformers', 'plotly'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"sys_path = __import__('sys').path; "
         f"sys_path.insert(0, {str(Path(__file__).parent)!r})\n{script}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
