"""``kcircuits transfer``: its numbers are those of the Python functions, pair by pair."""

import json
import math
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.analysis.overlap.halves import half_members, split_halves
from kcircuits.cli.main import main
from kcircuits.core.random_circuits import random_circuits
from kcircuits.study.transfer.compute import transfer_run
from kcircuits.study.transfer.page import transfer_page
from tests.cli.test_evaluate_verb import UNKNOWN, answered, write_model
from tests.cli.test_run_verb import fact

N_FACTS, N_EDGES, EPOCHS = 6, 40, ("ep0", "ep1", "ep2")
Call = Callable[..., tuple[int, Any]]
# Dies when the second checkpoint's file is about to get its name.
KILLED = """
import os, signal, sys
from pathlib import Path
from kcircuits.cli.main import main
whole, calls = Path.replace, 0
def replace(self, target):
    global calls
    calls += 1
    if calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, target)
Path.replace = replace
sys.exit(main(["transfer", "--quiet"]))
"""
ANSWERS_WITHOUT_TORCH = """
import sys
from kcircuits.cli.main import main
assert main(["transfer", "--quiet", "--json", "--by", "half"]) == 0
assert not {"torch", "transformers"} & set(sys.modules)
"""


def write_changed(source: Path, target: Path, share: float, seed: int) -> None:
    """The model of another folder, each weight off by a share of its own size."""
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(source, target)
    model = AutoModelForCausalLM.from_pretrained(source)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for weight in model.parameters():
            weight *= 1 + share * torch.randn(weight.shape, generator=generator)
        model.save_pretrained(target)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over three epochs that change a little; two facts are of one subject."""
    root = tmp_path_factory.mktemp("scored")
    write_model(root / "ep0", 0)
    write_changed(root / "ep0", root / "ep1", 0.06, 1)
    write_changed(root / "ep1", root / "ep2", 0.06, 2)
    facts = answered([fact(i) for i in range(N_FACTS)], root / "ep0")
    facts[2]["subject"] = facts[0]["subject"]
    (root / "facts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in facts))
    checkpoints = "".join(f"  - {{id: ep{i}, epoch: {i}, path: ep{i}}}\n" for i in range(3))
    (root / "checkpoints_manifest.yaml").write_text(
        "schema_version: 1\nrun: moved\nbase_model: tiny\nfacts: facts.jsonl\ncheckpoints:\n"
        + checkpoints
    )
    where = ["--manifest", str(root / "checkpoints_manifest.yaml")]
    assert main(["run", "--quiet", "--n-edges", str(N_EDGES), "--method", "eap", *where]) == 0
    return root


@pytest.fixture(scope="module")
def study(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a whole transfer in it."""
    root = tmp_path_factory.mktemp("study") / "moved"
    shutil.copytree(scored, root)
    kc.open_run(root / "runs" / "moved").transfer(by="half", n_draws=2, seed=3)
    return root


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    shutil.copytree(study, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def transfer(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(root: Path, *args: str) -> tuple[int, Any]:
        capsys.readouterr()
        manifest = str(root / "checkpoints_manifest.yaml")
        code = main(["transfer", *args, "--quiet", "--manifest", manifest])
        output = capsys.readouterr()
        return code, json.loads(output.out) if "--json" in args else output

    return call


@pytest.fixture(scope="module")
def told(study: Path) -> dict[str, Any]:
    found = kc.open_run(study / "runs" / "moved").transfer(by="half", n_draws=2, seed=3)
    assert found.n_computed == 0
    return found.to_json()


@pytest.fixture(scope="module")
def models(study: Path) -> dict[str, Any]:
    manifest = kc.load_manifest(study / "checkpoints_manifest.yaml")
    return {epoch: kc.load_model(manifest[epoch]) for epoch in EPOCHS}


@pytest.fixture(scope="module")
def batch(study: Path, models: dict[str, Any]) -> Any:
    return kc.tokenize(models["ep0"], kc.load_facts(study / "facts.jsonl"))


@pytest.fixture(scope="module")
def scores(models: dict[str, Any], batch: Any) -> dict[str, Any]:
    return {e: kc.attribute(m, batch, "eap", reduce="prompt") for e, m in models.items()}


@pytest.fixture(scope="module")
def circuits(scores: dict[str, Any]) -> dict[str, kc.Circuits]:
    return {epoch: kc.select(found, n_edges=N_EDGES) for epoch, found in scores.items()}


def numbers(values: list[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values])


def row_of(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (row,) = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
    return row


def test_every_pair_equals_an_evaluation_of_its_own(
    told: dict[str, Any], models: dict[str, Any], batch: Any, circuits: dict[str, kc.Circuits]
) -> None:
    """The slow twin: for each two epochs ``kc.evaluate`` of one's circuits on the other's model."""
    assert told["from"] == told["to"] == list(EPOCHS)
    for s, source in enumerate(EPOCHS):
        for t, target in enumerate(EPOCHS):
            judged = {k: kc.evaluate(models[target], batch, circuits[source], k=k) for k in (1, 10)}
            for row, name in zip(told["facts"], judged[1].fact_ids, strict=True):
                one = judged[1].row(name)
                assert row["fact"] == name
                is_gated = math.isnan(one["faithfulness"])
                assert row["is_known_to"][t] == (not is_gated)
                found = row["faithfulness"][s][t]
                assert (
                    found is None
                    if is_gated
                    else found == pytest.approx(one["faithfulness"], rel=1e-4, abs=1e-5)
                )
                assert row["metric"][s][t] == pytest.approx(one["metric"], rel=1e-4, abs=1e-5)
                assert row["target_rank"][s][t] == one["target_rank"]
                assert row["hit_at_1"][s][t] == one["hit_at_k"]
                assert row["hit_at_10"][s][t] == judged[10].row(name)["hit_at_k"]
                for end in ("clean_metric", "empty_metric"):
                    assert row[end][t] == pytest.approx(one[end], rel=1e-4, abs=1e-5)
    changed = [row["faithfulness"][0][1] != row["faithfulness"][1][1] for row in told["facts"][:5]]
    assert sum(changed) >= 3  # else the twin could not tell rows from columns


def test_means_and_losses_are_of_facts_known_at_both(
    told: dict[str, Any], models: dict[str, Any], batch: Any, circuits: dict[str, kc.Circuits]
) -> None:
    own = {e: kc.evaluate(models[e], batch, circuits[e]) for e in EPOCHS}
    assert any(known.is_gated.tolist() != own["ep0"].is_gated.tolist() for known in own.values())
    for source in EPOCHS:
        for target in EPOCHS:
            kept = ~own[source].is_gated & ~own[target].is_gated
            moved = kc.evaluate(models[target], batch, circuits[source])
            here = own[target]
            gap = (here.clean_metric - here.empty_metric)[kept]
            gained = (moved.metric - here.empty_metric)[kept]
            lost = (here.metric - moved.metric)[kept]
            row = row_of(told["rows"], **{"from": source, "to": target, "set": "ratio of means"})
            assert (row["facts"], row["gated"], row["failed"]) == (kept.sum(), (~kept).sum(), 0)
            assert row["faithfulness"] == pytest.approx(gained.sum() / gap.sum(), rel=1e-4)
            assert row["loss"] == pytest.approx(lost.sum() / gap.sum(), rel=1e-3, abs=1e-6)
            row = row_of(told["rows"], **{"from": source, "to": target, "set": "mean of ratios"})
            assert row["faithfulness"] == pytest.approx((gained / gap).mean(), rel=1e-4)
            assert row["loss"] == pytest.approx((lost / gap).mean(), rel=1e-3, abs=1e-6)
    unknown = next(row for row in told["facts"] if row["fact"] == UNKNOWN)
    assert unknown["is_known"] == unknown["is_known_to"] == [False] * 3
    assert unknown["faithfulness"][0] == [None] * 3
    assert all(value is not None for value in unknown["metric"][0])


def test_the_diagonal_is_evaluate(told: dict[str, Any], study: Path) -> None:
    run = kc.open_run(study / "runs" / "moved")
    for t, epoch in enumerate(EPOCHS):
        judged = run.evaluate(epoch, seed=3).to_json()
        found = numbers([row["faithfulness"][t][t] for row in told["facts"]])
        wanted = numbers([row["faithfulness"] for row in judged["facts"]])
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
        for set_row in judged["set"]:
            row = row_of(told["rows"], **{"from": epoch, "to": epoch, "set": set_row["set"]})
            for name in ("facts", "subjects"):
                assert row[name] == set_row[name]
            ends = [row[f"faithfulness{end}"] for end in ("", "_low", "_high")]
            assert ends == pytest.approx([set_row[n] for n in ("faithfulness", "low", "high")],
                                         rel=1e-3)  # fmt: skip
            assert [row[f"loss{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
            assert row["loss_both_ways"] == 0


def test_random_circuits_match_the_moved_ones(
    told: dict[str, Any], models: dict[str, Any], batch: Any, circuits: dict[str, kc.Circuits]
) -> None:
    for source, target in (("ep0", "ep1"), ("ep2", "ep0")):
        drawn = [
            kc.evaluate(models[target], batch, draw).metric
            for draw in random_circuits(circuits[source], seed=3, n_draws=2, match="layer")
        ]
        here, there = (kc.evaluate(models[e], batch, circuits[e]) for e in (target, source))
        kept = ~here.is_gated & ~there.is_gated
        gained = (np.mean(drawn, axis=0) - here.empty_metric)[kept]
        gap = (here.clean_metric - here.empty_metric)[kept]
        row = row_of(told["rows"], **{"from": source, "to": target, "set": "mean of ratios"})
        assert row["random"] == pytest.approx((gained / gap).mean(), rel=1e-3, abs=1e-5)


def test_half_circuits_are_of_half_the_discovery_prompts(
    told: dict[str, Any], models: dict[str, Any], batch: Any, scores: dict[str, Any],
    circuits: dict[str, kc.Circuits],
) -> None:  # fmt: skip
    sides = [members[0].tolist() for members in half_members(split_halves(4))]
    assert sorted(sides[0] + sides[1]) == [0, 1, 2, 3]
    for epoch in EPOCHS:
        metrics = []
        for side in sides:
            found = scores[epoch]
            assert found.prompt_idx is not None
            rows = np.isin(found.prompt_idx, side)
            part = kc.EdgeScores(
                values=found.values[rows], topology=found.topology, fact_ids=found.fact_ids,
                fact_idx=found.fact_idx[rows], prompt_idx=found.prompt_idx[rows],
                provenance=found.provenance,
            )  # fmt: skip
            half = kc.select(part, n_edges=N_EDGES)
            metrics.append(kc.evaluate(models[epoch], batch, half).metric)
        own = kc.evaluate(models[epoch], batch, circuits[epoch])
        kept, gap = ~own.is_gated, own.clean_metric - own.empty_metric
        values = ((np.mean(metrics, axis=0) - own.empty_metric) / gap)[kept]
        row = row_of(told["rows"], **{"from": epoch, "to": epoch, "set": "mean of ratios"})
        assert row["half"] == pytest.approx(values.mean(), rel=1e-4)
        assert row["half_loss"] == pytest.approx(row["own"] - row["half"], abs=1e-9)


def stratum_circuit(
    scores: Any, facts: list[Any], stratum: str, without: str, known: np.ndarray
) -> np.ndarray:
    """By hand: the top n of the mean normalised scores of a stratum without one subject."""
    mean = scores.mean_by_fact()
    inside = [
        np.abs(mean.values[i]).sum() ** -1.0 * mean.values[i].astype(np.float64)
        for i, one in enumerate(facts)
        if one.strata["half"] == stratum and one.subject != without and known[i]
    ]
    total = sum(inside) / len(inside)
    found = kc.EdgeScores(
        values=total[None], topology=mean.topology, fact_ids=("all",), fact_idx=np.array([0]),
        provenance=mean.provenance,
    )  # fmt: skip
    return kc.select(found, n_edges=N_EDGES).mask[0]


def test_strata_are_judged_without_the_own_subject(
    told: dict[str, Any], study: Path, models: dict[str, Any], batch: Any, scores: dict[str, Any],
    circuits: dict[str, kc.Circuits],
) -> None:  # fmt: skip
    facts = list(kc.load_facts(study / "facts.jsonl"))
    for epoch in ("ep0", "ep2"):
        own = kc.evaluate(models[epoch], batch, circuits[epoch])
        known = ~own.is_gated
        for source in ("even", "odd"):
            masks = np.array(
                [stratum_circuit(scores[epoch], facts, source, one.subject, known) for one in facts]
            )
            moved = kc.evaluate(
                models[epoch],
                batch,
                kc.Circuits.from_mask(masks, circuits[epoch].topology, fact_ids=batch.fact_ids),
            )
            for target in ("even", "odd"):
                kept = known & np.array([one.strata["half"] == target for one in facts])
                row = row_of(
                    told["strata"],
                    **{"epoch": epoch, "from": source, "to": target, "set": "mean of ratios"},
                )
                assert row["facts"] == kept.sum()
                assert row["faithfulness"] == pytest.approx(
                    moved.faithfulness[kept].mean(), rel=1e-4
                )
                assert row["own"] == pytest.approx(own.faithfulness[kept].mean(), rel=1e-4)
                n_subjects = len(
                    {f.subject for f, k in zip(facts, known, strict=True)
                     if k and f.strata["half"] == source}
                )  # fmt: skip
                assert row["circuit_entities"] == n_subjects - (source == target)


def test_lines_follow_the_matrix(told: dict[str, Any]) -> None:
    """Before and after are its first and last row; the best one's epochs are named."""
    for line, source in (("before", "ep0"), ("after", "ep2")):
        for epoch in EPOCHS:
            for way in ("ratio of means", "mean of ratios"):
                row = row_of(told["lines"], line=line, to=epoch, set=way)
                cell = row_of(told["rows"], **{"from": source, "to": epoch, "set": way})
                assert row["chosen"] == {source: 1.0}
                assert {k: row[k] for k in cell if k in row} == {
                    k: cell[k] for k in cell if k in row
                }
    for line in ("best by knowledge", "best by faithfulness"):
        row = row_of(told["lines"], line=line, to="ep2", set="ratio of means")
        assert sum(row["chosen"].values()) == pytest.approx(1)
        assert row["faithfulness_low"] <= row["faithfulness"] <= row["faithfulness_high"]


def test_a_second_call_computes_only_what_is_missing(scored: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(scored, root)
    run = kc.open_run(root / "runs" / "moved")
    first = run.transfer(sources=["ep0"], targets=["ep1"], n_draws=0)
    # the moved, the own and two half circuits of each fact
    assert first.n_computed == 4 * N_FACTS
    again = run.transfer(sources=["ep0"], targets=["ep1"], n_draws=0)
    assert (again.n_computed, again.to_json()) == (0, first.to_json())
    more = run.transfer(sources=["ep0", "ep2"], targets=["ep1"], n_draws=0)
    assert more.n_computed == N_FACTS
    assert more.to_json()["rows"][:2] == first.to_json()["rows"]
    assert run.transfer(sources=["ep0"], targets=["ep1"], n_draws=1).n_computed == N_FACTS
    assert run.transfer(sources=["ep0"], targets=["ep1"], n_draws=3).n_computed == 2 * N_FACTS
    few = ["f1", "f3"]
    assert run.transfer(targets=["ep2"], fact_ids=few, n_draws=0).n_computed == 5 * 2
    # the stratum circuits are others where other facts shape them
    assert run.transfer(targets=["ep2"], n_draws=0).n_computed == 5 * (N_FACTS - 2)
    zero = run.transfer(sources=["ep0"], targets=["ep1"], n_draws=0, ablation="zero")
    assert zero.n_computed == 4 * N_FACTS
    assert len(list((root / "runs/moved/transfer").glob("*.json"))) == 3


def test_a_killed_transfer_goes_on_to_the_same_files(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("killed", "whole"):
        shutil.copytree(scored, tmp_path / name)
    folders = {name: tmp_path / name / "runs/moved/transfer" for name in ("killed", "whole")}
    done = subprocess.run(
        [sys.executable, "-c", KILLED], check=False, cwd=tmp_path / "killed", capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(list(folders["killed"].glob("*.json"))) == 1
    assert len(list(folders["killed"].glob(".writing-*"))) == 1
    for name in ("killed", "whole"):
        monkeypatch.chdir(tmp_path / name)
        assert main(["transfer", "--quiet"]) == 0
    found = {
        name: {file.name: file.read_bytes() for file in folder.iterdir()}
        for name, folder in folders.items()
    }
    assert len(found["whole"]) == 4  # three checkpoints and the lock
    assert found["killed"] == found["whole"]


def test_reading_needs_no_torch_and_no_checkpoint(copy: Path) -> None:
    for epoch in EPOCHS:
        shutil.rmtree(copy / epoch)
    kc.open_run(copy / "runs" / "moved").transfer(by="half", n_draws=2, seed=3)
    code = ANSWERS_WITHOUT_TORCH.replace(
        '"--by", "half"', '"--by", "half", "--baseline", "2", "--seed", "3"'
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=copy, capture_output=True)


def test_text_shows_matrix_lines_and_strata(transfer: Call, study: Path) -> None:
    code, output = transfer(study, "--by", "half", "--baseline", "2", "--seed", "3")
    assert code == 0
    for part in (
        "moved  6 facts", "eap (metric logit-difference)", f"top {N_EDGES} of ",
        "Faithfulness (from: circuits; to: weights)", "Transfer loss: own minus moved",
        "Loss both ways: mean of the two directions",
        "On their own weights", "first known", "best by knowledge", "Between strata (half)",
    ):  # fmt: skip
        assert part in output.out, part
    assert "\x1b" not in output.out
    _, told = transfer(study, "--json", "--baseline", "2", "--seed", "3", "--from", "first,last")
    assert (told["schema"], told["from"]) == ("kcircuits.transfer/1", ["ep0", "ep2"])
    assert (told["by"], told["strata"], told["draws"]) == (None, [], 2)
    cell = row_of(told["rows"], **{"from": "ep2", "to": "ep1", "set": "ratio of means"})
    line = next(text for text in output.out.splitlines() if text.startswith("  ep2"))
    assert line.split()[2] == f"{cell['faithfulness']:.2f}"
    assert cell["loss_both_ways"] is None  # ep1 gives no circuits here
    assert row_of(told["rows"], **{"from": "ep2", "to": "ep0", "set": "ratio of means"})[
        "loss_both_ways"
    ] is not None  # fmt: skip


def test_html_writes_a_page(transfer: Call, study: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    options = ["--by", "half", "--baseline", "2", "--seed", "3"]
    code, output = transfer(study, "--html", str(file), *options)
    assert code == 0
    assert str(file) in output.out
    page = file.read_text(encoding="utf-8")
    for part in ("Circuit transfer", "What moving costs", "Between strata", "All pairs"):
        assert part in page
    found = kc.open_run(study / "runs/moved").transfer(seed=3, n_draws=0)
    assert "Between strata" not in transfer_page(found)
    assert len(found.plot().data) == 1  # no heat map of random circuits where there are none


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--from", "ep9"), "'ep9' means no checkpoint"),
        (("--to", "ep2..ep0"), "runs backwards"),
        (("--by", "colour"), "no fact has a stratum 'colour'"),
        (("--facts", "nobody"), "'nobody' is neither a fact nor a stratum"),
        (("--metric", "loss"), "there is no metric 'loss'"),
        (("--ablation", "noise"), "ablation is 'noise'"),
        (("--ablation", "optimal"), "cannot use the ablation optimal"),
        (("--baseline", "-1"), "n_draws is -1"),
        (("--seed", "-1"), "seed is -1"),
        (("--memory", "much", "--seed", "8"), "memory is 'much'"),
        (("--method", "gim"), "no results by 'gim'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    transfer: Call, study: Path, args: tuple[str, ...], message: str
) -> None:
    code, output = transfer(study, *args)
    assert code == 2
    assert message in output.err


def test_other_weights_and_other_architectures_are_refused(transfer: Call, copy: Path) -> None:
    """Before anything is written; a transfer that needs neither is read as before."""
    from transformers import LlamaConfig, LlamaForCausalLM

    before = {file: file.read_bytes() for file in (copy / "runs/moved/transfer").iterdir()}
    shutil.rmtree(copy / "ep1")
    shutil.copytree(copy / "ep0", copy / "ep1")
    config = LlamaConfig.from_pretrained(copy / "ep2")
    config.num_hidden_layers = 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LlamaForCausalLM(config).save_pretrained(copy / "ep2")
    for epoch in ("ep1", "ep2"):
        code, told = transfer(copy, "--json", "--to", epoch, "--seed", "9")
        assert code == 4
        assert "is not the one that the run has scored" in told["error"]["message"]
        assert f"kcircuits run --epochs {epoch}" in told["error"]["hint"]
    now = {file: file.read_bytes() for file in (copy / "runs/moved/transfer").iterdir()}
    assert now == before
    assert transfer(copy, "--json", "--baseline", "2", "--seed", "3")[0] == 0


def test_a_checkpoint_that_changes_meanwhile_leaves_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.read_bytes() for file in (copy / "runs/moved/transfer").iterdir()}
    run = kc.open_run(copy / "runs/moved")

    def change(*_: object) -> None:
        (copy / "ep1" / "config.json").write_text("{}")

    with pytest.raises(kc.KCircuitsError, match="is not the one that the run has scored"):
        run.transfer(targets=["ep1"], seed=9, progress=change)
    assert {file: file.read_bytes() for file in (copy / "runs/moved/transfer").iterdir()} == before


def test_a_flipped_bit_is_found(transfer: Call, copy: Path) -> None:
    file = sorted((copy / "runs/moved/transfer").glob("*.json"))[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    code, told = transfer(copy, "--json")
    assert code == 5
    assert "delete that file" in told["error"]["hint"]
    file.unlink()
    assert transfer(copy, "--json", "--to", "ep0", "--from", "ep0")[0] == 0


def test_a_fact_without_evaluation_prompts_is_refused(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kc.open_run(study / "runs/moved")
    monkeypatch.setattr(
        kc.Fact, "prompt_indices",
        lambda self, use: () if (self.id, use) == ("f2", "evaluation") else (0, 1),
    )  # fmt: skip
    with pytest.raises(kc.KCircuitsError, match="'f2' has no evaluation prompt"):
        transfer_run(run)


def test_mean_ablation_depends_on_all_facts_and_is_kept_apart(scored: Path, tmp_path: Path) -> None:
    """Its constants are means over the facts judged, so other facts are other numbers."""
    root = tmp_path / "copy"
    shutil.copytree(scored, root)
    run = kc.open_run(root / "runs" / "moved")
    options: dict[str, Any] = {"sources": ["ep0"], "targets": ["ep1"], "n_draws": 0,
                               "ablation": "mean"}  # fmt: skip
    whole = run.transfer(**options)
    few = run.transfer(fact_ids=["f1", "f3", "f4"], **options)
    assert few.n_computed == 4 * 3
    at = whole.epochs["ep1"].at
    assert not np.allclose(at.empty[[1, 3, 4]], few.epochs["ep1"].at.empty)
    model = kc.load_model(kc.load_manifest(root / "checkpoints_manifest.yaml")["ep1"])
    circuits = run.evaluate("ep0").circuits
    batch = kc.tokenize(model, kc.load_facts(root / "facts.jsonl"))
    judged = kc.evaluate(model, batch, circuits, ablation="mean")
    np.testing.assert_allclose(whole.epochs["ep1"].moved[0, 0], judged.metric, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(at.empty, judged.empty_metric, rtol=1e-4, atol=1e-5)
    assert run.transfer(**options).n_computed == 0


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from kcircuits.cli.main import main; "
        "assert main(['transfer', '--help']) == 0; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
