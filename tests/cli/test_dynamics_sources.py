"""Which runs ``dynamics`` and ``stopping`` read, and where facts and strata come from."""

import logging
import shutil
from pathlib import Path

import pytest

from kcircuits.cli.main import main
from tests.cli.dynamics_runs import run_json, run_of, write_lab

VERBS = ("dynamics", "stopping")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of a run, and their facts file; read only."""
    return write_lab(tmp_path_factory.mktemp("lab"))


def seeds_of(capsys: pytest.CaptureFixture[str], *args: object) -> set[int]:
    return {row["seed"] for row in run_json(capsys, *args)["rows"]}


@pytest.mark.parametrize("verb", VERBS)
def test_without_a_facts_file_a_warning_names_the_run(
    lab: Path, tmp_path: Path, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that was renamed is no longer the run that the manifest speaks of."""
    runs = [tmp_path / f"renamed{seed}" for seed in range(2)]
    for seed, run in enumerate(runs):
        shutil.copytree(run_of(lab, seed), run)
    given = [verb, "--run", *map(str, runs)]
    with caplog.at_level(logging.WARNING):
        assert main(given) == 0
    for record, run in zip(caplog.records, runs, strict=True):  # once for each
        assert f"{run}: no facts file was found" in record.getMessage()
        assert "--facts FILE" in record.getMessage()
    caplog.clear()
    assert main([*given, "--facts", str(lab / "facts.jsonl")]) == 0
    assert main([verb, "--run", str(run_of(lab, 0))]) == 0
    assert caplog.records == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_manifest_beside_the_run_that_cannot_be_read_is_an_error(
    lab: Path, tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_of(lab, 0), tmp_path / "runs" / "tiny-full")
    (tmp_path / "checkpoints_manifest.yaml").write_text("schema_version: 1\nrum: tiny-full\n")
    assert main([verb, "--run", str(tmp_path / "runs" / "tiny-full")]) == 3
    assert "checkpoints_manifest.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_a_flag_replaces_the_runs_that_the_environment_names_otherwise(
    lab: Path, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(lab, 1)
    manifests = [lab / f"run{seed}" / "checkpoints_manifest.yaml" for seed in range(3)]
    assert seeds_of(capsys, verb, "--run", run, "--manifest", manifests[0]) == {0, 1}
    monkeypatch.setenv("KCIRCUITS_RUN", str(run))
    assert seeds_of(capsys, verb) == {1}
    assert seeds_of(capsys, verb, "--manifest", manifests[0]) == {0}
    monkeypatch.setenv("KCIRCUITS_MANIFEST", str(manifests[2]))
    assert seeds_of(capsys, verb) == {1, 2}
    assert seeds_of(capsys, verb, "--manifest", manifests[0]) == {0}
    monkeypatch.delenv("KCIRCUITS_RUN")
    assert seeds_of(capsys, verb) == {2}
    assert seeds_of(capsys, verb, "--run", run) == {1}
