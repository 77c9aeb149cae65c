"""``kcircuits evaluate``: its numbers are those of the Python functions on the same circuits."""

import json
import math
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.cli.main import main
from kcircuits.core.ablation import ABLATIONS
from kcircuits.core.bootstrap import (
    bootstrap_faithfulness,
    bootstrap_mean,
    bootstrap_ratio,
)
from kcircuits.core.random_circuits import random_circuits
from kcircuits.engine.metrics import DEFAULT_METRIC, METRICS
from kcircuits.evaluation.judge import Judge
from kcircuits.study.evaluation.page import evaluation_page
from kcircuits.study.run import Run
from tests.cli.test_run_verb import WORDS, fact, write_tokenizer

N_FACTS, N_EDGES, UNKNOWN = 6, 40, "f5"


def write_model(folder: Path, seed: int) -> None:
    """A random Llama whose answers depend on its prompts strongly enough to be judged."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        initializer_range=0.4,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)


def answered(facts: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The facts with the answers that the model gives them rather than to the corrupt subject."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def logits(text: str) -> Any:
        tokens = torch.tensor([[WORDS.index(word) for word in text.split()]])
        with torch.no_grad():
            return model(tokens).logits[0, -1]

    for one in facts:
        prompts = one["prompts"]
        gaps = torch.stack([logits(p["clean"]) - logits(p["corrupt"]) for p in prompts])
        order = gaps.mean(0).div(gaps.std(0) + 0.5).argsort().tolist()
        best, worst = (order[-1], order[0]) if one["id"] != UNKNOWN else (order[0], order[-1])
        for prompt in prompts:
            prompt |= {"target": f" {WORDS[best]}", "foil": f" {WORDS[worst]}"}
    return facts


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run by two methods; all facts but one are known at ep0."""
    root = tmp_path_factory.mktemp("judged")
    for epoch in range(2):
        write_model(root / f"ep{epoch}", epoch)
    facts = answered([fact(i) for i in range(N_FACTS)], root / "ep0")
    facts[1]["subject"] = facts[0]["subject"]
    (root / "facts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in facts))
    (root / "checkpoints_manifest.yaml").write_text(
        "schema_version: 1\nrun: judged\nbase_model: tiny\nfacts: facts.jsonl\ncheckpoints:\n"
        "  - {id: ep0, epoch: 0, path: ep0}\n  - {id: ep1, epoch: 1, path: ep1}\n"
    )
    for options in (
        ["--method", "edge-pruning", "--param", "steps=12", "--param", "candidates=0.6"],
        ["--method", "eap"],
    ):
        where = ["--manifest", str(root / "checkpoints_manifest.yaml")]
        assert main(["run", "--quiet", "--n-edges", str(N_EDGES), *options, *where]) == 0
    return root


@pytest.fixture
def evaluate(study: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*args: str, manifest: Path = study / "checkpoints_manifest.yaml") -> tuple[int, Any]:
        capsys.readouterr()
        code = main(["evaluate", *args, "--quiet", "--manifest", str(manifest)])
        output = capsys.readouterr()
        return code, json.loads(output.out) if "--json" in args else output

    return call


@pytest.fixture(scope="module")
def model(study: Path) -> Any:
    return kc.load_model(kc.load_manifest(study / "checkpoints_manifest.yaml")["ep0"])


@pytest.fixture(scope="module")
def batch(study: Path, model: Any) -> Any:
    return kc.tokenize(model, kc.load_facts(study / "facts.jsonl"))


@pytest.fixture(scope="module")
def scores(model: Any, batch: Any) -> Any:
    return kc.attribute(model, batch, "eap")


def assert_same(rows: list[dict[str, Any]], judged: Any) -> None:
    """Rows of ``--json`` are the numbers of ``kc.evaluate``."""
    fields = {
        "metric": "metric",
        "clean_metric": "clean_metric",
        "empty_metric": "empty_metric",
        "hit_at_10": "hit_at_k",
        "target_rank": "target_rank",
        "faithfulness": "faithfulness",
    }
    assert [row["fact"] for row in rows] == list(judged.fact_ids)
    assert [row["is_gated"] for row in rows] == judged.is_gated.tolist()
    for field, attribute in fields.items():
        found = [math.nan if row[field] is None else row[field] for row in rows]
        np.testing.assert_allclose(found, getattr(judged, attribute), rtol=1e-4, atol=1e-5)


def test_numbers_are_those_of_the_python_functions(
    evaluate: Any, model: Any, batch: Any, scores: Any
) -> None:
    code, told = evaluate("ep0", "--json")
    assert code == 0
    assert told["schema"] == "kcircuits.evaluate/1"
    assert (told["epoch"], told["method"], told["n_edges"]) == ("ep0", "eap", N_EDGES)
    assert (told["metric"], told["unit"]) == ("logit-difference", "logits")
    assert (told["ablation"], told["prompts"]) == ("corrupt", "evaluation")
    circuits = kc.select(scores, n_edges=N_EDGES)
    judged = kc.evaluate(model, batch, circuits)
    assert judged.is_gated.tolist() == [False] * 5 + [True]
    assert_same(told["facts"], judged)
    assert [row["edges"] for row in told["facts"]] == circuits.n_edges.tolist()
    of_ratios, of_means = told["set"]
    assert (of_ratios["facts"], of_ratios["subjects"]) == (5, 4)
    assert of_ratios["faithfulness"] == pytest.approx(judged.mean_of_ratios, rel=1e-4)
    assert of_means["faithfulness"] == pytest.approx(judged.ratio_of_means, rel=1e-4)


def test_intervals_are_over_prompts_and_over_subjects(
    evaluate: Any, study: Path, model: Any, batch: Any, scores: Any
) -> None:
    _, told = evaluate("first", "--json", "--seed", "3")
    circuits = kc.select(scores, n_edges=N_EDGES)
    judge = Judge(
        model, batch, circuits.fact_ids, circuits.topology,
        metric="logit-difference", ablation="corrupt", memory=2**30,
    )  # fmt: skip
    by_prompt = judge.run(1, lambda _: circuits.mask)
    judged = kc.evaluate(model, batch, circuits)
    wanted = bootstrap_faithfulness(
        by_prompt.circuit[:, 0], by_prompt.clean, by_prompt.empty, judge.batch.fact_idx,
        N_FACTS, seed=3, is_gated=judged.is_gated,
    )  # fmt: skip
    for i, row in enumerate(told["facts"]):
        assert row["prompts"] == 2
        assert (row["low"] is None) == (row["fact"] == UNKNOWN or not np.isfinite(wanted.low[i]))
        if row["low"] is not None:
            assert row["low"] == pytest.approx(wanted.low[i], rel=1e-3)
            assert row["high"] == pytest.approx(wanted.high[i], rel=1e-3)
            assert row["low"] <= row["faithfulness"] <= row["high"]
    subjects = np.array([one.subject for one in kc.load_facts(study / "facts.jsonl")])
    gap = np.where(judged.is_gated, np.nan, judged.clean_metric - judged.empty_metric)
    intervals = (
        bootstrap_mean(judged.faithfulness, subjects, seed=3),
        bootstrap_ratio(judged.metric - judged.empty_metric, gap, subjects, seed=3),
    )
    for row, interval in zip(told["set"], intervals, strict=True):
        for end in ("low", "high"):
            assert row[end] == pytest.approx(float(getattr(interval, end)), rel=1e-3)


@pytest.mark.parametrize(
    ("ablation", "metric"),
    [
        (ablation, metric)
        for ablation, metric in product(ABLATIONS[1:], METRICS)
        if ablation != "optimal" or metric == DEFAULT_METRIC  # learning takes seconds
    ],
)
def test_another_ablation_and_metric(
    evaluate: Any, model: Any, batch: Any, scores: Any, ablation: str, metric: str
) -> None:
    """The same circuits, judged in another way."""
    _, told = evaluate("ep0", "--json", "--ablation", ablation, "--metric", metric)
    circuits = kc.select(scores, n_edges=N_EDGES)
    judged = kc.evaluate(model, batch, circuits, ablation=ablation, metric=metric)
    assert (told["ablation"], told["metric"]) == (ablation, metric)
    assert_same(told["facts"], judged)


def test_another_size_and_other_facts(evaluate: Any, model: Any, batch: Any, scores: Any) -> None:
    _, told = evaluate("ep0", "--json", "--n-edges", "12", "--facts", "f3,f1")
    judged = kc.evaluate(
        model, batch.facts(["f1", "f3"]), kc.select(kc.attribute(model, batch.facts(["f1", "f3"]),
        "eap"), n_edges=12),
    )  # fmt: skip
    assert told["n_edges"] == 12
    assert_same(told["facts"], judged)
    _, told = evaluate("ep0", "--json", "--fraction", "0.2")
    assert told["n_edges"] == int(0.2 * scores.topology.n_edges)
    assert told["fraction"] == pytest.approx(told["n_edges"] / scores.topology.n_edges)
    assert_same(
        told["facts"], kc.evaluate(model, batch, kc.select(scores, n_edges=told["n_edges"]))
    )


def test_baselines_are_means_over_random_circuits(
    evaluate: Any, model: Any, batch: Any, scores: Any
) -> None:
    _, told = evaluate("ep0", "--json", "--baseline", "3", "--seed", "5")
    circuits = kc.select(scores, n_edges=N_EDGES)
    assert told["draws"] == 3
    for match in ("size", "layer", "degree"):
        drawn = [
            kc.evaluate(model, batch, draw)
            for draw in random_circuits(circuits, seed=5, n_draws=3, match=match)
        ]
        ratios = np.array([judged.faithfulness for judged in drawn])
        found = [math.nan if row[match] is None else row[match] for row in told["facts"]]
        np.testing.assert_allclose(found, ratios.mean(0), rtol=1e-3, atol=1e-5)
        of_ratios, of_means = (row[match] for row in told["set"])
        assert of_ratios == pytest.approx(np.mean([j.mean_of_ratios for j in drawn]), abs=1e-4)
        assert of_means == pytest.approx(np.mean([j.ratio_of_means for j in drawn]), abs=1e-4)
    assert "size" not in evaluate("ep0", "--json")[1]["facts"][0]


def test_curve_gives_the_areas(evaluate: Any, model: Any, batch: Any, scores: Any) -> None:
    """CMD over circuits by |score|, CPR over circuits by importance."""
    _, told = evaluate("ep0", "--json", "--curve")
    curves = {
        by: kc.faithfulness_curve(model, batch, scores, by=by) for by in ("size", "importance")
    }
    wanted = {
        "cpr": curves["importance"].set_areas(),
        "cmd": curves["size"].set_areas(),
    }
    for row in told["areas"]:
        name = f"{row['area']}_{row['set'].replace(' ', '_')}"
        assert row["value"] == pytest.approx(wanted[row["area"]][name], rel=1e-3)
        assert row["low"] <= row["high"]
    assert len(told["areas"]) == 4
    for area, by in (("cpr", "importance"), ("cmd", "size")):
        found = [math.nan if row[area] is None else row[area] for row in told["facts"]]
        np.testing.assert_allclose(found, getattr(curves[by], area)(), rtol=1e-3)
        rows = [row for row in told["curve"] if row["by"] == by]
        assert len(rows) == 10 * N_FACTS
        for row, want in zip(rows, curves[by].rows(), strict=True):
            assert (row["fact"], row["size"], row["n_edges"]) == (
                want["fact"], want["size"], want["n_edges"],
            )  # fmt: skip
            assert row["metric"] == pytest.approx(want["metric"], rel=1e-3, abs=1e-5)


def test_pruned_circuits_are_judged_like_others(
    evaluate: Any, study: Path, model: Any, batch: Any
) -> None:
    """What the run kept of a pruning is judged as the run judged it."""
    _, told = evaluate("ep0", "--json", "--method", "edge-pruning")
    assert told["method"] == "edge-pruning"
    run = kc.open_run(study / "runs" / "judged", method="edge-pruning")
    cells = run.cells("ep0")
    for row, cell in zip(told["facts"], cells, strict=True):
        assert row["fact"] == cell.fact_id
        assert row["edges"] == cell.values["n_circuit_edges"]
        assert (cell.values["faithfulness"] is None) == (row["fact"] == UNKNOWN)
        for name in ("metric", "clean_metric", "faithfulness"):
            wanted = cell.values[name]
            approx = None if wanted is None else pytest.approx(wanted, rel=1e-4, abs=1e-5)
            assert row[name] == approx


def test_text_shows_facts_set_and_areas(evaluate: Any) -> None:
    code, output = evaluate("ep0", "--curve", "--baseline", "2")
    assert code == 0
    text = output.out
    for part in ("ep0  ", "eap (metric logit-difference)", f"top {N_EDGES} of ",
                 "logit-difference (logits) on 2 evaluation prompts a fact", "unknown",
                 "All facts  (5 facts about 4 subjects)", "mean of ratios", "ratio of means",
                 "CPR   ratio of means", "CMD   mean over facts"):  # fmt: skip
        assert part in text, part
    header = next(line for line in text.splitlines() if line.strip().startswith("fact"))
    names = "fact edges F interval Hit@10 rank circuit model empty size layer degree CPR CMD"
    assert header.split() == names.split()
    (unknown,) = (line for line in text.splitlines() if line.strip().startswith(UNKNOWN))
    assert unknown.split()[2:4] == ["unknown", "-"]
    assert all(float(value) for value in unknown.split()[6:9])  # the raw values are there
    assert "\x1b" not in text


def test_html_writes_a_page(evaluate: Any, tmp_path: Path, study: Path) -> None:
    file = tmp_path / "page.html"
    code, output = evaluate("ep0", "--html", str(file), "--curve", "--baseline", "1")
    assert code == 0
    assert str(file) in output.out
    page = file.read_text(encoding="utf-8")
    for part in ("Circuit evaluation", "Fact by fact", "Faithfulness over size", "not known"):
        assert part in page
    run = kc.open_run(study / "runs" / "judged")
    assert "Faithfulness over size" not in evaluation_page(run.evaluate("ep0"))


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("ep9",), 2, "'ep9' means no checkpoint"),
        (("ep0", "--facts", "nobody"), 2, "'nobody' is neither a fact nor a stratum"),
        (("ep0", "--metric", "loss"), 2, "there is no metric 'loss'"),
        (("ep0", "--ablation", "noise"), 2, "ablation is 'noise'; expected one of corrupt"),
        (("ep0", "--method", "gim"), 2, "no results by 'gim'"),
        (("ep0", "--n-edges", "9", "--fraction", "0.1"), 2, "not allowed with"),
        (("ep0", "--n-edges", "99999"), 2, "n_edges is 99999"),
        (("ep0", "--fraction", "2"), 2, "fraction is 2.0"),
        (("ep0", "--baseline", "-1"), 2, "n_draws is -1"),
        (("ep0", "--memory", "much"), 2, "memory is 'much'"),
        (("ep0", "--method", "edge-pruning", "--curve"), 2, "trains circuits of one size"),
        (("ep0", "--method", "edge-pruning", "--n-edges", "9"), 2, "trains circuits of one size"),
        ((), 2, "required: REF"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    evaluate: Any, args: tuple[str, ...], code: int, message: str
) -> None:
    found, output = evaluate(*args)
    assert found == code
    assert message in output.err
    found, told = evaluate(*args, "--json")
    assert found == code
    assert message in told["error"]["message"]


def test_a_checkpoint_that_changed_is_refused(evaluate: Any, study: Path, tmp_path: Path) -> None:
    """Scores of one checkpoint are not judged on another."""
    shutil.copytree(study, tmp_path / "study")
    shutil.rmtree(tmp_path / "study" / "ep0")
    shutil.copytree(study / "ep1", tmp_path / "study" / "ep0")
    manifest = tmp_path / "study" / "checkpoints_manifest.yaml"
    code, told = evaluate("ep0", "--json", manifest=manifest)
    assert code == 4
    assert "is not the one that the run has scored" in told["error"]["message"]
    assert "kcircuits run --epochs ep0" in told["error"]["hint"]


def test_facts_without_numbers_are_left_out_and_told(
    evaluate: Any, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run.rows

    def rows(self: Run, epoch: str) -> Any:
        found = whole(self, epoch)
        return found | {"f2": replace(found["f2"], is_failed=True, message="m0->m1: nan")}

    monkeypatch.setattr(Run, "rows", rows)
    code, told = evaluate("ep0", "--json")
    assert code == 0
    assert told["left_out"] == ["f2"]
    assert [row["fact"] for row in told["facts"]] == ["f0", "f1", "f3", "f4", "f5"]
    _, output = evaluate("ep0")
    assert "1 facts have no numbers at ep0, e.g. 'f2': left out" in output.err


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from kcircuits.cli.main import main; "
        "assert main(['evaluate', '--help']) == 0; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
