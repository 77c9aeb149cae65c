"""``manifest init | check | show`` on small folders of real safetensors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from kcircuits.cli.main import main
from kcircuits.io.checkpoint_files import content_hash
from kcircuits.io.manifest import load_manifest

FACT = {
    "id": "f1",
    "subject": "a",
    "relation": "r",
    "object": "c",
    "prompts": [{"clean": "x a", "corrupt": "x b", "target": " c", "foil": " d"}],
}
WORDS = ["[UNK]", "x", "a", "b", "c", "d", "e"]


def write_tokenizer(folder: Path, words: list[str]) -> None:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def model(folder: Path, value: float, words: list[str] = WORDS, **config: Any) -> Path:
    folder.mkdir(parents=True)
    settings = {"model_type": "gpt2", "n_layer": 1, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({"w": np.full(3, value, dtype=np.float32)}, folder / "model.safetensors")
    write_tokenizer(folder, words)
    return folder


@pytest.fixture
def train_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two epochs of a training run and its facts; the base model beside them."""
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "base", 0.0)
    for n in (1, 2):
        folder = model(tmp_path / f"out/checkpoint-{n}0", n)
        state = {"epoch": float(n), "global_step": 10 * n}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "out/facts.jsonl").write_text(json.dumps(FACT))
    return tmp_path / "out"


Output = pytest.CaptureFixture[str]


def told(capsys: Output) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_init_writes_a_verified_manifest(train_dir: Path, capsys: Output) -> None:
    assert main(["manifest", "init", "out", "--base", "base", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "wrote checkpoints_manifest.yaml" in out
    assert err == ""
    manifest = load_manifest()
    assert manifest.run == "out"
    assert manifest.epochs == ("ep0", "ep1", "ep2")
    assert [c.sha256 for c in manifest] == [content_hash(c.path) for c in manifest]
    text = Path("checkpoints_manifest.yaml").read_text()
    assert "path: out/checkpoint-10" in text
    assert "facts: out/facts.jsonl" in text
    assert main(["manifest", "check", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out.count("  verified  ") == 3
    assert "no problems" in out
    assert err == ""


def test_init_shows_progress_on_stderr(train_dir: Path, capsys: Output) -> None:
    assert main(["manifest", "init", "out", "--base", "base", "--run", "mine", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["schema"] == "kcircuits.manifest-init/1"
    assert json.loads(out)["run"] == "mine"
    assert "hashing: 100%" in err


def test_init_replaces_only_by_force(train_dir: Path, capsys: Output) -> None:
    Path("m.yaml").write_text("mine")
    args = ["manifest", "init", "out", "--out", "m.yaml", "--base", "base", "--quiet"]
    assert main(args) == 2
    assert "replace it with --force" in capsys.readouterr().err
    assert Path("m.yaml").read_text() == "mine"
    assert main([*args, "--force"]) == 0
    assert load_manifest("m.yaml").epochs[0] == "ep0"


@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        (["absent"], 2, "is no folder"),
        (["base"], 2, "no checkpoints in"),
        (["out", "--base", "out"], 2, "holds no config.json"),
        (["out", "--run", "a/b"], 3, "cannot name a folder"),
    ],
)
def test_init_refuses_and_writes_nothing(
    args: list[str], exit_code: int, message: str, train_dir: Path, capsys: Output
) -> None:
    assert main(["manifest", "init", *args, "--quiet"]) == exit_code
    assert message in capsys.readouterr().err
    assert not Path("checkpoints_manifest.yaml").exists()


def test_init_refuses_an_unfinished_checkpoint(train_dir: Path, capsys: Output) -> None:
    (train_dir / "checkpoint-20/model.safetensors").unlink()
    assert main(["manifest", "init", "out", "--quiet", "--json"]) == 4
    assert told(capsys)["error"]["code"] == "checkpoint"
    assert not Path("checkpoints_manifest.yaml").exists()


def test_show_prints_what_the_file_says(train_dir: Path, capsys: Output) -> None:
    assert main(["manifest", "init", "out", "--base", "base", "--out", "m.yaml", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["manifest", "show", "m.yaml", "--json"]) == 0
    shown = told(capsys)
    assert shown["schema"] == "kcircuits.manifest-show/1"
    assert [row["id"] for row in shown["checkpoints"]] == ["ep0", "ep1", "ep2"]
    assert shown["checkpoints"][2]["step"] == 20
    assert main(["manifest", "show", "--manifest", "m.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["id", "epoch", "step", "sha256", "state", "folder"]
    assert lines[4].split()[:3] == ["ep1", "1", "10"]


@pytest.fixture
def checked(train_dir: Path, capsys: Output):
    """Writes the manifest, lets the test change something, and checks it."""
    assert main(["manifest", "init", "out", "--base", "base", "--quiet"]) == 0
    capsys.readouterr()

    def check() -> tuple[int, dict[str, Any]]:
        code = main(["manifest", "check", "--json", "--quiet"])
        return code, told(capsys)

    return check


def edit_manifest(old: str, new: str) -> None:
    path = Path("checkpoints_manifest.yaml")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_check_finds_changed_weights(checked, train_dir: Path) -> None:
    weights = train_dir / "checkpoint-10/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    code, found = checked()
    assert code == 4
    assert found["error"]["field"] == "sha256"
    assert "the content of ep1 has sha256" in found["error"]["message"]
    assert [row["state"] for row in found["checkpoints"]] == ["verified", "differs", "verified"]


def test_check_finds_missing_folders(checked, train_dir: Path) -> None:
    edit_manifest("path: out/checkpoint-20", "path: out/gone")
    code, found = checked()
    assert code == 4
    assert found["checkpoints"][2]["state"] == "unusable"
    assert found["problems"][0]["file"].endswith("out/gone")


def test_check_finds_a_missing_tokenizer(checked) -> None:
    edit_manifest("facts: ", "tokenizer: gone\nfacts: ")
    code, found = checked()
    assert code == 3
    assert found["error"]["field"] == "tokenizer"


def test_check_lists_problems_of_the_facts(checked, train_dir: Path) -> None:
    (train_dir / "facts.jsonl").write_text(json.dumps(FACT) + "\n{}\n[]\n")
    code, found = checked()
    assert code == 3
    assert [problem["line"] for problem in found["problems"]] == [2, 3]


def test_check_warns_of_equal_and_unverified_checkpoints(checked, train_dir: Path) -> None:
    (train_dir / "checkpoint-20/model.safetensors").write_bytes(
        (train_dir / "checkpoint-10/model.safetensors").read_bytes()
    )
    text = Path("checkpoints_manifest.yaml").read_text().splitlines()
    lines = [line for line in text if "sha256" not in line]
    Path("checkpoints_manifest.yaml").write_text("\n".join(lines))
    code, found = checked()
    assert code == 0
    assert "ep1 and ep2 are bit-identical" in found["warnings"][0]
    assert (
        "unverified, since the manifest declares no sha256: ep0, ep1, ep2" in found["warnings"][1]
    )
    assert found["checkpoints"][0]["state"] == "unverified"
    assert found["checkpoints"][0]["found"] is not None


def reinit() -> None:
    assert main(["manifest", "init", "out", "--base", "base", "--quiet", "--force"]) == 0


def test_check_warns_of_another_config(checked, train_dir: Path, capsys: Output) -> None:
    config = train_dir / "checkpoint-20/config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "n_layer": 1, "activation": "relu"}))
    reinit()
    capsys.readouterr()
    code, found = checked()
    assert code == 0
    assert found["warnings"] == ["config.json of ep2 differs from ep0's in activation"]


def test_check_refuses_other_token_ids(checked, train_dir: Path, capsys: Output) -> None:
    write_tokenizer(train_dir / "checkpoint-20", ["[UNK]", "a", "x", "b", "c", "d", "e"])
    reinit()
    capsys.readouterr()
    code, found = checked()
    assert code == 4
    assert "token ids differ between ep0 and ep2" in found["error"]["message"]


def test_check_accepts_a_tokenizer_that_grew(checked, train_dir: Path, capsys: Output) -> None:
    write_tokenizer(train_dir / "checkpoint-20", [*WORDS, "new"])
    reinit()
    capsys.readouterr()
    code, found = checked()
    assert code == 0
    assert found["warnings"] == ["the tokenizer of ep2 differs from ep0's"]


def test_adapters_are_hashed_with_their_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    base = model(tmp_path / "base", 0.0)
    folder = tmp_path / "out/epoch_1"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    save_file({"a": np.ones(2, dtype=np.float32)}, folder / "adapter_model.safetensors")
    (tmp_path / "facts.jsonl").write_text(json.dumps(FACT))
    assert main(["manifest", "init", "out", "--quiet"]) == 0
    manifest = load_manifest()
    assert manifest["ep1"].sha256 == content_hash(base, folder)
    assert manifest["ep1"].path == base
    assert main(["manifest", "check", "--quiet"]) == 0
    (folder / "kcircuits.json").write_text(json.dumps({"base_sha256": "0" * 64}))
    capsys.readouterr()
    assert main(["manifest", "check", "--quiet", "--json"]) == 4
    assert "trained on another base" in told(capsys)["error"]["message"]


def test_the_example_manifest_is_valid() -> None:
    example = Path(__file__).resolve().parents[2] / "checkpoints_manifest.yaml"
    assert load_manifest(example).epochs[0] == "ep0"
