"""``lab compare``: its table is what the Python functions give, and it goes on where it stopped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.cli.main import main
from kcircuits.core.curve import FaithfulnessCurve
from kcircuits.discovery.pruning import Recipe
from kcircuits.lab.comparison import TRAINED_SIZES, Compared
from kcircuits.study.comparison.comparison import Comparison
from tests.cli.test_run_verb import study  # noqa: F401  # the fixture

COMPARISONS = Path(__file__).parents[2] / "docs" / "comparison"
SIZES = (0.05, 0.1)
SHORT = ["--sizes", "5,10", "--param", "edge-pruning.steps=12"]
SHORT += ["--param", "edge-pruning.candidates=0.6"]


@pytest.fixture
def asked(
    study: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    # A random model knows nothing by much: every gap above 0 counts here.
    monkeypatch.setattr("kcircuits.evaluation.judge.MIN_GAP", 0.0)
    monkeypatch.setattr("kcircuits.evaluation.judge.MIN_GAP_STANDARD_ERRORS", 0.0)
    manifest = kc.load_manifest(study / "checkpoints_manifest.yaml")
    model, facts = str(manifest["ep1"].path), str(manifest.facts)
    return ["lab", "compare", "--quiet", "--model", model, "--facts", facts, "--out", str(tmp_path)]


def test_table_is_what_the_functions_give(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["eap-ig-inputs", "eap", "edge-pruning"]
    assert main([*asked, "--methods", ",".join(methods), *SHORT, "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told == {"schema": told["schema"]} | json.loads(
        (tmp_path / "comparison.json").read_text()
    )
    rows = {row["method"]: row for row in told["rows"]}
    assert list(rows) == methods
    model = kc.load_model(asked[4])
    facts = kc.load_facts(asked[6])
    batch = kc.tokenize(model, facts)
    for method in methods[:2]:
        scores = kc.attribute(model, batch, method)
        by_size = kc.faithfulness_curve(model, batch, scores)
        positive = kc.faithfulness_curve(model, batch, scores, by="importance")
        kept = ~by_size.is_gated
        assert kept.any()
        assert rows[method]["cmd"] == pytest.approx(by_size.cmd()[kept].mean(), rel=1e-4)
        assert rows[method]["cpr"] == pytest.approx(positive.cpr()[kept].mean(), rel=1e-4)
        expected = float(np.median(by_size.size_at(0.9)[kept]))
        assert rows[method]["size_at_90"] == (
            pytest.approx(expected, rel=1e-3) if np.isfinite(expected) else None
        )
        apart = kc.attribute(model, batch, method, reduce="prompt")
        halves = []
        for k in range(2):
            mean = np.stack([apart[fact.id][k::2].mean(0) for fact in facts])
            flat = np.abs(mean).reshape(len(facts), -1)
            n = int(0.01 * model.topology.n_edges)
            halves.append([set(np.argsort(-row)[:n].tolist()) for row in flat])
        overlap = rows[method]["half_overlap"]
        if n > 2:  # else dangling nodes decide
            unpruned = np.mean([len(a & b) / n for a, b in zip(*halves, strict=True)])
            assert overlap == pytest.approx(unpruned, abs=0.3)
        assert 0 <= overlap <= 1
    trained = rows["edge-pruning"]
    assert trained["cmd"] is trained["cpr"] is None
    sizes = [int(size * model.topology.n_edges) for size in SIZES]
    circuits = kc.prune_sizes(model, batch, sizes, candidates=0.6, recipe=Recipe(steps=12))
    curve = kc.faithfulness_curve(model, batch, circuits, sizes=SIZES)
    shown = [row for row in told["curves"] if row["method"] == "edge-pruning"]
    assert [row["size"] for row in shown] == list(SIZES)
    np.testing.assert_allclose(
        [row["faithfulness"] for row in shown], np.nanmean(curve.faithfulness, 0), rtol=1e-3
    )
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8").splitlines()
    assert len(text) == 2 + len(methods)
    assert text[3].startswith(f"| `eap` | {rows['eap']['cpr']:.3f} (".replace("-", "−"))
    assert text[4].startswith("| `edge-pruning` | – | – |")
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "edge-pruning" in page
    assert "Faithfulness over size" in page


def test_a_comparison_goes_on_and_refuses_what_is_another(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*asked, "--methods", "eap"]) == 0
    before = (tmp_path / "eap.json").read_bytes()
    assert main([*asked, "--methods", "eap,relp"]) == 0
    assert (tmp_path / "eap.json").read_bytes() == before
    table = capsys.readouterr().out
    assert "relp" in table
    assert "cpu seconds per fact" in table
    content = json.loads(before)
    again = json.loads(json.dumps(Compared.from_json(content).to_json()))
    assert again == {name: content[name] for name in again}
    (tmp_path / "eap.json").write_text(json.dumps(content | {"checkpoint": "another"}))
    assert main([*asked, "--methods", "eap"]) != 0
    assert "has another checkpoint" in capsys.readouterr().err


def test_facts_that_the_model_does_not_know_are_refused(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kcircuits.evaluation.judge.MIN_GAP", 1e9)
    assert main([*asked, "--methods", "eap"]) == 2
    assert "the model knows none of the" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--methods", "eap,nonsense"], "there is no method 'nonsense'"),
        (["--methods", "eap", "--param", "relp.x=1"], "expected METHOD.NAME=VALUE"),
        (["--methods", "eap", "--param", "eap.x=1"], "x = 1 is no parameter of eap"),
        (["--sizes", "5,1"], "expected percentages in ascending order"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    asked: list[str], extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*asked, *extra]) == 2
    assert message in capsys.readouterr().err


def compared(method: str, faithfulness: list[list[float]]) -> Compared:
    """A method of known faithfulness at the trained sizes; gaps of 2 logits."""
    values = np.array(faithfulness)
    n_facts, n_sizes = values.shape

    curve = FaithfulnessCurve(
        fact_ids=tuple(f"f{i}" for i in range(n_facts)),
        sizes=np.array(TRAINED_SIZES[:n_sizes]),
        n_selected=np.ones((n_facts, n_sizes), dtype=np.int64),
        n_edges=np.ones((n_facts, n_sizes), dtype=np.int64),
        n_ties=np.zeros((n_facts, n_sizes), dtype=np.int64),
        metric=1 + 2 * values,
        clean_metric=np.full(n_facts, 3.0),
        empty_metric=np.ones(n_facts),
        is_gated=np.zeros(n_facts, dtype=bool),
        by="size",
        ablation="corrupt",
        prompts="evaluation",
    )
    return Compared(
        method=method,
        params={},
        cpu_seconds=1.0,
        by_size=curve,
        by_importance=None,
        half_overlap=np.ones(n_facts),
    )


def test_wins_compare_the_sizes_that_both_have() -> None:
    first = compared("a", [[0.5, 0.9], [0.4, 0.8], [1.0, 1.3]])
    second = compared("b", [[0.7], [0.5], [0.9]])
    table = Comparison({"model": "m"}, [first, second], ["s0", "s1", "s2"]).wins("a", "b")
    assert (table["better"], table["facts"]) == (1, 3)
    assert table["difference"] == pytest.approx((0.2 + 0.1 - 0.1) / 3)
    assert table["low"] <= table["difference"] <= table["high"]


def test_area_of_trained_sizes_is_a_mean_distance() -> None:
    flat = compared("a", [[0.75] * 4, [1.25] * 4])
    (row,) = Comparison({"model": "m"}, [flat], ["s0", "s1"]).rows()
    assert row["distance"] == pytest.approx(0.25)
    assert row["distance_set"] == pytest.approx(0, abs=1e-12)  # one overshoots as far as the other
    assert row["cpr"] is row["cmd"] is None


def test_a_single_trained_size_is_compared_at_that_size() -> None:
    first, second = compared("a", [[0.5, 0.9], [0.4, 1.3]]), compared("b", [[0.75], [1.5]])
    comparison = Comparison({"model": "m"}, [first, second], ["s0", "s1"])
    assert comparison.span == (0.005, 0.005)
    rows = comparison.rows()
    assert [row["distance"] for row in rows] == pytest.approx([0.55, 0.375])
    assert [row["distance_set"] for row in rows] == pytest.approx([0.55, 0.125])
    assert rows[1]["distance_low"] <= 0.375 <= rows[1]["distance_high"]
    assert "| \\|1 − F\\|, 0.5 % |" in comparison.markdown()


@pytest.mark.parametrize("folder", sorted(COMPARISONS.glob("*/")), ids=lambda path: path.name)
def test_documented_tables_are_those_of_the_files(folder: Path) -> None:
    """The docs show what the committed files of a comparison say, to the letter."""
    content = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    stored = [folder / f"{row['method']}.json" for row in content["rows"]]
    found = [Compared.from_json(json.loads(file.read_text(encoding="utf-8"))) for file in stored]
    again = Comparison({"model": content["model"]}, found, content["subjects"])
    assert again.rows() == content["rows"]
    assert again.markdown() == (folder / "comparison.md").read_text(encoding="utf-8")
    assert again.markdown() in (COMPARISONS.parent / "comparison.md").read_text(encoding="utf-8")
