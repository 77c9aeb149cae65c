"""Every family loads as a HookedTransformer whose logits are those of transformers."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from kcircuits.core.manifest import Checkpoint
from kcircuits.engine.parity import checked_weights
from kcircuits.errors import CheckpointError, UsageError
from kcircuits.io.checkpoint_files import content_hash
from kcircuits.models import load_model, swap_checkpoint
from kcircuits.models.backend import set_rotary_tables
from kcircuits.models.families import FAMILIES, topology_of
from kcircuits.models.parity import BOUNDS, check_parity, logits_of
from kcircuits.models.reference import double_throughout

MakeFolder = Callable[..., Path]

# Published sizes: model_type, the config's numbers that matter here, and edges of the graph.
PUBLISHED: dict[str, tuple[str, dict[str, int], int]] = {
    "GPT-2 small": ("gpt2", {"n_layer": 12, "n_head": 12, "n_embd": 768}, 32_491),
    "GPT-2 medium": ("gpt2", {"n_layer": 24, "n_head": 16, "n_embd": 1024}, 231_877),
    "TinyLlama": (
        "llama",
        {
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "hidden_size": 2048,
        },
        742_996,
    ),
    "Phi-1.5": (
        "phi",
        {"num_hidden_layers": 24, "num_attention_heads": 32, "hidden_size": 2048},
        886_597,
    ),
    "Llama-3.2-1B": (
        "llama",
        {
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "hidden_size": 2048,
        },
        386_713,
    ),
    "Llama-3.1-8B": (
        "llama",
        {
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "hidden_size": 4096,
        },
        1_592_881,
    ),
    "OLMo-7B": (
        "olmo",
        {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096},
        1_592_881,
    ),
}


def edited(folder: Path, target: Path, **fields: Any) -> Path:
    """A copy of a folder with other values in config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **fields}))
    return target


def test_variants_cover_every_family(variant_types: set[str]) -> None:
    assert variant_types == set(FAMILIES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_graphs_have_the_published_sizes(name: str) -> None:
    """From the config alone: 1 + L (H + 1) senders, and as many edges as the field reports."""
    model_type, fields, n_edges = PUBLISHED[name]
    config = AutoConfig.for_model(model_type, **fields)
    topology = topology_of(config)
    n_layers, n_heads = config.num_hidden_layers, config.num_attention_heads
    assert len(topology.nodes) == n_layers * (n_heads + 1) + 2
    assert topology.n_edges == n_edges


def test_graph_of_an_unknown_family_is_refused() -> None:
    with pytest.raises(CheckpointError, match="model_type 'opt' is not supported"):
        topology_of(AutoConfig.for_model("opt"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_logits_equal_transformers(
    variant: str,
    dtype: torch.dtype,
    tiny_folder: MakeFolder,
    plain_model: Callable[..., Any],
) -> None:
    folder = tiny_folder(variant)
    model = load_model(folder, dtype=dtype)
    if dtype == torch.float64:
        set_rotary_tables(model.hooked, dtype)
    tokens = torch.arange(18)[None] * 7 % 96
    with double_throughout(dtype):
        expected = logits_of(plain_model(folder, dtype), tokens)
        logits = logits_of(model.hooked, tokens)
        at_end = logits_of(model.hooked, tokens, n_last=5)
    assert (logits - expected).abs().max() <= BOUNDS[dtype] * expected.abs().max()
    assert (at_end - expected[:, -5:]).abs().max() <= BOUNDS[dtype] * expected.abs().max()
    assert model.topology.n_heads == 4
    assert model.hooked.embed.W_E.dtype == dtype


def test_bfloat16_is_the_rounded_model(variant: str, tiny_folder: MakeFolder) -> None:
    exact = load_model(tiny_folder(variant))
    rounded = load_model(tiny_folder(variant), dtype=torch.bfloat16)
    for (name, a), (_, b) in zip(
        exact.hooked.named_parameters(), rounded.hooked.named_parameters(), strict=True
    ):
        assert torch.equal(a.to(torch.bfloat16), b), name


def test_rotary_tables_are_those_of_float32(tiny_folder: MakeFolder) -> None:
    single = load_model(tiny_folder("gemma3")).weights.attention
    double = load_model(tiny_folder("gemma3"), dtype=torch.float64).weights.attention
    for a, b in zip(single, double, strict=True):
        for table, wide in zip(a.rotary, b.rotary, strict=True):
            assert table.dtype == torch.float32
            assert torch.equal(table.double(), wide)


def test_float32_files_load_in_float64_without_reinterpretation(
    tiny_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder(), tmp_path / "float32")
    tensors = {name: t.float() for name, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_model(folder, dtype=torch.float64)
    stored = tensors["model.embed_tokens.weight"]
    assert torch.equal(model.hooked.embed.W_E, stored.double())


def test_sharded_folder_gives_the_same_weights(tiny_folder: MakeFolder) -> None:
    whole = load_model(tiny_folder("qwen3"), dtype=torch.float64)
    folder = tiny_folder("qwen3", max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    sharded = load_model(folder, dtype=torch.float64)
    for (name, a), (_, b) in zip(
        whole.hooked.named_parameters(), sharded.hooked.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_swap_puts_the_next_weights_into_the_same_model(
    variant: str, tiny_folder: MakeFolder
) -> None:
    first = load_model(tiny_folder(variant), dtype=torch.float64)
    fresh = load_model(tiny_folder(variant, 1), dtype=torch.float64)
    pointer = first.hooked.embed.W_E.data_ptr()
    second = swap_checkpoint(first, tiny_folder(variant, 1))
    tokens = first.probe.tokens
    assert second.hooked is first.hooked
    assert second.hooked.embed.W_E.data_ptr() == pointer
    assert torch.equal(logits_of(second.hooked, tokens), logits_of(fresh.hooked, tokens))
    assert second.content_hash == fresh.content_hash != first.content_hash
    assert torch.equal(second.weights.embed, fresh.weights.embed)


def test_swap_spends_the_old_model(tiny_folder: MakeFolder) -> None:
    first = load_model(tiny_folder())
    assert first.weights.d_model == 24
    swap_checkpoint(first, tiny_folder(seed=1))
    with pytest.raises(UsageError, match="was replaced by another checkpoint") as caught:
        first.weights  # noqa: B018  # reading it is the test
    assert "swap_checkpoint returned" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_hidden_layers": 1}, "n_layers"),
        ({"rms_norm_eps": 1e-3}, "eps"),
        ({"hidden_act": "gelu"}, "act_fn"),
        ({"intermediate_size": 48}, "d_mlp"),
    ],
)
def test_swap_refuses_another_architecture(
    change: dict[str, Any], field: str, tiny_folder: MakeFolder
) -> None:
    model = load_model(tiny_folder(), dtype=torch.float64)
    before = {name: p.clone() for name, p in model.hooked.named_parameters()}
    with pytest.raises(CheckpointError, match=f"another architecture.*{field}"):
        swap_checkpoint(model, tiny_folder(**change))
    for name, parameter in model.hooked.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert model.weights.d_model == 24


def test_failed_swap_leaves_the_model_as_it_was(tiny_folder: MakeFolder, tmp_path: Path) -> None:
    model = load_model(tiny_folder(), dtype=torch.float64)
    before = {name: p.clone() for name, p in model.hooked.named_parameters()}
    broken = shutil.copytree(tiny_folder(seed=1), tmp_path / "broken")
    with (broken / "model.safetensors").open("r+b") as stream:
        stream.truncate(5000)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        swap_checkpoint(model, broken)
    for name, parameter in model.hooked.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert model.weights.d_model == 24


def test_interrupted_swap_leaves_no_usable_half(
    tiny_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_folder(), dtype=torch.float64)
    copied = []

    def interrupted(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if len(copied) == 3:
            raise KeyboardInterrupt
        copied.append(self)
        return self

    real = load_model(tiny_folder(seed=1), dtype=torch.float64)
    monkeypatch.setattr("kcircuits.models.load.load_model", lambda *_, **__: real)
    monkeypatch.setattr(torch.nn.Parameter, "copy_", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        swap_checkpoint(model, tiny_folder(seed=1))
    assert all(p.isnan().all() for p in model.hooked.parameters())


def test_swap_may_untie_the_embeddings(tiny_folder: MakeFolder) -> None:
    tied = load_model(tiny_folder("llama"), dtype=torch.float64)
    assert torch.equal(tied.hooked.embed.W_E, tied.hooked.unembed.W_U.T)
    untied = swap_checkpoint(tied, tiny_folder("llama", 1, tie_word_embeddings=False))
    fresh = load_model(tiny_folder("llama", 1, tie_word_embeddings=False), dtype=torch.float64)
    assert torch.equal(untied.hooked.embed.W_E, fresh.hooked.embed.W_E)
    assert torch.equal(untied.hooked.unembed.W_U, fresh.hooked.unembed.W_U)
    assert not torch.equal(untied.hooked.embed.W_E, untied.hooked.unembed.W_U.T)


def test_loading_leaves_the_global_state_alone(tiny_folder: MakeFolder) -> None:
    from transformers.utils import logging as transformers_logging

    tiny_folder()
    random_state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # type: ignore[union-attr]  # noqa: NPY002
    verbosity = transformers_logging.get_verbosity()
    has_bars = transformers_logging.is_progress_bar_enabled()
    load_model(tiny_folder(), dtype=torch.float64)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]  # noqa: NPY002
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert transformers_logging.get_verbosity() == verbosity
    assert transformers_logging.is_progress_bar_enabled() == has_bars


def test_loading_prints_nothing(tiny_folder: MakeFolder, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tiny_folder()
    capfd.readouterr()
    load_model(folder)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_loading_twice_is_bit_equal(tiny_folder: MakeFolder) -> None:
    first, second = load_model(tiny_folder()), load_model(tiny_folder())
    tokens = first.probe.tokens
    assert torch.equal(logits_of(first.hooked, tokens), logits_of(second.hooked, tokens))


def test_probe_crosses_the_sliding_window(tiny_folder: MakeFolder) -> None:
    model = load_model(tiny_folder("gemma3", sliding_window=40))
    assert model.probe.tokens.shape == (2, 48)


@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_parity_refuses_more_than_rounding(dtype: torch.dtype) -> None:
    reference = torch.tensor([[[4.0, -8.0]]], dtype=torch.float64)
    check_parity(reference + 7 * BOUNDS[dtype], reference, dtype, "here")
    with pytest.raises(CheckpointError, match="logits differ from those of transformers"):
        check_parity(reference + 9 * BOUNDS[dtype], reference, dtype, "here")
    with pytest.raises(CheckpointError, match="logits differ"):
        check_parity(reference * float("nan"), reference, dtype, "here")


def test_parity_catches_a_wrong_conversion(
    tiny_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FAMILIES["llama"].hooked_config
    monkeypatch.setitem(
        FAMILIES["llama"].__dict__,
        "hooked_config",
        lambda config: {**real(config), "eps": config.rms_norm_eps * 10},
    )
    with pytest.raises(CheckpointError, match="logits differ from those of transformers"):
        checked_weights(load_model(tiny_folder("llama-biases-untied")))


def test_content_hash_is_of_content_alone(tiny_folder: MakeFolder, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder(), tmp_path / "copy")
    (copy / "README.md").write_text("not part of the model")
    (copy / "kcircuits.json").write_text("{}")
    assert content_hash(copy) == content_hash(tiny_folder())
    (copy / "tokenizer_config.json").write_text("{}")
    assert content_hash(copy) != content_hash(tiny_folder())


def test_content_hash_is_as_documented(tiny_folder: MakeFolder) -> None:
    folder = tiny_folder()
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  model/{name}\n"
        for name in ("config.json", "model.safetensors")
    ]
    assert content_hash(folder) == hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    ("fields"), [{"rms_norm_eps": 1e-4}, {"hidden_act": "gelu"}, {"num_attention_heads": 3}]
)
def test_other_config_is_other_content(
    fields: dict[str, Any], tiny_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = edited(tiny_folder(), tmp_path / "edited", **fields)
    assert content_hash(folder) != content_hash(tiny_folder())


def test_declared_hash_verifies(tiny_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    digest = content_hash(tiny_folder())
    model = load_model(Checkpoint(id="ep1", path=tiny_folder(), sha256=digest))
    assert model.is_verified
    assert not caplog.records
    unverified = load_model(Checkpoint(id="ep2", path=tiny_folder()))
    assert not unverified.is_verified
    assert "checkpoint ep2 is unverified" in caplog.text


def test_unknown_dtype_is_refused(tiny_folder: MakeFolder) -> None:
    with pytest.raises(UsageError, match="float16 is not supported"):
        load_model(tiny_folder(), dtype=torch.float16)
