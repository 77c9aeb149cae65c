"""Tiny models and prompts for the oracles."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.core.topology import Topology
from kcircuits.engine import parity
from kcircuits.models import Model
from kcircuits.models.weights import (
    AttentionWeights,
    MlpWeights,
    NormWeights,
    TransformerWeights,
)

N_LAYERS, N_HEADS, D_HEAD, D_MODEL, D_MLP, D_VOCAB, N_CTX = 3, 3, 4, 12, 20, 40, 24


class TinyModel(Model):
    """What attribute and evaluate ask of a model, without a checkpoint behind it."""

    content_hash = "tiny"
    tokenizer = None
    weights: TransformerWeights = None  # type: ignore[assignment]  # a plain field here
    topology: Topology = None  # type: ignore[assignment]
    __setattr__ = object.__setattr__

    def __init__(self, weights: TransformerWeights) -> None:
        self.weights = weights
        self.topology = weights.topology
        # There is no plain model to agree with.
        parity._CHECKED.add(self)


STYLES: dict[str, dict[str, Any]] = {
    "layernorm": {"is_centred": True, "biases": True, "rotary": False},
    "parallel": {"is_centred": True, "biases": True, "rotary": True, "is_parallel": True},
    "grouped": {"n_kv_heads": 1, "gate": True},
    "qk-norm": {"qk_norm": True, "gate": True},
    "post-norm": {"qk_norm": True, "gate": True, "post_norm": True, "window": 3},
}


def make_weights(
    seed: int = 0,
    *,
    is_centred: bool = False,
    biases: bool = False,
    rotary: bool = True,
    is_parallel: bool = False,
    n_kv_heads: int = N_HEADS,
    gate: bool = False,
    qk_norm: bool = False,
    post_norm: bool = False,
    window: int | None = None,
) -> TransformerWeights:
    """Random float64 weights, far from any symmetry."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 0.5) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    def norm(width: int = D_MODEL) -> NormWeights:
        bias = random(width) if is_centred else None
        return NormWeights(gain=1 + random(width), bias=bias, eps=1e-3, is_centred=is_centred)

    def bias(width: int) -> torch.Tensor | None:
        return random(width) if biases else None

    angles = torch.arange(N_CTX, dtype=torch.float64)[:, None] * torch.tensor([0.3, 0.3])
    width, kv_width = N_HEADS * D_HEAD, n_kv_heads * D_HEAD
    attention = [
        AttentionWeights(
            norm=norm(),
            q=random(width, D_MODEL),
            k=random(kv_width, D_MODEL),
            v=random(kv_width, D_MODEL),
            o=random(N_HEADS, D_HEAD, D_MODEL),
            b_q=bias(width),
            b_k=bias(kv_width),
            b_v=bias(kv_width),
            b_o=bias(D_MODEL),
            q_norm=norm(D_HEAD) if qk_norm else None,
            k_norm=norm(D_HEAD) if qk_norm else None,
            post_norm=norm() if post_norm else None,
            rotary=(angles.cos(), angles.sin()) if rotary else None,
            scale=D_HEAD**-0.5,
            window=window if layer == 1 else None,
        )
        for layer in range(N_LAYERS)
    ]
    mlp = [
        MlpWeights(
            norm=norm(),
            up=random(D_MLP, D_MODEL),
            gate=random(D_MLP, D_MODEL) if gate else None,
            down=random(D_MODEL, D_MLP),
            b_up=None if gate else bias(D_MLP),
            b_down=bias(D_MODEL),
            activation=torch.nn.functional.silu,
            post_norm=norm() if post_norm else None,
        )
        for _ in range(N_LAYERS)
    ]
    return TransformerWeights(
        topology=Topology(n_layers=N_LAYERS, n_heads=N_HEADS, is_parallel=is_parallel),
        n_kv_heads=n_kv_heads,
        d_head=D_HEAD,
        embed=random(D_VOCAB, D_MODEL, scale=1.0),
        pos_embed=None if rotary else random(N_CTX, D_MODEL),
        attention=tuple(attention),
        mlp=tuple(mlp),
        final_norm=norm(),
        unembed=random(D_VOCAB, D_MODEL),
        b_unembed=bias(D_VOCAB),
    )


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of a tiny model's three layers are a block, so that there is one before and one after."""
    monkeypatch.setattr("kcircuits.engine.layer_blocks._TOGETHER", 2 * (3 * N_HEADS + 1))


@pytest.fixture(params=STYLES)
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    """Each architecture in turn."""
    return TinyModel(make_weights(**STYLES[request.param]))


@pytest.fixture
def tiny_of() -> Callable[..., TinyModel]:
    """(style, seed) -> model."""
    return lambda style="grouped", seed=0: TinyModel(make_weights(seed, **STYLES[style]))


def random_batch(
    n_prompts: int = 4, n_pos: int = 7, *, n_shared: int = 1, seed: int = 0
) -> kc.PromptBatch:
    """Prompts that share their first tokens and differ in most of the others."""
    generator = np.random.default_rng(seed)
    clean = generator.integers(0, D_VOCAB, (n_prompts, n_pos))
    corrupt = (clean + generator.integers(1, D_VOCAB, clean.shape)) % D_VOCAB
    corrupt[:, :n_shared] = clean[:, :n_shared]
    target = generator.integers(0, D_VOCAB, n_prompts)
    pair = np.stack([target, (target + 1 + generator.integers(0, D_VOCAB - 1)) % D_VOCAB], 1)
    return kc.PromptBatch.from_tokens(clean, corrupt, pair)


@pytest.fixture
def make_batch() -> Callable[..., kc.PromptBatch]:
    """(n_prompts, n_pos, n_shared=, seed=) -> prompts."""
    return random_batch


def random_answers(
    n_tokens: tuple[tuple[int, int], ...] = ((1, 1), (2, 1), (1, 3), (2, 2)),
    lengths: tuple[int, ...] = (7, 5, 8, 6),
    *,
    n_shared: int = 1,
    seed: int = 0,
) -> kc.PromptBatch:
    """Prompts of several lengths, with answers of (target, foil) tokens and a known subject.

    Clean and corrupt differ in the subject's tokens alone. The padding holds tokens too, which
    nothing may read.
    """
    generator = np.random.default_rng(seed)
    prompt, pos = np.arange(len(n_tokens))[:, None], np.arange(max(lengths))[None]
    clean = generator.integers(0, D_VOCAB, (len(n_tokens), max(lengths)))
    clean[:, :n_shared] = clean[:1, :n_shared]
    subject = (pos >= n_shared) & (pos < n_shared + 1 + prompt % 2)
    is_padding = pos >= np.array(lengths)[:, None]
    other = (clean + generator.integers(1, D_VOCAB, clean.shape)) % D_VOCAB
    answers = [
        [generator.integers(0, D_VOCAB, n).tolist() for n in pair_of_lengths]
        for pair_of_lengths in n_tokens
    ]
    batch = kc.PromptBatch.from_tokens(
        clean, np.where(subject | is_padding, other, clean), answers, lengths=lengths
    )
    return replace(batch, subject_mask=subject)


@pytest.fixture
def make_answers() -> Callable[..., kc.PromptBatch]:
    """(n_tokens, lengths, n_shared=, seed=) -> prompts with answers of several tokens."""
    return random_answers


@pytest.fixture(scope="session")
def slow() -> ModuleType:
    """``slow_model.py``: the obvious forward pass beside this file."""
    file = Path(__file__).with_name("slow_model.py")
    spec = importlib.util.spec_from_file_location("slow_model", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["slow_model"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
