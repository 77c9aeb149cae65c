"""A checkpoint that is not surely the model asked for is refused, with the reason and a remedy."""

import json
import os
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kcircuits.core.manifest import Checkpoint
from kcircuits.errors import CheckpointError, FileAccessError
from kcircuits.io.checkpoint_files import content_hash
from kcircuits.models import load_model
from kcircuits.models.families import FAMILIES

MakeFolder = Callable[..., Path]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def folder(tiny_folder: MakeFolder, tmp_path: Path) -> Path:
    """A good checkpoint to be spoiled."""
    return shutil.copytree(tiny_folder(), tmp_path / "checkpoint")


@pytest.fixture
def sharded(tiny_folder: MakeFolder, tmp_path: Path) -> Path:
    """A good sharded checkpoint to be spoiled."""
    return shutil.copytree(tiny_folder(max_shard_size="20KB"), tmp_path / "sharded")


def refused(folder: Path, message: str, remedy: str | None = None) -> CheckpointError:
    """The error that loading raises: exit code 4, the message, and no other model."""
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder)
    assert caught.value.exit_code == 4
    if remedy is not None:
        assert caught.value.hint is not None
        assert remedy in caught.value.hint
    return caught.value


def edit_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def edit_index(folder: Path, edit: Callable[[dict[str, str]], Any]) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


# The folder


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "the checkpoint folder does not exist")


def test_file_instead_of_folder(folder: Path) -> None:
    refused(folder / WEIGHTS, "a checkpoint is a folder, not a file", "config.json")


def test_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, "no config.json in the checkpoint folder; it is empty", "save_pretrained")


def test_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, "no config.json in the checkpoint folder; it holds .*model.safetensors")


def test_folder_without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    refused(folder, "no model.safetensors and no model.safetensors.index.json")


def test_weights_under_another_name(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "weights.safetensors")
    refused(folder, "it holds weights.safetensors, which no index names")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_only(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder / name)
    refused(folder, f"the weights are pickles .{name}.", "save_pretrained(")


def test_adapter_in_place_of_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    refused(folder, "this folder holds an adapter, not a whole model", "as `adapter`")


# Paths


def test_symlinked_weights_outside(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / WEIGHTS, tmp_path / WEIGHTS)
    (folder / WEIGHTS).symlink_to(tmp_path / WEIGHTS)
    refused(folder, "'model.safetensors' leads outside the checkpoint folder", "copy the file")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_symlinked_text_outside(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text((folder / "config.json").read_text())
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / name)
    refused(folder, f"'{name}' leads outside the checkpoint folder")


def test_dangling_symlink(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(folder / "gone.safetensors")
    refused(folder, "'model.safetensors' leads to no file")


def test_symlink_to_itself(folder: Path) -> None:
    (folder / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    refused(folder, "'tokenizer.json' leads to no file")


@pytest.mark.parametrize(
    "shard", ["../outside.safetensors", "/etc/outside.safetensors", "a/../../outside.safetensors"]
)
def test_index_names_a_file_outside(sharded: Path, shard: str) -> None:
    shutil.copy(next(sharded.glob("*.safetensors")), sharded.parent / "outside.safetensors")
    (sharded / "a").mkdir()
    edit_index(sharded, lambda names: names.update({Q_PROJ: shard}))
    refused(sharded, "leads outside the checkpoint folder|leads to no file")


def test_index_names_a_pickle(sharded: Path) -> None:
    edit_index(sharded, lambda names: names.update({Q_PROJ: "pytorch_model.bin"}))
    error = refused(sharded, "'pytorch_model.bin' is not the name of a safetensors file")
    assert error.field == Q_PROJ


def test_index_names_no_text(sharded: Path) -> None:
    edit_index(sharded, lambda names: names.update({Q_PROJ: 3}))
    refused(sharded, "3 is not the name of a safetensors file")


def test_hub_cache_links_into_its_own_blobs(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--owner--name"
    snapshot = cache / "snapshots" / "0123abc"
    (cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, cache / "blobs" / str(i))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(i)))
    assert load_model(snapshot).content_hash == content_hash(folder)
    other = tmp_path / "models--owner--other" / "blobs"
    other.mkdir(parents=True)
    shutil.copy(folder / WEIGHTS, other / "0")
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to(other / "0")
    refused(snapshot, "leads outside the checkpoint folder")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "generation_config.json", "notes.txt"])
def test_pipe_is_refused_before_opening(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    refused(folder, f"'{name}' is neither a regular file nor a folder", "remove it")


def test_socket_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)  # the path of a socket is limited to about 100 characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("tokenizer.json")
    refused(folder, "'tokenizer.json' is neither a regular file nor a folder")


def test_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    refused(folder, "no config.json in the checkpoint folder")


def test_unreadable_folder_is_an_access_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(FileAccessError, match="cannot be read: Permission denied") as caught:
        load_model(folder)
    assert caught.value.exit_code == 7


# Config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": ', "not valid JSON: Expecting value"),
        ("[1, 2]", "a JSON object was expected, not a list"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("\udcff".encode("utf-8", "surrogateescape"), "not valid JSON"),
    ],
    ids=["cut", "list", "empty", "deep", "bytes"],
)
def test_config_that_is_no_json(folder: Path, text: str | bytes, message: str) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "config.json").write_bytes(data)
    error = refused(folder, message)
    assert error.file is not None
    assert error.file.endswith("config.json")


def test_broken_json_names_the_line(folder: Path) -> None:
    (folder / "config.json").write_text('{\n"model_type": "llama",\n"oops\n}')
    assert refused(folder, "not valid JSON").line == 3


def test_unknown_model_type(folder: Path) -> None:
    edit_config(folder, model_type="mamba")
    error = refused(folder, "model_type 'mamba' is not supported", ", ".join(FAMILIES))
    assert error.field == "model_type"


def test_no_model_type(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    refused(folder, "model_type None is not supported")


def test_custom_code_is_not_run(folder: Path) -> None:
    edit_config(folder, model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Model"})
    (folder / "mine.py").write_text("raise SystemExit('ran')")
    refused(folder, "model_type 'mine' is not supported", "never run; convert it")


def test_custom_code_beside_a_known_type_is_not_run(folder: Path) -> None:
    edit_config(
        folder, auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    )
    (folder / "mine.py").write_text("raise SystemExit('ran')")
    assert load_model(folder).topology.n_layers == 2


def test_multimodal_gemma(folder: Path) -> None:
    edit_config(folder, model_type="gemma3")
    refused(folder, "model_type 'gemma3' is not supported", "language model alone")


def test_quantised_weights(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes"})
    error = refused(folder, "the weights are quantised", "dequantised copy")
    assert error.field == "quantization_config"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "quick_gelu"}, "activation 'quick_gelu' is not supported"),
        ({"mlp_bias": True}, "llama with mlp_bias = True is not supported"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "rotary scaling 'dynamic' is not supported",
        ),
        ({"hidden_size": "wide"}, "the config cannot be used"),
        ({"hidden_size": 32}, "the weights do not fit the config|of another shape"),
        ({"num_attention_heads": 2}, "the weights do not fit the config|of another shape"),
        ({"num_key_value_heads": 3}, "the weights do not fit the config|of another shape"),
        ({"num_hidden_layers": 3}, "tensor model.layers.2.* is missing from the files"),
        ({"num_hidden_layers": 1}, "tensor model.layers.1.* is not part of this model"),
        ({"vocab_size": 97}, "the weights do not fit the config|of another shape"),
        ({"tie_word_embeddings": False}, "tensor lm_head.weight is missing from the files"),
        ({"attention_bias": True}, "tensor .*bias.* is missing from the files"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_config_that_does_not_fit(folder: Path, fields: dict[str, Any], message: str) -> None:
    edit_config(folder, **fields)
    refused(folder, message)


def test_heads_that_fit_the_shapes_change_the_hash(folder: Path) -> None:
    before = content_hash(folder)
    edit_config(folder, num_attention_heads=8, num_key_value_heads=4, head_dim=4)
    assert load_model(folder).content_hash != before


@pytest.mark.parametrize(
    ("variant", "fields", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights = False is not supported"),
        ("neox", {"attention_bias": False}, "attention_bias = False is not supported"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ("gemma3", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping = 30.0"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ("olmo", {"num_key_value_heads": 2}, "num_key_value_heads = 2 is not supported, only 4"),
        ("olmo2", {"head_dim": 8}, "head_dim = 8 is not supported, only 6"),
        ("olmo2", {"num_key_value_heads": 2}, "num_key_value_heads = 2 is not supported, only 4"),
        ("phi", {"head_dim": 4}, "head_dim = 4 is not supported, only 8"),
        ("phi", {"num_key_value_heads": 2}, "num_key_value_heads = 2 is not supported, only 4"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm = True is not supported"),
    ],
)
def test_settings_that_would_be_computed_wrongly(
    variant: str, fields: dict[str, Any], message: str, tiny_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder(variant), tmp_path / variant)
    edit_config(folder, **fields)
    refused(folder, message)


# Weights


def test_missing_tensor(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.pop(Q_PROJ))
    assert refused(folder, f"tensor {Q_PROJ} is missing from the files").field == Q_PROJ


def test_renamed_tensors(folder: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[f"module.{name}"] = tensors.pop(name)

    edit_weights(folder, rename)
    refused(folder, r"tensor \S+ \(and \d+ more\) is missing from the files")


def test_surplus_tensor(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"extra.weight": torch.ones(3)}))
    refused(folder, "tensor extra.weight is not part of this model but in the files")


def test_old_mask_and_frequency_buffers_are_harmless(folder: Path) -> None:
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}
    edit_weights(folder, lambda tensors: tensors.update(buffers))
    assert load_model(folder).topology.n_layers == 2


def test_tensor_of_another_shape(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({Q_PROJ: torch.ones(32, 23)}))
    refused(folder, "the weights do not fit the config|of another shape")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(folder: Path, value: float) -> None:
    edit_weights(folder, lambda tensors: tensors[Q_PROJ].view(-1)[5:7].fill_(value))
    error = refused(folder, f"tensor {Q_PROJ} holds 2 values that are NaN or infinite")
    assert error.field == Q_PROJ


def test_integer_weights(folder: Path) -> None:
    ints = torch.ones(32, 24, dtype=torch.int8)
    edit_weights(folder, lambda tensors: tensors.update({Q_PROJ: ints}))
    refused(folder, f"tensor {Q_PROJ} is stored as I8", "dequantised")


def test_untied_lm_head_under_a_tied_config(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"lm_head.weight": torch.ones(96, 24)}))
    refused(folder, "the files hold a lm_head that differs", '"tie_word_embeddings": false')


def test_equal_lm_head_under_a_tied_config_is_fine(folder: Path) -> None:
    edit_weights(
        folder,
        lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}),
    )
    assert load_model(folder).topology.n_layers == 2


@pytest.mark.parametrize("n_bytes", [0, 4, 8, 500, -1])
def test_cut_off_weights(folder: Path, n_bytes: int) -> None:
    file = folder / WEIGHTS
    with file.open("r+b") as stream:
        stream.truncate(n_bytes if n_bytes >= 0 else file.stat().st_size - 1)
    refused(folder, "not a whole safetensors file", "again")


def test_padded_weights(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as stream:
        stream.write(b"\0")
    refused(folder, "not a whole safetensors file")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "the safetensors header cannot be read"),
        (b"[]", "the safetensors header cannot be read"),
        (b'{"a": {"dtype": "F32", "shape": [2]}}', "header cannot be read: KeyError"),
        (b'{"a": {"dtype": "X9", "shape": [], "data_offsets": [0, 4]}}', "unknown dtype X9"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "tensor a .*its place"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', "tensor a .*its place"),
    ],
)
def test_broken_safetensors_header(folder: Path, header: bytes, message: str) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    refused(folder, message)


def test_git_lfs_pointer_in_place_of_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused(folder, "not a whole safetensors file")


# Shards


def test_index_without_weight_map(sharded: Path) -> None:
    (sharded / INDEX).write_text("{}")
    refused(sharded, "no weight_map in the index")


def test_index_that_is_no_json(sharded: Path) -> None:
    (sharded / INDEX).write_text("{")
    error = refused(sharded, "not valid JSON")
    assert error.file is not None
    assert error.file.endswith(INDEX)


def test_missing_shard(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[0]
    shard.unlink()
    refused(sharded, f"'{shard.name}' leads to no file")


def test_shard_without_a_promised_tensor(sharded: Path) -> None:
    shard = sorted({name.name for name in sharded.glob("*.safetensors")})[0]
    edit_index(sharded, lambda names: names.update({"promised.weight": shard}))
    refused(sharded, f"{shard} lacks promised.weight, which the index puts there")


def test_tensor_in_another_shard_than_the_index_says(sharded: Path) -> None:
    def move(names: dict[str, str]) -> None:
        shards = list(names.values())
        fullest = max(shards, key=shards.count)
        other = next(shard for shard in shards if shard != fullest)
        names[min(name for name, shard in names.items() if shard == fullest)] = other

    edit_index(sharded, move)
    refused(sharded, "which the index puts into")


# Content hash and tokenizer


def test_changed_bit_under_a_declared_hash(folder: Path) -> None:
    digest = content_hash(folder)
    with (folder / WEIGHTS).open("r+b") as stream:
        stream.seek(-20, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-20, os.SEEK_END)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(CheckpointError, match=f"checkpoint ep3 has sha256 .*{digest}") as caught:
        load_model(Checkpoint(id="ep3", path=folder, sha256=digest))
    assert caught.value.field == "sha256"
    assert "restore them, or write the manifest again" in str(caught.value)


def test_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    refused(folder, "the tokenizer cannot be used", "save the tokenizer again")


def test_folder_without_tokenizer_loads(folder: Path) -> None:
    assert load_model(folder).tokenizer is None
