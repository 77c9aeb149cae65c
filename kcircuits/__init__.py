"""Knowledge circuits over epochs: one circuit per fact, tracked through continual pre-training.

Public names are loaded on first use: importing this package imports no torch, sets no seed and
touches no logging.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Checkpoint": "kcircuits.core.manifest",
    "Circuits": "kcircuits.core.circuit",
    "EdgeScores": "kcircuits.core.scores",
    "Fact": "kcircuits.core.facts",
    "Faithfulness": "kcircuits.core.faithfulness",
    "Manifest": "kcircuits.core.manifest",
    "Model": "kcircuits.models",
    "Prompt": "kcircuits.core.facts",
    "PromptBatch": "kcircuits.core.batch",
    "Topology": "kcircuits.core.topology",
    "attribute": "kcircuits.discovery.attribute",
    "evaluate": "kcircuits.evaluation",
    "load_facts": "kcircuits.io.facts",
    "load_manifest": "kcircuits.io.manifest",
    "load_model": "kcircuits.models",
    "open_run": "kcircuits.study",
    "probe": "kcircuits.evaluation",
    "select": "kcircuits.core.selection",
    "swap_checkpoint": "kcircuits.models",
    "tokenize": "kcircuits.models",
}

__all__ = ["KCircuitsError", "__version__", *_PUBLIC]  # names of lazy attributes


def __getattr__(name: str) -> Any:
    if name == "KCircuitsError":
        return importlib.import_module("kcircuits.errors").KCircuitsError
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kcircuits' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
