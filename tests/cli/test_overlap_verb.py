"""``kcircuits overlap``: what it prints, its JSON, its page, its refusals, what it imports."""

import json
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

from kcircuits.cli.main import main
from kcircuits.core.topology import Topology
from kcircuits.study.overlap.epoch_steps import Against
from kcircuits.study.run import open_run

TOPOLOGY = Topology(n_layers=6, n_heads=4)


@pytest.fixture(scope="module")
def run_dir(synthetic, tmp_path_factory):
    """Circuits move from ep1 to ep2; ep3 has another budget."""
    facts = synthetic.make_facts(24, 8)
    known = np.ones((24, 3), dtype=bool)
    known[3, 0] = False
    options = {"noise": 0.4, "known": known}
    epochs, _ = synthetic.make_epochs(facts, TOPOLOGY, n_edges=40, steps=[0.0, 0.4], **options)
    other, _ = synthetic.make_epochs(facts, TOPOLOGY, n_edges=41, steps=[])
    folder = tmp_path_factory.mktemp("runs") / "synthetic"
    return synthetic.write_run(folder, facts, epochs | {"ep3": other["ep0"]})


@pytest.fixture
def overlap(run_dir, capsys):
    def call(*args):
        code = main(["overlap", *args, "--run", str(run_dir)])
        return code, capsys.readouterr()

    return call


def test_text_shows_matrices_floors_and_intervals(overlap):
    code, output = overlap("--epochs", "ep0..ep2")
    assert code == 0
    for part in ("overlap of 3 epochs", "ep0  000000000000  unverified", "top 40 of 1,108 edges",
                 "8 discovery prompts a fact, halved; overlaps count edges",
                 "Jaccard  (diagonal: the noise ceiling of that epoch)",
                 "Turnover  (0 none, 1 chance)", "facts known at both epochs: 23 to 24 a pair",
                 "  chance: 0.018", "with as many edges between any two layers: ",
                 "another fact of the same relation: ", "ep1 -> ep2", "95% intervals"):  # fmt: skip
        assert part in output.out, part
    assert all(len(line) <= 100 for line in output.out.splitlines())
    assert "\x1b" not in output.out
    assert "24/24" in output.err


def test_numbers_are_those_of_the_python_object(overlap, run_dir):
    _, output = overlap("--epochs", "ep0..ep2", "--quiet")
    assert output.err == ""
    expected = open_run(run_dir).overlap(epochs=["ep0", "ep1", "ep2"])
    lines = output.out.splitlines()
    for title, field in (("Jaccard ", "jaccard"), ("Turnover ", "turnover")):
        at = next(i for i, line in enumerate(lines) if line.startswith(title))
        shown = [line.split()[1:] for line in lines[at + 2 : at + 5]]
        values = expected.matrix(field)
        np.testing.assert_allclose(np.array(shown, dtype=float), values, atol=0.0051)


def test_against_tests_the_steps(overlap):
    _, output = overlap("--epochs", "ep0..ep2", "--against", "first", "--quiet")
    assert "Against first  (p and q by Holm over the steps)" in output.out
    assert "  ep0 -> ep1  no change beyond noise: turnover above 0.10 is ruled out" in output.out
    assert "  ep0 -> ep2  changed: joint swap test p" in output.out
    assert "(Holm over 2 steps)" in output.out
    assert "facts by themselves: " in output.out
    _, output = overlap("--epochs", "ep0..ep2", "--against", "last", "--by", "frequency", "--quiet")
    assert "  ep1 -> ep2  low  changed: joint" in output.out
    assert "Jaccard, frequency high" in output.out


def test_choices_of_against_are_those_of_the_steps(overlap):
    _, output = overlap("--against", "next")
    assert all(word in output.err for word in get_args(Against))


def test_json_is_one_object(overlap):
    code, output = overlap("--epochs", "ep0,ep2", "--json", "--against", "previous", "--measures")
    document = json.loads(output.out)
    assert code == 0
    assert document["schema"] == "kcircuits.overlap/1"
    assert [(row["from"], row["to"]) for row in document["rows"]] == [
        ("ep0", "ep0"), ("ep0", "ep2"), ("ep2", "ep2")
    ]  # fmt: skip
    assert set(document["rows"][0]["measures"]) == {"weighted", "spearman", "rbo"}
    (step,) = document["steps"]
    assert (step["from"], step["to"], step["verdict"]) == ("ep0", "ep2", "changed")
    assert {row["fact"] for row in document["fact_steps"]} >= {"fact-000", "fact-023"}


def test_facts_level_and_options_are_passed_on(overlap):
    few = ("--epochs", "ep0,ep2", "--facts", "fact-000,fact-001,frequency=low", "--json")
    _, output = overlap(*few, "--level", "node", "--pruned")
    document = json.loads(output.out)
    assert (document["level"], document["facts"]) == ("node", 13)
    assert document["rows"][1]["jaccard_pruned"] is not None
    _, output = overlap("--epochs", "ep0,ep2", "--facts", "fact-000", "--degree", "--null",
                        "--resample", "prompts", "--quiet")  # fmt: skip
    for part in ("chance of circuits of the same degrees", "over prompts", "swapped p"):
        assert part in output.out
    _, output = overlap("--epochs", "ep0,ep2", "--measures", "--quiet")
    assert "Other measures" in output.out
    assert "spearman  ep0 -> ep2" in output.out


def test_html_writes_a_page(overlap, tmp_path):
    file = tmp_path / "overlap.html"
    code, output = overlap("--epochs", "ep0..ep2", "--html", str(file), "--against", "previous",
                           "--measures", "--by", "frequency")  # fmt: skip
    assert code == 0
    assert str(file) in output.out
    page = file.read_text(encoding="utf-8")
    for part in ("Overlap between epochs", "Turnover against previous", "All pairs",
                 "Facts by themselves", "Other measures"):  # fmt: skip
        assert part in page


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 9, "budget is 40 in one cell and 41 in another"),
        (("--epochs", "ep9"), 2, "'ep9' means no checkpoint"),
        (("--epochs", "ep2..ep0"), 2, "runs backwards"),
        (("--epochs", "ep0", "--against", "previous"), 2, "1 epoch has no step"),
        (("--facts", "nobody"), 2, "'nobody' is neither a fact nor a stratum"),
        (("--epochs", "ep0,ep1", "--by", "colour"), 2, "no fact has a stratum 'colour'"),
        (("--epochs", "ep0,ep1", "--level", "node", "--degree"), 2, "keeps degrees"),
        (("--method", "eap"), 2, "no results by 'eap'"),
    ],
)
def test_what_cannot_be_compared_is_refused(overlap, args, code, message):
    found, output = overlap(*args, "--quiet")
    assert found == code
    assert message in output.err
    found, output = overlap(*args, "--json", "--quiet")
    assert found == code
    assert message in json.loads(output.out)["error"]["message"]


def test_it_answers_without_torch(run_dir):
    code = (
        "import sys; from kcircuits.cli.main import main\n"
        f"assert main(['overlap', '--run', {str(run_dir)!r}, '--epochs', 'ep0..ep2', '--quiet',"
        " '--against', 'previous']) == 0\n"
        "heavy = {'torch', 'scipy', 'networkx', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
