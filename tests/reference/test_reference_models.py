"""The models behind the reference numbers load, and compute what the reference says of them."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kcircuits.errors import FileAccessError
from kcircuits.models import fetch_model, load_model
from kcircuits.models.parity import logits_of

pytestmark = pytest.mark.shared


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "qwen3"])
def test_reference_model_gives_the_reference_metric(name: str, shared_dir: Path) -> None:
    folder = shared_dir / "reference" / name
    numbers = load_file(folder / "reference.safetensors")
    names = json.loads((folder / "reference.json").read_text())
    model = load_model(folder / "model", dtype=torch.float64)
    for kind in ("clean", "corrupt"):
        logits = logits_of(model.hooked, numbers[f"{kind}_tokens"].long())[:, -1]
        pair = logits.gather(1, numbers["target_foil"].long())
        # float64, and both sides are HookedTransformers of the same weights; a TransformerBridge
        # runs the modules of transformers, whose softmax and norms stay in float32
        atol = 1e-10 if find_spec("transformer_lens.HookedTransformer") else 1e-6
        torch.testing.assert_close(
            pair[:, 0] - pair[:, 1], numbers[f"{kind}_metric"].double(), rtol=0, atol=atol
        )
    assert [*model.topology.forward_names] in names.values()
    assert [*model.topology.backward_names] in names.values()
    assert model.tokenizer is None


@pytest.fixture(scope="module")
def smollm2() -> Any:
    """The default model; downloaded (93 MB) and converted where it is not cached yet."""
    try:
        return load_model(fetch_model())
    except FileAccessError as error:
        pytest.skip(f"the default model cannot be fetched here: {error.message}")


@pytest.mark.slow
def test_smollm2_gives_the_reference_tokens_and_metric(smollm2: Any, shared_dir: Path) -> None:
    facts = json.loads((shared_dir / "reference" / "smollm2.json").read_text())["facts"]
    for fact in facts:
        for kind in ("clean", "corrupt"):
            ids = smollm2.tokenizer(fact[kind]).input_ids
            assert ids == fact[f"{kind}_ids"]
            logits = logits_of(smollm2.hooked, torch.tensor([ids]))[0, -1]
            metric = float(logits[fact["target_id"]] - logits[fact["foil_id"]])
            assert metric == pytest.approx(fact[f"{kind}_metric"], abs=1e-3)
        assert smollm2.tokenizer(fact["target"]).input_ids == [fact["target_id"]]


@pytest.mark.slow
def test_smollm2_has_a_chat_template(smollm2: Any) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    text = smollm2.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
