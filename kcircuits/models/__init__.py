"""Checkpoint folders become models, and text becomes tokens for them.

The only package that knows TransformerLens. Names are loaded on first use, because importing
torch and TransformerLens takes seconds.
"""

import importlib
from typing import Any

_PUBLIC = {
    "Model": "kcircuits.models.load",
    "TransformerWeights": "kcircuits.models.weights",
    "fetch_model": "kcircuits.models.fetch",
    "load_model": "kcircuits.models.load",
    "swap_checkpoint": "kcircuits.models.load",
    "tokenize": "kcircuits.models.prompts",
    "tokenize_facts": "kcircuits.models.prompts",
    "weights_from_bridge": "kcircuits.models.bridge",
    "weights_from_hooked": "kcircuits.models.hooked_weights",
}

__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kcircuits.models' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
