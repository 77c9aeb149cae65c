"""``kcircuits lab build | train`` as a user sees them."""

import json
from dataclasses import replace
from types import MappingProxyType

import pytest

from kcircuits.cli.main import main
from kcircuits.io.facts import load_facts
from kcircuits.io.manifest import load_manifest
from kcircuits.lab import build as builder
from kcircuits.lab import presets
from kcircuits.lab.presets import SMOKE
from kcircuits.lab.scratch import ScratchSpec

SCRATCH = ScratchSpec(
    n_layers=1, n_heads=2, d_model=16, n_helpers=4, n_controls=2, n_texts=1, n_epochs=1
)
SPEC = """
schema_version: 1
relations: [birthplace, profession]
people: {trained: {high: 2, low: 2}}
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A folder, with the smoke preset made tiny."""
    training = {name: replace(spec, n_epochs=1) for name, spec in SMOKE.training.items()}
    spec = tmp_path / "tiny.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    tiny = replace(SMOKE, base=SCRATCH, spec=str(spec), training=MappingProxyType(training))
    monkeypatch.setattr(presets, "PRESETS", {"smoke": tiny})
    return tmp_path / "lab"


def call(capsys, *args):
    code = main(["lab", *map(str, args)])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def build(capsys, lab, *args):
    return call(capsys, "build", "--preset", "smoke", "--out", lab, *args)


def test_build_then_train_ends_with_a_manifest(lab, capsys):
    code, out, _ = build(capsys, lab)
    told = f"{lab}: 6 facts, 20 documents\ngroups match: {lab}/matching.html\n"
    assert (code, out) == (0, told)
    assert "Matching report" in (lab / "matching.html").read_text(encoding="utf-8")
    assert json.loads((lab / "matching.json").read_text(encoding="utf-8"))["is_matched"]
    code, out, err = call(capsys, "train", "--out", lab, "--epochs", "2", "--lr", "0.01")
    assert code == 0
    manifest = load_manifest(lab / "checkpoints_manifest.yaml")
    assert manifest.epochs == ("ep0", "ep1", "ep2")
    assert manifest.run == "smoke-full"
    assert manifest.base_model == "scratch-0"
    assert len(load_facts(manifest.facts)) == 6
    lines = out.splitlines()
    assert lines[0].split() == [
        "epoch",
        "loss",
        "trained",
        "high",
        "trained",
        "low",
        "control",
        "none",
    ]
    assert [line.split()[0] for line in lines[1:4]] == ["ep0", "ep1", "ep2"]
    assert lines[-1] == f"wrote {lab / 'checkpoints_manifest.yaml'}"
    assert "tokens/s" in err
    assert "loss" in err


def test_json_and_quiet(lab, capsys):
    code, out, err = build(capsys, lab, "--json", "--quiet", "--seed", "5")
    built = json.loads(out)
    assert code == 0
    assert err == ""
    assert built["schema"] == "kcircuits.lab-build/1"
    assert (built["facts"], built["documents"]) == (6, 20)
    code, out, err = call(capsys, "train", "--out", lab, "--json", "--quiet", "--strategy", "lora")
    trained = json.loads(out)
    assert code == 0
    assert err == ""
    assert trained["schema"] == "kcircuits.lab-train/1"
    assert trained["run"] == "smoke-lora"
    assert [row["epoch"] for row in trained["rows"]] == ["ep0", "ep1"]
    assert trained["rows"][0]["loss"] is None


def test_one_benchmark_gives_many_runs(lab, capsys, tmp_path):
    build(capsys, lab)
    before = {p: p.stat().st_mtime_ns for p in lab.rglob("*") if p.is_file()}
    hashes = {}
    for strategy, seed in (("full", 0), ("full", 1), ("lora", 0)):
        to = tmp_path / f"{strategy}-{seed}"
        args = ["--out", lab, "--to", to, "--strategy", strategy, "--seed", seed, "--quiet"]
        code, out, _ = call(capsys, "train", *args, "--batch-size", "3", "--precision", "bfloat16")
        assert (code, out.splitlines()[-1]) == (0, f"wrote {to / 'checkpoints_manifest.yaml'}")
        manifest = load_manifest(to / "checkpoints_manifest.yaml")
        assert [c.step for c in manifest] == [0, 7]  # 20 documents in batches of 3
        assert len(load_facts(manifest.facts)) == 6
        hashes[strategy, seed] = manifest["ep1"].sha256
        told = json.loads((to / "training.json").read_text(encoding="utf-8"))
        assert told["precision"] == "bfloat16"
        assert (told["request"]["batch_size"], told["request"]["seed"]) == (3, seed)
    assert len(set(hashes.values())) == 3
    assert before == {p: p.stat().st_mtime_ns for p in lab.rglob("*") if p.is_file()}


def test_a_skill_that_is_none_is_refused_before_training(lab, capsys):
    build(capsys, lab)
    code, _, err = call(capsys, "train", "--out", lab, "--skills", "copying,juggling")
    assert code == 2
    assert "juggling" in err
    assert not (lab / "checkpoints").exists()


def test_building_again_changes_nothing(lab, capsys):
    build(capsys, lab)
    before = {p: p.stat().st_mtime_ns for p in lab.rglob("*") if p.is_file()}
    assert build(capsys, lab)[0] == 0
    assert before == {p: p.stat().st_mtime_ns for p in lab.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["build", "--preset", "huge"], 2, "there is no preset 'huge'"),
        (["build", "--preset", "smoke", "--seed", "-1"], 2, "seed is -1; expected 0 or more"),
        (["build", "--seed", "one"], 2, "--seed"),
        (["build", "--preset", "smoke", "--model", "./nowhere"], 2, "./nowhere"),
        (["train"], 2, "no benchmark in this folder"),
        (["retrain"], 2, "retrain"),
    ],
)
def test_bad_requests_are_told(lab, capsys, args, code, message):
    got, out, err = call(capsys, *args, *(["--out", lab] if args[0] != "retrain" else []))
    assert got == code
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strategy", "magic"], "there is no strategy 'magic'"),
        (["--epochs", "0"], "n_epochs is 0; expected 1 or more"),
        (["--lr", "-1"], "lr is -1; expected 0 or a number below 1"),
        (["--lr", "fast"], "--lr"),
        (["--seed", "-3"], "seed is -3"),
        (["--batch-size", "0"], "batch_size is 0; expected 1 or more"),
        (["--precision", "int4"], "precision 'int4' does not exist"),
        (["--report-to", "paper"], "there is no tracker 'paper'"),
    ],
)
def test_bad_training_settings_are_told(lab, capsys, args, message):
    build(capsys, lab)
    code, _, err = call(capsys, "train", "--out", lab, *args)
    assert code == 2
    assert message in err
    assert not (lab / "checkpoints").exists()


def test_other_requests_in_the_same_folder_are_refused(lab, capsys):
    build(capsys, lab)
    code, _, err = build(capsys, lab, "--seed", "1")
    assert code == 2
    assert "this folder was built with seed 0, not 1" in err
    assert call(capsys, "train", "--out", lab, "--quiet")[0] == 0
    code, _, err = call(capsys, "train", "--out", lab, "--strategy", "lora")
    assert code == 2
    assert "this folder holds a run with run 'smoke-full', not 'smoke-lora'" in err


@pytest.mark.parametrize("verb", ["lab build", "demo"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(lab, capsys, monkeypatch, verb):
    monkeypatch.setattr(builder, "make_base", lambda *_, **__: pytest.fail("worked for nothing"))
    lab.write_text("a file")
    code = main([*verb.split(), "--preset", "smoke", "--out", str(lab), "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert (code, error["code"], error["file"]) == (7, "io", str(lab))


@pytest.mark.parametrize(
    ("strategy", "message"),
    [("rag", "there is no strategy 'rag'"), ("rag-gold", "rag-gold trains nothing")],
)
def test_the_demo_tells_of_a_strategy_before_the_work(lab, capsys, strategy, message):
    code = main(["demo", "--preset", "smoke", "--strategy", strategy, "--out", str(lab), "--json"])
    assert code == 2
    assert message in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not lab.exists()


@pytest.mark.parametrize("change", [{"base": 3}, {"request": {"preset": "smoke"}}, {"request": []}])
def test_a_record_of_another_shape_is_told(lab, capsys, change):
    lab.mkdir()
    request = {"preset": "smoke", "seed": 0, "spec": {"tolerances": {}}}
    good = {"base": "model", "base_name": "b", "request": request}
    (lab / "lab.json").write_text(json.dumps(good | change))
    code, _, err = call(capsys, "train", "--out", lab)
    assert code == 3
    assert "cannot be read" in err


def test_a_damaged_record_is_told(lab, capsys):
    build(capsys, lab)
    (lab / "lab.json").write_text("{}")
    code, _, err = call(capsys, "train", "--out", lab)
    assert code == 3
    assert "this record of a benchmark cannot be read" in err
