"""A small run over three epochs with a whole transfer in it."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kcircuits as kc
from kcircuits.cli.main import main
from tests.cli.test_evaluate_verb import answered, write_model
from tests.cli.test_run_verb import fact

N_FACTS, N_EDGES, EPOCHS = 6, 40, ("ep0", "ep1", "ep2")
Call = Callable[..., tuple[int, Any]]


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


def row_of(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (row,) = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
    return row
