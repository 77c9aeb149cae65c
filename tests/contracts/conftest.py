"""Tiny random models of every family, saved as real checkpoint folders."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL = {
    "vocab_size": 96,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}

PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}

# Name -> model_type and config: each family, and each setting that changes its numbers.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "gpt2",
        {"vocab_size": 96, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "gpt2-relu": (
        "gpt2",
        {
            "vocab_size": 96,
            "n_embd": 24,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 20,
            "n_inner": 56,
            "activation_function": "relu",
            "layer_norm_epsilon": 1e-2,
            "tie_word_embeddings": False,
        },
    ),
    "neox": (
        "gpt_neox",
        {**SMALL, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                                      "partial_rotary_factor": 0.67}},
    ),
    "neox-sequential": (
        "gpt_neox",
        {**SMALL, "use_parallel_residual": False,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                             "partial_rotary_factor": 1.0}},
    ),
    "llama": ("llama", GROUPED),
    "llama-biases-untied": (
        "llama",
        {**GROUPED, "attention_bias": True, "tie_word_embeddings": False, "rms_norm_eps": 1e-2},
    ),
    "llama-rope-llama3": ("llama", {**GROUPED, "rope_parameters": LLAMA3}),
    "llama-rope-linear": (
        "llama",
        {**GROUPED, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}},
    ),
    "llama-ungrouped": ("llama", {**GROUPED, "num_key_value_heads": 4}),
    "qwen2": ("qwen2", {**SMALL, "num_key_value_heads": 2}),
    "qwen2-window": (
        "qwen2",
        {
            **SMALL,
            "num_key_value_heads": 2,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
        },
    ),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 16}),
    "qwen3-biases-window": (
        "qwen3",
        {
            **GROUPED,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            **GROUPED,
            "head_dim": 16,
            "query_pre_attn_scalar": 20,
            "sliding_window": 6,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": GEMMA_ROPE,
        },
    ),
    "gemma3-biases-capped": (
        "gemma3_text",
        {
            **GROUPED,
            "attention_bias": True,
            "final_logit_softcapping": 5.0,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": GEMMA_ROPE,
            "sliding_window": 5,
        },
    ),
    "gemma2": (
        "gemma2",
        {
            **GROUPED,
            "head_dim": 16,
            "query_pre_attn_scalar": 20,
            "sliding_window": 6,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma2-biases-uncapped": (
        "gemma2",
        {
            **GROUPED,
            "attention_bias": True,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": False,
        },
    ),
    "phi": ("phi", {**SMALL, "hidden_size": 32, "rope_parameters": PARTIAL}),
    "phi-relu-tied": (
        "phi",
        {
            **SMALL,
            "hidden_act": "relu",
            "layer_norm_eps": 1e-2,
            "rope_parameters": {**PARTIAL, "partial_rotary_factor": 1.0},
            "tie_word_embeddings": True,
        },
    ),
    "olmo": ("olmo", {**SMALL, "tie_word_embeddings": True}),
    "olmo-clipped-biases": ("olmo", {**SMALL, "clip_qkv": 0.7, "attention_bias": True}),
    "olmo2": ("olmo2", SMALL),
    "olmo2-biases": (
        "olmo2",
        {
            **SMALL,
            "attention_bias": True,
            "rms_norm_eps": 1e-2,
            "rope_parameters": LLAMA3,
            "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip

MakeFolder = Callable[..., Path]


def save_random(target: Path, variant: str, seed: int = 0, **changes: Any) -> Path:
    """A random float64 model; biases and norms too are away from their defaults."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, fields = VARIANTS[variant]
    config = AutoConfig.for_model(model_type, **{**fields, **changes})
    shard_size = changes.pop("max_shard_size", "1GB")
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.mul_(0).add_(noise, alpha=0.3)
        model.save_pretrained(target, max_shard_size=shard_size)
    return target


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """(variant, seed, **config changes) -> a checkpoint folder, made once and only to be read."""
    made: dict[Any, Path] = {}

    def make(variant: str = "llama", seed: int = 0, **changes: Any) -> Path:
        key = (variant, seed, repr(sorted(changes.items())))
        if key not in made:
            made[key] = save_random(tmp_path_factory.mktemp(variant), variant, seed, **changes)
        return made[key]

    return make


@pytest.fixture(scope="session")
def plain_model() -> Callable[..., Any]:
    """(folder, dtype) -> what transformers alone makes of it; in float64, rotary angles too."""
    import torch
    from transformers import AutoModelForCausalLM

    from kcircuits.models.reference import set_rotary_buffers

    def load(folder: Path, dtype: torch.dtype = torch.float64) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        if dtype == torch.float64:
            set_rotary_buffers(model, dtype)
        return model.eval()

    return load


def random_prompts() -> Any:
    """Three prompts of different lengths, for vocabularies of 96 tokens.

    Clean and corrupt share the first two tokens. The padding holds tokens, which nothing may read.
    """
    import numpy as np

    import kcircuits as kc

    clean, corrupt = np.random.default_rng(0).integers(0, 96, (2, 3, 10))
    corrupt[:, :2] = clean[:, :2]
    answers = [[1, 2], [30, 4], [50, 60]]
    return kc.PromptBatch.from_tokens(clean, corrupt, answers, lengths=[10, 7, 9])


@pytest.fixture
def batch() -> Any:
    """``random_prompts``."""
    return random_prompts()


@pytest.fixture(scope="session", params=sorted(VARIANTS))
def variant(request: pytest.FixtureRequest) -> str:
    """The name of each family's variant in turn."""
    return request.param


@pytest.fixture(scope="session")
def variant_types() -> set[str]:
    """The model types that the variants cover."""
    return {model_type for model_type, _ in VARIANTS.values()}
