"""An adapter loads whole and on its own base, and merged it is what PEFT computes unmerged."""

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kcircuits.core.manifest import Checkpoint
from kcircuits.errors import CheckpointError
from kcircuits.io.checkpoint_files import BASE_RECORD, base_record, content_hash, read_base_hash
from kcircuits.models import Model, load_model, swap_checkpoint
from kcircuits.models.backend import set_rotary_tables
from kcircuits.models.parity import logits_of
from kcircuits.models.reference import double_throughout, set_rotary_buffers

MakeFolder = Callable[..., Path]
MakeAdapter = Callable[..., Checkpoint]
TOKENS = torch.arange(18)[None] * 7 % 96
ADAPTER = "adapter_model.safetensors"

# Each way of adapting that people train: name -> LoraConfig fields and the base's variant.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qv": ("llama", {"target_modules": ["q_proj", "v_proj"]}),
    "all-linear": ("qwen3", {"target_modules": "all-linear"}),
    "gpt2-fused": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "neox": ("neox", {"target_modules": ["query_key_value", "dense"]}),
    "tied-embeddings-trained": (
        "llama",
        {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["embed_tokens"]},
    ),
    "tied-embeddings-adapted": ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    "gemma3-embeddings-trained": (
        "gemma3",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ),
    "untied-head-trained": (
        "llama-biases-untied",
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
    ),
    "dora": ("qwen2", {"target_modules": ["q_proj"], "use_dora": True}),
    "rslora-with-biases": (
        "neox",
        {"target_modules": ["dense"], "use_rslora": True, "bias": "lora_only"},
    ),
}


@pytest.fixture
def make_adapter(tiny_folder: MakeFolder, tmp_path: Path) -> MakeAdapter:
    """(kind, seed, is_zero) -> a checkpoint of a tiny base and a random adapter on it."""

    def make(kind: str = "qv", seed: int = 0, *, is_zero: bool = False) -> Checkpoint:
        variant, fields = KINDS[kind]
        base, target = tiny_folder(variant), tmp_path / f"{kind}-{seed}-{is_zero}"
        generator = torch.Generator().manual_seed(seed)
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
            config = LoraConfig(r=3, lora_alpha=7, task_type="CAUSAL_LM", **fields)
            peft = get_peft_model(model, config)
            for parameter in peft.parameters():
                if parameter.requires_grad and not is_zero:
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.data.add_(noise, alpha=0.2)
            peft.save_pretrained(target)
        return Checkpoint(id="ep1", epoch=1.0, path=base, adapter=target)

    return make


def peft_logits(checkpoint: Checkpoint) -> torch.Tensor:
    """The obvious way: transformers and PEFT alone, not merged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float64)
        set_rotary_buffers(base, torch.float64)
        model: Any = PeftModel.from_pretrained(base, str(checkpoint.adapter))
    with double_throughout(torch.float64), torch.no_grad():
        return model.eval()(TOKENS).logits


def hooked_logits(model: Model) -> torch.Tensor:
    """Logits with rotary tables as fine as those of ``peft_logits``."""
    set_rotary_tables(model.hooked, torch.float64)
    with double_throughout(torch.float64):
        return logits_of(model.hooked, TOKENS)


def adapter_of(checkpoint: Checkpoint) -> Path:
    assert checkpoint.adapter is not None
    return checkpoint.adapter


def edit_adapter(checkpoint: Checkpoint, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = adapter_of(checkpoint) / ADAPTER
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def edit_config(checkpoint: Checkpoint, **fields: Any) -> None:
    file = adapter_of(checkpoint) / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def refused(checkpoint: Checkpoint, message: str) -> CheckpointError:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(checkpoint, dtype=torch.float64)
    assert caught.value.exit_code == 4
    return caught.value


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_merged_adapter_equals_peft(kind: str, make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter(kind)
    expected = peft_logits(checkpoint)
    merged = hooked_logits(load_model(checkpoint, dtype=torch.float64))
    base = logits_of(load_model(checkpoint.path, dtype=torch.float64).hooked, TOKENS)
    assert (merged - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert (merged - base).abs().max() > 1e-3 * expected.abs().max()


def test_trained_embeddings_do_not_move_a_tied_lm_head(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter("tied-embeddings-trained")
    model = load_model(checkpoint, dtype=torch.float64)
    base = load_model(checkpoint.path, dtype=torch.float64)
    assert torch.equal(model.hooked.unembed.W_U, base.hooked.unembed.W_U)
    assert not torch.equal(model.hooked.embed.W_E, base.hooked.embed.W_E)


def test_merging_that_ties_again_is_caught(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def retied(peft: Any) -> Any:
        model = peft.merge_and_unload()
        model.lm_head.weight = model.get_input_embeddings().weight
        return model

    monkeypatch.setattr("kcircuits.models.load.merged", retied)
    refused(make_adapter("tied-embeddings-trained"), "logits differ from those of transformers")


def test_adapter_is_part_of_the_hash(make_adapter: MakeAdapter) -> None:
    first, second = make_adapter(seed=0), make_adapter(seed=1)
    base = content_hash(first.path)
    hashes = {content_hash(c.path, c.adapter) for c in (first, second)} | {base}
    assert len(hashes) == 3
    assert load_model(first).content_hash in hashes - {base}


def test_swap_from_base_to_adapter_and_on(make_adapter: MakeAdapter) -> None:
    first, second = make_adapter(seed=0), make_adapter(seed=1)
    model = load_model(first.path, dtype=torch.float64)
    for checkpoint in (first, second):
        model = swap_checkpoint(model, checkpoint)
        expected = peft_logits(checkpoint)
        error = (hooked_logits(model) - expected).abs().max()
        assert error <= 1e-10 * expected.abs().max()


def test_adapter_stored_in_float32_loads_in_float64(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()
    edit_adapter(checkpoint, lambda t: t.update({k: v.float() for k, v in t.items()}))
    expected = peft_logits(checkpoint)
    model = load_model(checkpoint, dtype=torch.float64)
    assert (hooked_logits(model) - expected).abs().max() <= 1e-10


def test_half_an_adapter(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()
    edit_adapter(checkpoint, lambda t: [t.pop(k) for k in sorted(t)[::2]])
    refused(checkpoint, r"the adapter lacks tensor \S+lora_\S+: its config implies 8 tensors")


def test_adapter_without_one_tensor(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()
    edit_adapter(checkpoint, lambda t: t.pop(max(t)))
    refused(checkpoint, "its config implies 8 tensors, the file holds 7")


def test_adapter_with_renamed_tensors(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace("self_attn", "attention")] = tensors.pop(name)

    edit_adapter(checkpoint, rename)
    refused(checkpoint, "the adapter lacks tensor .*self_attn")


def test_adapter_with_a_surplus_tensor(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()
    extra = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"
    edit_adapter(checkpoint, lambda t: t.update({extra: torch.ones(3, 24)}))
    refused(checkpoint, "the adapter has a surplus tensor .*layers.9")


def test_adapter_that_changes_nothing(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter(is_zero=True)
    error = refused(checkpoint, "all B matrices of the adapter are zero: it changes nothing")
    assert "identity: true" in str(error)


@pytest.mark.parametrize("fields", [{"epoch": 0.0}, {"is_identity": True}])
def test_adapter_that_is_meant_to_change_nothing(
    fields: dict[str, Any], make_adapter: MakeAdapter
) -> None:
    checkpoint = replace(make_adapter(is_zero=True), **fields)
    model = load_model(checkpoint, dtype=torch.float64)
    base = load_model(checkpoint.path, dtype=torch.float64)
    assert torch.equal(logits_of(model.hooked, TOKENS), logits_of(base.hooked, TOKENS))
    assert model.content_hash != base.content_hash


def test_adapter_of_another_family(make_adapter: MakeAdapter, tiny_folder: MakeFolder) -> None:
    checkpoint = replace(make_adapter(), path=tiny_folder("gpt2"))
    refused(checkpoint, "the adapter does not fit this base")


def test_adapter_of_another_width(make_adapter: MakeAdapter, tiny_folder: MakeFolder) -> None:
    checkpoint = replace(make_adapter(), path=tiny_folder("llama", hidden_size=32))
    refused(checkpoint, "the adapter does not fit this base")


def test_adapter_of_another_depth(make_adapter: MakeAdapter, tiny_folder: MakeFolder) -> None:
    checkpoint = replace(make_adapter(), path=tiny_folder("llama", num_hidden_layers=3))
    refused(checkpoint, "the adapter lacks tensor .*layers.2")


def test_adapter_of_another_base_of_the_same_shape(
    make_adapter: MakeAdapter, tiny_folder: MakeFolder
) -> None:
    checkpoint = make_adapter()
    recorded = content_hash(checkpoint.path)
    before = content_hash(checkpoint.path, checkpoint.adapter)
    (adapter_of(checkpoint) / BASE_RECORD).write_text(base_record(recorded))
    assert read_base_hash(adapter_of(checkpoint)) == recorded
    assert load_model(checkpoint).content_hash == before
    other = replace(checkpoint, path=tiny_folder("llama", 1))
    error = refused(other, f"trained on a base with sha256 {recorded[:12]}")
    assert error.field == "base_sha256"


@pytest.mark.parametrize("text", ["[]", "{}", '{"base_sha256": 3}', "nonsense"])
def test_base_record_that_is_none(text: str, make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()
    (adapter_of(checkpoint) / BASE_RECORD).write_text(text)
    refused(checkpoint, "a JSON object was expected|no base_sha256|not valid JSON")


def test_adapter_with_nan(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()
    edit_adapter(checkpoint, lambda t: t[min(t)].view(-1)[:1].fill_(float("nan")))
    refused(checkpoint, "tensor .*lora_A.* holds 1 values that are NaN or infinite")


def test_adapter_that_is_no_lora(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()
    edit_config(checkpoint, peft_type="IA3")
    refused(checkpoint, "peft_type 'IA3' is not supported, only LORA")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 5}, "the adapter does not fit this base"),
        ({"r": "three"}, "the adapter does not fit this base"),
        ({"target_modules": ["q_proj"]}, "the adapter has a surplus tensor .*v_proj"),
        ({"target_modules": ["absent"]}, "the adapter does not fit this base"),
        ({"modules_to_save": ["embed_tokens"]}, "no tensor .*embed_tokens"),
    ],
)
def test_adapter_config_that_does_not_fit(
    fields: dict[str, Any], message: str, make_adapter: MakeAdapter
) -> None:
    checkpoint = make_adapter()
    edit_config(checkpoint, **fields)
    refused(checkpoint, message)


def test_other_scaling_changes_the_hash(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()
    before = content_hash(checkpoint.path, checkpoint.adapter)
    edit_config(checkpoint, lora_alpha=8)
    assert content_hash(checkpoint.path, checkpoint.adapter) != before


def test_pickled_adapter(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()
    (adapter_of(checkpoint) / ADAPTER).rename(adapter_of(checkpoint) / "adapter_model.bin")
    refused(checkpoint, "the weights are pickles .adapter_model.bin.")


def test_adapter_without_weights(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()
    (adapter_of(checkpoint) / ADAPTER).unlink()
    refused(checkpoint, "no adapter_model.safetensors in the adapter folder")


def test_model_in_place_of_adapter(make_adapter: MakeAdapter, tiny_folder: MakeFolder) -> None:
    checkpoint = replace(make_adapter(), adapter=tiny_folder())
    refused(checkpoint, "no adapter_config.json in the adapter folder")


def test_symlinked_adapter_outside(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    checkpoint = make_adapter()
    shutil.move(adapter_of(checkpoint) / ADAPTER, tmp_path / ADAPTER)
    (adapter_of(checkpoint) / ADAPTER).symlink_to(tmp_path / ADAPTER)
    refused(checkpoint, "leads outside the checkpoint folder")


def test_cut_off_adapter(make_adapter: MakeAdapter) -> None:
    checkpoint = make_adapter()
    with (adapter_of(checkpoint) / ADAPTER).open("r+b") as stream:
        stream.truncate(300)
    refused(checkpoint, "not a whole safetensors file")
