"""Every method goes through run, diff and report."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.cli.main import main
from kcircuits.cli.options import add_memory
from kcircuits.core.ablation import ABLATIONS, CONSTANT
from kcircuits.discovery import METHODS
from kcircuits.discovery.pruning import Recipe
from kcircuits.engine.chunks import DEFAULT_MEMORY, parse_memory, plan_chunks
from kcircuits.engine.metrics import METRICS
from kcircuits.study import open_run
from kcircuits.sweep.request import SWEPT_ABLATIONS
from tests.cli.test_run_verb import study  # noqa: F401  # the fixture

SHORT = {"edge-pruning": ["--param", "steps=12", "--param", "candidates=0.6"]}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_goes_through_run_and_diff(
    study: Path,  # noqa: F811
    method: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--manifest", str(study / "checkpoints_manifest.yaml"), "--run", str(tmp_path)]
    asked = ["--method", method, "--n-edges", "30", "--facts", "f0,f1", *SHORT.get(method, [])]
    assert main(["run", "--quiet", *where, *asked]) == 0
    capsys.readouterr()
    assert main(["diff", "ep0", "ep1", "--json", *where]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["method"] == method
    (row,) = told["rows"]
    assert row["gained"] == row["lost"]
    run = open_run(tmp_path)
    for cell in run.cells("ep0"):
        assert cell.provenance.method == method
        assert np.isfinite(cell.prompt_scores).all()
        assert len(cell.prompt_idx) == 4
        if method == "edge-pruning":
            assert 0 <= cell.prompt_scores.min() <= cell.prompt_scores.max() <= 1
            assert cell.provenance.params["steps"] == 12


@pytest.mark.parametrize(
    ("options", "score", "text", "legend"),
    [
        (
            ["--method", "edge-pruning", *SHORT["edge-pruning"]],
            {"unit": "probability", "helps": None},
            "(probabilities that edges are kept, - where too small to be kept; means of gates)",
            "kept; the stronger, the larger the probability that the edge is kept",
        ),
        (
            ["--metric", "kl"],
            {"unit": "nats", "helps": "above 0"},
            "(signed scores, - where too small to be kept; above 0 helps)",
            "helps the answer (score above 0)",
        ),
        (
            [],
            {"unit": "logits", "helps": "below 0"},
            "(signed scores, - where too small to be kept; below 0 helps)",
            "helps the answer (score below 0)",
        ),
    ],
    ids=["gates", "kl", "logits"],
)
def test_numbers_are_called_what_they_are(
    study: Path,  # noqa: F811
    options: list[str],
    score: dict[str, Any],
    text: str,
    legend: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Gates have no sign; of a metric that is better when lower, a score above 0 helps."""
    where = ["--manifest", str(study / "checkpoints_manifest.yaml"), "--run", str(tmp_path)]
    asked = ["--n-edges", "30", "--facts", "f0,f1", *options]
    assert main(["run", "--quiet", *where, *asked]) == 0
    (cell,) = open_run(tmp_path).cells("ep0", ["f0"])
    assert cell.provenance.is_importance == (score["helps"] != "below 0")
    capsys.readouterr()
    assert main(["diff", "ep0", "ep1", "--fact", "f0", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == score
    page = tmp_path / "diff.html"
    assert main(["diff", "ep0", "ep1", "--fact", "f0", "--html", str(page), *where]) == 0
    told = capsys.readouterr().out
    assert text in told
    is_folds = "edge-pruning" in options
    assert ("4 folds of the discovery prompts a fact, halved" in told) == is_folds
    assert main(["report", *where, "--out", str(tmp_path / "report.html")]) == 0
    for file in (page, tmp_path / "report.html"):
        shown = file.read_text(encoding="utf-8")
        assert f'"name":"{legend}"' in shown
        assert ("folds of the discovery prompts" in shown) == is_folds
        assert ("Green arcs help" in shown) == (not is_folds)


@pytest.mark.parametrize("method", ["eap", "edge-pruning"])
def test_zero_ablation_goes_through_run(
    study: Path,  # noqa: F811
    method: str,
    tmp_path: Path,
) -> None:
    """The cells of ``run --ablation zero`` are what the Python functions give."""
    where = ["--manifest", str(study / "checkpoints_manifest.yaml"), "--run", str(tmp_path)]
    asked = ["--method", method, "--n-edges", "30", "--facts", "f0", "--epochs", "ep1"]
    asked += [
        "--ablation",
        "zero",
        *SHORT.get(method, []),
        *(["--param", "folds=1"] * (method != "eap")),
    ]
    assert main(["run", "--quiet", *where, *asked]) == 0
    (cell,) = open_run(tmp_path).cells("ep1", ["f0"])
    manifest = kc.load_manifest(study / "checkpoints_manifest.yaml")
    model = kc.load_model(manifest["ep1"])
    batch = kc.tokenize(model, kc.load_facts(manifest.facts)[:1])
    if method == "eap":
        scores = kc.attribute(model, batch, "eap", ablation="zero")
        circuits = kc.select(scores, n_edges=30)
    else:
        recipe = Recipe(steps=12)
        apart = replace(batch, fact_ids=("f0 (fold 0)",))
        circuits = kc.prune(
            model, apart, n_edges=30, candidates=0.6, ablation="zero", recipe=recipe
        )
        circuits = replace(circuits, fact_ids=("f0",))
    judged = kc.evaluate(model, batch, circuits, ablation="zero")
    assert cell.provenance.params["ablation"] == "zero"
    assert cell.values["metric"] == pytest.approx(judged.metric[0], rel=1e-5)
    assert cell.values["empty_metric"] == pytest.approx(judged.empty_metric[0], rel=1e-5)
    plain = kc.evaluate(model, batch, circuits)
    assert abs(plain.empty_metric[0] - judged.empty_metric[0]) > 1e-3


def test_memory_reaches_the_engine(
    study: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A small budget plans chunks of one prompt; the cells are those of a large one."""
    where = ["--manifest", str(study / "checkpoints_manifest.yaml"), "--epochs", "ep0"]
    sizes: dict[str, set[int]] = {}
    for memory in ("1GiB", "1KiB"):

        def planned(*args: Any, memory: str = memory, **options: Any) -> list[Any]:
            chunks = plan_chunks(*args, **options)
            sizes.setdefault(memory, set()).update(map(len, chunks))
            return chunks

        monkeypatch.setattr("kcircuits.engine.chunks.plan_chunks", planned)
        run = ["--memory", memory, "--run", str(tmp_path / memory)]
        assert main(["run", "--quiet", "--n-edges", "9", *run, *where]) == 0
    assert sizes["1KiB"] == {1}
    assert max(sizes["1GiB"]) > 1
    small, large = (open_run(tmp_path / name).cells("ep0") for name in sizes)
    for one, other in zip(small, large, strict=True):
        np.testing.assert_allclose(one.prompt_scores, other.prompt_scores, rtol=1e-4, atol=1e-6)
    capsys.readouterr()
    again = ["--memory", "much", "--run", str(tmp_path / "none")]
    assert main(["run", "--quiet", *again, *where]) == 2
    assert "memory is 'much'; expected a size such as 1GiB" in capsys.readouterr().err


def test_the_default_memory_is_the_engines() -> None:
    parser = argparse.ArgumentParser()
    add_memory(parser)
    assert parse_memory(parser.parse_args([]).memory) == DEFAULT_MEMORY


@pytest.mark.parametrize("ablation", CONSTANT)
def test_a_run_refuses_ablations_that_depend_on_the_batch(
    study: Path,  # noqa: F811
    ablation: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--manifest", str(study / "checkpoints_manifest.yaml")]
    assert main(["run", "--ablation", ablation, *where]) == 2
    assert f"a run cannot use the ablation {ablation}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "lists"),
    [("run", (METHODS, METRICS, SWEPT_ABLATIONS)), ("evaluate", (METRICS, ABLATIONS))],
)
def test_help_lists_what_the_registries_hold(
    verb: str, lists: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for names in lists:
        assert ", ".join(names) in text


def test_a_parameter_that_the_method_lacks_is_refused(
    study: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--manifest", str(study / "checkpoints_manifest.yaml")]
    assert main(["run", "--method", "eap", "--param", "steps=3", *where]) != 0
    assert "steps = 3 is no parameter of eap" in capsys.readouterr().err
    assert main(["run", "--param", "steps", *where]) != 0
    assert "expected NAME=VALUE" in capsys.readouterr().err


def test_verbs_read_the_results_of_a_method(
    study: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a run with several methods each verb reads the latest, or the one that is named."""
    where = ["--manifest", str(study / "checkpoints_manifest.yaml"), "--run", str(tmp_path)]
    for method, facts in (("eap", "f0,f1,f2"), ("relp", "f1")):
        asked = ["--method", method, "--facts", facts, "--n-edges", "30"]
        assert main(["run", "--quiet", *asked, *where]) == 0

    def told(*args: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*args, *where, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert told("diff", "ep0", "ep1")["method"] == "relp"
    assert told("diff", "ep0", "ep1", "--method", "eap")["method"] == "eap"
    status = told("status")
    assert (status["method"], len(status["beside"])) == ("relp", 1)
    assert {k: status["beside"][0][k] for k in ("method", "facts", "done")} == {
        "method": "eap", "facts": 3, "done": 6,
    }  # fmt: skip
    assert told("status", "--method", "eap")["epochs"][0]["done"] == 3
    assert main(["status", *where]) == 0
    assert "beside: eap, 30 edges, 6 of 6 cells" in capsys.readouterr().out
    out = tmp_path / "files"
    export = ["--epoch", "ep0", "--out", str(out), "--d-model", "16"]
    assert len(told("export", "eap-ig", "--method", "eap", *export)["files"]) == 3
    assert told("report")["path"] == str(tmp_path / "figures" / "report.html")
    assert told("report", "--method", "eap")["path"].endswith("report-eap.html")
    assert main(["diff", "ep0", "ep1", "--method", "gim", *where]) == 2
    assert "no results by 'gim'; there are those by relp, eap" in capsys.readouterr().err
