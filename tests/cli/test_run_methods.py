"""Every method goes through run, diff and report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kcircuits.cli.main import main
from kcircuits.discovery import METHODS
from kcircuits.study import open_run
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


def test_a_parameter_that_the_method_lacks_is_refused(
    study: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--manifest", str(study / "checkpoints_manifest.yaml")]
    assert main(["run", "--method", "eap", "--param", "steps=3", *where]) != 0
    assert "steps = 3 is no parameter of eap" in capsys.readouterr().err
    assert main(["run", "--param", "steps", *where]) != 0
    assert "expected NAME=VALUE" in capsys.readouterr().err
