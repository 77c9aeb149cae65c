"""``run``, ``status`` and ``ls`` on two epochs of a tiny random Llama."""

import json
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from kcircuits.cli.main import main
from kcircuits.errors import UsageError
from kcircuits.study import open_run

Output = pytest.CaptureFixture[str]
WORDS = ["[UNK]", *(f"w{i}" for i in range(60))]
N_FACTS, N_EPOCHS = 5, 2
# Dies when the second shard is there and the index does not know it yet.
KILLED = """
import os, signal, sys
from pathlib import Path
from kcircuits.cli.main import main
whole, calls = Path.replace, 0
def replace(self, target):
    global calls
    calls += 1
    if calls == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, target)
Path.replace = replace
sys.exit(main(["run", "--quiet", "--batch-size", "2"]))
"""


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_model(folder: Path, seed: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)


def fact(i: int) -> dict[str, Any]:
    prompts = [
        {
            "clean": f"w{p} w{20 + i} w{10 + p}",
            "corrupt": f"w{p} w{30 + i} w{10 + p}",
            "target": f" w{40 + i}",
            "foil": f" w{50 + i}",
            "use": "discovery" if p < 4 else "evaluation",
        }
        for p in range(6)
    ]
    return {
        "id": f"f{i}", "subject": f"w{20 + i}", "relation": "r", "object": f"w{40 + i}",
        "prompts": prompts, "strata": {"half": "even" if i % 2 == 0 else "odd"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest, its facts and two checkpoints."""
    root = tmp_path_factory.mktemp("study")
    for epoch in range(N_EPOCHS):
        write_model(root / f"ep{epoch}", epoch)
    lines = [json.dumps(fact(i)) for i in range(N_FACTS)]
    (root / "facts.jsonl").write_text("\n".join(lines) + "\n")
    checkpoints = [f"  - {{id: ep{i}, epoch: {i}, path: ep{i}}}\n" for i in range(N_EPOCHS)]
    (root / "checkpoints_manifest.yaml").write_text(
        "schema_version: 1\nrun: tiny\nbase_model: tiny\nfacts: facts.jsonl\ncheckpoints:\n"
        + "".join(checkpoints)
    )
    return root


@pytest.fixture(scope="module")
def finished(study: Path) -> Path:
    """The study with all its cells."""
    manifest = study / "checkpoints_manifest.yaml"
    assert main(["run", "--quiet", "--batch-size", "2", "--manifest", str(manifest)]) == 0
    return study


@pytest.fixture
def copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished study to spoil."""
    shutil.copytree(finished, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    return tmp_path / "study"


def told(capsys: Output, *args: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main([*args, "--json"])
    return code, json.loads(capsys.readouterr().out)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_run_fills_every_cell(finished: Path) -> None:
    run = open_run(finished / "runs" / "tiny")
    assert run.epochs == ("ep0", "ep1")
    for epoch in run.epochs:
        cells = run.cells(epoch, dense=True)
        assert [cell.fact_id for cell in cells] == [f"f{i}" for i in range(N_FACTS)]
        for cell in cells:
            assert cell.prompt_idx.tolist() == [0, 1, 2, 3]
            assert cell.values["clean_metric"] is not None
            assert cell.values["prob"] is not None
            assert cell.values["n_circuit_edges"] is not None
            assert cell.mean is not None
            assert abs(cell.mean).max() > 0


def test_run_agrees_with_the_public_functions(finished: Path) -> None:
    import numpy as np

    import kcircuits as kc

    model = kc.load_model(finished / "ep1")
    batch = kc.tokenize(model, kc.load_facts(finished / "facts.jsonl"))
    scores = kc.attribute(model, batch)
    for cell in open_run(finished / "runs" / "tiny").cells("ep1", dense=True):
        assert cell.mean is not None
        bound = 1e-5 * abs(scores[cell.fact_id]).max()  # batches of 2 against one of 5
        np.testing.assert_allclose(cell.mean, scores[cell.fact_id], rtol=0, atol=bound)


def test_run_again_computes_nothing(copy: Path, capsys: Output) -> None:
    before = files(copy)
    code, content = told(capsys, "run", "--quiet")
    assert code == 0
    assert (content["schema"], content["done"], content["computed"]) == ("kcircuits.run/1", 10, 0)
    assert files(copy) == before


def test_dry_run_plans_without_computing(copy: Path, capsys: Output) -> None:
    code, content = told(capsys, "run", "--dry-run", "--facts", "half=even", "--epochs", "last")
    assert code == 0
    assert [batch["facts"] for batch in content["batches"]] == [["f0", "f2"], ["f4"]]
    assert [batch["done"] for batch in content["batches"]] == [2, 1]
    assert main(["run", "--dry-run", "--n-edges", "7"]) == 0
    assert "10 cells due" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_bytes(
    study: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "study"
    shutil.copytree(study, root, ignore=shutil.ignore_patterns("runs"))
    monkeypatch.chdir(root)
    done = subprocess.run([sys.executable, "-c", KILLED], check=False, cwd=root)
    assert done.returncode == -signal.SIGKILL
    assert len(list((root / "runs/tiny/store/shards").glob("*.safetensors"))) == 2
    assert main(["run", "--quiet"]) == 0
    assert files(root / "runs") == files(finished / "runs")


def test_broken_checkpoint_ends_in_part(copy: Path, capsys: Output) -> None:
    (copy / "ep1" / "config.json").unlink()
    code, content = told(capsys, "run", "--quiet", "--n-edges", "7")
    assert code == 8
    assert (content["done"], content["cells"]) == (5, 10)
    assert "config.json" in content["failures"]["ep1"]
    assert content["error"]["message"].startswith("5 of 10 cells are missing (ep1 not computed)")


def test_no_usable_checkpoint_is_an_error_of_its_own(copy: Path, capsys: Output) -> None:
    (copy / "ep1" / "config.json").unlink()
    code, content = told(capsys, "run", "--quiet", "--n-edges", "7", "--epochs", "ep1")
    assert code == 4
    assert "config.json" in content["error"]["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "magic"], "there is no method 'magic'"),
        (["--method", "eap", "--ig-steps", "3"], "ig_steps = 3 is no parameter of eap"),
        (["--fraction", "2"], "fraction is 2.0; expected a number above 0 and up to 1"),
        (["--facts", "nobody"], "'nobody' is neither a fact nor a stratum of this run"),
        (["--epochs", ""], "'' means no checkpoint of this run"),
        (["--epochs", "ep9"], "'ep9' means no checkpoint of this run"),
        (["--batch-size", "0"], "batch_size is 0; expected at least 1"),
        (["--n-edges", "100000"], "n_edges is 100000; expected a whole number from 0 to"),
        (["--device", "gpu7"], "gpu7"),
    ],
)
def test_usage_errors_are_told(
    copy: Path, capsys: Output, options: list[str], message: str
) -> None:
    code, content = told(capsys, "run", "--quiet", *options)
    assert code == 2
    assert message in content["error"]["message"]


def test_status_counts_and_verifies(copy: Path, capsys: Output) -> None:
    code, content = told(capsys, "status", "--verify")
    assert code == 0
    assert [(row["id"], row["done"], row["due"]) for row in content["epochs"]] == [
        ("ep0", 5, 0),
        ("ep1", 5, 0),
    ]
    assert {row["state"] for row in content["epochs"]} == {"unverified"}
    shard = sorted((copy / "runs/tiny/store/shards").glob("*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    code, content = told(capsys, "status", "--verify")
    assert code == 5
    assert content["error"]["file"].endswith(shard.name)
    code, content = told(capsys, "status", "--repair")
    assert content["removed"] == [shard.name]
    assert sum(row["due"] for row in content["epochs"]) in (1, 2)
    assert main(["run", "--quiet"]) == 0
    assert told(capsys, "status", "--verify")[0] == 0


def test_ls_lists_runs_epochs_and_facts(copy: Path, capsys: Output) -> None:
    row = told(capsys, "ls")[1]["runs"][0]
    assert (row["run"], row["state"], row["done"]) == ("tiny", "done", 10)
    assert [row["id"] for row in told(capsys, "ls", "epochs")[1]["epochs"]] == ["ep0", "ep1"]
    assert told(capsys, "ls", "facts")[1]["facts"][1]["strata"] == {"half": "odd"}
    for what in ("runs", "epochs", "facts"):
        assert main(["ls", what]) == 0
    assert "half=odd" in capsys.readouterr().out


def test_status_without_results_names_the_remedy(copy: Path, capsys: Output) -> None:
    code, content = told(capsys, "status", "--run", "nowhere")
    assert code == 2
    assert "kcircuits run" in content["error"]["hint"]


def test_repair_makes_no_folder_of_a_mistyped_one(copy: Path, capsys: Output) -> None:
    assert told(capsys, "status", "--repair", "--run", "nowhere")[0] == 2
    assert not (copy / "nowhere").exists()


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf"])
def test_wait_must_end(copy: Path, capsys: Output, seconds: str) -> None:
    code, content = told(capsys, "run", "--quiet", "--wait", seconds)
    assert code == 2
    assert "wait" in content["error"]["message"]


def test_diff_at_a_level_that_is_none(copy: Path) -> None:
    with pytest.raises(UsageError, match="level is 'head'; expected edge or node"):
        open_run(copy / "runs/tiny").diff("ep0", "ep1", level="head")  # type: ignore[arg-type]


def test_report_tells_of_a_spoiled_probe(copy: Path, capsys: Output) -> None:
    probes = copy / "runs/tiny/probes.jsonl"
    probes.write_text('{"fact": "f0", "epoch": "x", "known": true, "prob": 0.5}\n')
    code, content = told(capsys, "report", "--out", "page.html")
    assert (code, content["error"]["line"], content["error"]["field"]) == (5, 1, "epoch")
    assert not (copy / "page.html").exists()


def test_status_and_dry_run_import_no_torch(copy: Path) -> None:
    code = (
        "import sys; from kcircuits.cli.main import main; "
        "assert main(['status']) == main(['run', '--dry-run']) == 0; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=copy, capture_output=True)
