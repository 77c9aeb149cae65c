"""A TransformerBridge gives the same weights, and so the same scores, as a HookedTransformer.

transformer-lens 3.9 has both classes: there they are compared with each other. 4.x has the bridge
alone: there its scores are compared with those that ``python tests/contracts/test_bridge.py``
stored under 3.9, in scores_of_3.json.
"""

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig

import kcircuits as kc
from kcircuits.errors import CheckpointError
from kcircuits.io.checkpoint_files import model_files
from kcircuits.models import backend, bridge
from kcircuits.models.families import topology_of
from kcircuits.models.quiet import quiet
from kcircuits.models.reference import double_throughout, family_of, load_config, load_reference

MakeFolder = Callable[..., Path]

STORED = Path(__file__).with_name("scores_of_3.json")
has_both = pytest.mark.skipif(
    find_spec("transformer_lens.HookedTransformer") is None,
    reason="transformer-lens 4 has no HookedTransformer to compare with",
)


def wrapped(folder: Path, library: Any) -> Any:
    """The float64 model of a folder, as either file wraps it; rotary angles in float64."""
    files = model_files(folder)
    with quiet():
        reference = load_reference(files, load_config(files), torch.float64)
        with double_throughout(torch.float64):
            return library.wrap(family_of(files), reference)


def assert_same(ours: Any, theirs: Any, name: str = "weights") -> None:
    """Equal bit for bit; the tables of angles are made in other orders of rounding."""
    assert type(ours) is type(theirs), name
    if is_dataclass(ours):
        for field in fields(ours):
            a, b = getattr(ours, field.name), getattr(theirs, field.name)
            assert_same(a, b, f"{name}.{field.name}")
    elif isinstance(ours, tuple):
        assert len(ours) == len(theirs), name
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{name}[{index}]")
    elif isinstance(ours, torch.Tensor) and ".rotary" in name:
        assert ours.shape == theirs.shape, name
        assert (ours - theirs).abs().max() <= 1e-12, name
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), name
    else:
        assert ours == theirs, name


def digest(folder: Path, batch: kc.PromptBatch) -> list[list[float]]:
    """EAP scores of each prompt as their norm and two projections; rotary angles in float64."""
    model = kc.load_model(folder, dtype=torch.float64)
    backend.set_rotary_tables(model.hooked, torch.float64)
    scores = kc.attribute(model, batch, "eap").values.reshape(len(batch), -1)
    index = np.arange(scores.shape[1])
    onto = np.stack([np.cos(index), np.sin(0.7 * index)])
    return [[float(np.linalg.norm(row)), *(onto @ row).tolist()] for row in scores]


@has_both
def test_weights_are_those_of_the_hooked_transformer(variant: str, tiny_folder: MakeFolder) -> None:
    from kcircuits.models import hooked
    from kcircuits.models.hooked_weights import weights_from_hooked

    ours = bridge.weights_from_bridge(wrapped(tiny_folder(variant), bridge))
    theirs = wrapped(tiny_folder(variant), hooked)
    hooked.set_rotary_tables(theirs, torch.float64)
    assert_same(ours, weights_from_hooked(theirs))


def test_scores_are_those_of_transformer_lens_3(
    variant: str, tiny_folder: MakeFolder, batch: kc.PromptBatch
) -> None:
    stored = json.loads(STORED.read_text())
    assert variant in stored, "a new variant: run python tests/contracts/test_bridge.py"
    numbers = np.array(digest(tiny_folder(variant), batch))
    # Rounding of float64 alone; the norm is the first number of each prompt.
    assert (np.abs(numbers - stored[variant]) <= 1e-9 * numbers[:, :1]).all()


def test_rotary_tables_are_made_in_float32(tiny_folder: MakeFolder) -> None:
    fine = wrapped(tiny_folder("gemma3"), bridge)
    tables = [layer.rotary[0] for layer in bridge.weights_from_bridge(fine).attention]
    bridge.set_rotary_tables(fine, torch.float32)
    coarse = [layer.rotary[0] for layer in bridge.weights_from_bridge(fine).attention]
    for a, b in zip(tables, coarse, strict=True):
        assert torch.equal(b, b.float().double())
        assert 0 < (a - b).abs().max() < 1e-5
    assert not torch.equal(coarse[0], coarse[2])


def test_backend_is_what_is_installed() -> None:
    has_bridge_alone = int(version("transformer-lens").split(".")[0]) >= 4
    assert (backend.weights_of is bridge.weights_from_bridge) == has_bridge_alone


def test_topology_is_that_of_the_weights(variant: str, tiny_folder: MakeFolder) -> None:
    model = kc.load_model(tiny_folder(variant))
    config = load_config(model_files(tiny_folder(variant)))
    assert model.topology == model.weights.topology == topology_of(config)


def test_processed_bridge_is_refused(tiny_folder: MakeFolder) -> None:
    folded = wrapped(tiny_folder("gpt2"), bridge)
    with quiet():
        folded.enable_compatibility_mode()
    with pytest.raises(CheckpointError, match="weights were processed"):
        bridge.weights_from_bridge(folded)


def test_bridge_of_another_family_is_refused() -> None:
    config = OPTConfig(
        vocab_size=8, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=2,
        word_embed_proj_dim=8, max_position_embeddings=8,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config)
    other = bridge.build_bridge_from_module(model, "OPTForCausalLM", hf_config=config)
    with pytest.raises(CheckpointError, match="model_type 'opt' is not supported"):
        bridge.weights_from_bridge(other)


if __name__ == "__main__":
    import tempfile

    from conftest import VARIANTS, random_prompts, save_random  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as scratch:
        numbers = {
            name: digest(save_random(Path(scratch, name), name), random_prompts())
            for name in sorted(VARIANTS)
        }
    lines = [f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in numbers.items()]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
