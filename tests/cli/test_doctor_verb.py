"""``kcircuits doctor``: what is well is called so, what is not has a remedy and an exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kcircuits.cli.main import main
from kcircuits.study import health
from kcircuits.study.controls import weight_noise
from kcircuits.study.health import version_finding
from tests.controls.knowing_run import write_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny model, with all its cells."""
    return write_run(tmp_path_factory.mktemp("doctored")).parent


@pytest.fixture
def study(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, and to stand in."""
    shutil.copytree(finished, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*args: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = main(["doctor", "--json", "--quiet", *args])
        return code, json.loads(capsys.readouterr().out)

    return call


def states(document: dict[str, Any]) -> dict[str, str]:
    return {row["what"]: row["state"] for row in document["findings"]}


@pytest.mark.usefixtures("study")
def test_a_sound_run_is_found_well(doctor: Any) -> None:
    code, document = doctor()
    assert code == 0
    assert document["schema"] == "kcircuits.doctor/1"
    found = states(document)
    for what in ("python", "torch", "transformers", "transformer-lens", "device", "store",
                 "libraries of the run", "checkpoints of the run", "facts of the run"):  # fmt: skip
        assert found[what] == "ok", what
    texts = {row["found"]: row for row in document["findings"]}
    unverified = texts["unverified, since the manifest declares no sha256: ep0"]
    assert unverified["state"] == "warning"
    assert unverified["remedy"]
    assert all(row["remedy"] for row in document["findings"] if row["state"] != "ok")


def test_a_version_out_of_range_is_a_problem(
    study: Path, doctor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = health.metadata.version
    monkeypatch.setattr(
        health.metadata, "version", lambda n: "1.0" if n == "torch" else installed(n)
    )
    code, document = doctor()
    assert code == 10
    assert document["error"]["code"] == "doctor"
    row = next(row for row in document["findings"] if row["what"] == "torch")
    assert row["state"] == "problem"
    assert row["remedy"] == 'pip install "torch>=2.6"'
    assert states(document)["libraries of the run"] == "warning"


@pytest.mark.parametrize(
    ("version", "supported", "state"),
    [
        ("3.9.0", ">=3.9,<5", "ok"),
        ("4.0.0rc1", ">=3.9,<5", "ok"),
        ("5.0", ">=3.9,<5", "problem"),
        ("3.8.9", ">=3.9,<5", "problem"),
        ("2.13.0+cpu", ">=2.6", "ok"),
        ("7", "", "ok"),
    ],
)
def test_versions_are_compared_as_versions(version: str, supported: str, state: str) -> None:
    assert version_finding("x", version, supported).state == state


def test_a_spoilt_store_is_a_problem_with_its_own_code(study: Path, doctor: Any) -> None:
    shard = next((study / "runs" / "knowing" / "store" / "shards").iterdir())
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    code, document = doctor()
    assert code == 5
    assert document["error"]["code"] == "store-corrupt"
    assert states(document)["store"] == "problem"


def test_another_checkpoint_than_was_scored_is_a_problem(study: Path, doctor: Any) -> None:
    config = study / "ep0" / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    code, document = doctor()
    assert code == 4
    row = next(r for r in document["findings"] if r["what"] == "checkpoints of the run")
    assert row["found"] == "ep0 changed since they were scored"
    assert row["remedy"] == "score them anew with `kcircuits run --epochs ep0`"


def test_changed_facts_are_a_warning(study: Path, doctor: Any) -> None:
    facts = study / "facts.jsonl"
    facts.write_text(facts.read_text().replace('"relation": "r"', '"relation": "q"', 1))
    code, document = doctor()
    assert code == 0
    row = next(r for r in document["findings"] if r["what"] == "facts of the run")
    assert row["state"] == "warning"
    assert row["found"].startswith("1 of 20 were changed")


def test_without_a_run_the_installation_alone_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doctor: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    code, document = doctor()
    assert code == 0
    assert "no run was looked at" in document["findings"][-1]["found"]
    code, document = doctor("--run", str(tmp_path))
    assert code == 2
    assert states(document)["run"] == "problem"


def test_a_run_that_was_not_computed_yet_is_a_warning(study: Path, doctor: Any) -> None:
    shutil.rmtree(study / "runs")
    code, document = doctor()
    assert code == 0
    assert states(document)["run"] == "warning"


def test_an_unknown_device_is_a_problem(study: Path, doctor: Any) -> None:
    code, document = doctor("--device", "nowhere")
    assert code == 2
    assert states(document)["device"] == "problem"


def test_text_has_a_line_for_each_finding(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok       store: every stored byte verifies") for line in lines)
    place = next(i for i, line in enumerate(lines) if line.startswith("warning"))
    assert lines[place + 1].strip().startswith("remedy:")


def test_controls_tell_what_was_done_expected_and_measured(study: Path, doctor: Any) -> None:
    code, document = doctor("--controls", "weight-noise", "permuted-heads", "--seed", "3")
    assert code == 0
    assert document["schema"] == "kcircuits.controls/1"
    assert (document["epoch"], document["seed"], len(document["facts"])) == ("ep0", 3, 10)
    assert [row["control"] for row in document["controls"]] == ["permuted-heads", "weight-noise"]
    for row in document["controls"]:
        assert row["verdict"] == "passed"
        assert row["did"]
        assert row["rows"]
        for check in row["checks"]:
            assert {"expected", "measured", "is_met", "reason", "verdict"} == set(check)
    assert "error" not in document


def test_a_failed_control_has_an_exit_code_of_its_own(
    study: Path, doctor: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weight_noise, "add_noise", lambda weights, *_, **__: weights)
    code, document = doctor("--controls", "weight-noise", "--facts", "f0,f1,f2")
    assert code == 10
    assert document["error"]["message"] == "1 of 1 controls failed: weight-noise"
    assert document["facts"] == ["f0", "f1", "f2"]
    assert main(["doctor", "--controls", "weight-noise", "--quiet"]) == 10
    output = capsys.readouterr()
    assert "weight-noise: failed" in output.out
    assert "1 of 1 controls failed" in output.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--controls", "nope"], "there is no control 'nope'"),
        (["--controls", "--epoch", "ep7"], "'ep7' means no checkpoint"),
        (["--controls", "--facts", "f99"], "'f99' is neither a fact nor a stratum"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    study: Path, doctor: Any, args: list[str], message: str
) -> None:
    code, document = doctor(*args)
    assert code == 2
    assert message in document["error"]["message"]


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom kcircuits.cli.main import main\n"
        "main(['doctor', '--help'])\n"
        "sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "permuted-heads" in done.stdout
