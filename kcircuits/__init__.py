"""Knowledge circuits over epochs: one circuit per fact, tracked through continual pre-training.

Public names are loaded on first use: importing this package imports no torch, sets no seed and
touches no logging.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "BetweenFacts": "kcircuits.study.between.facts",
    "BetweenRuns": "kcircuits.study.between.runs",
    "BootstrapInterval": "kcircuits.core.bootstrap",
    "Cell": "kcircuits.core.cell",
    "Checkpoint": "kcircuits.core.manifest",
    "Circuits": "kcircuits.core.circuit",
    "Diff": "kcircuits.study.diff.diff",
    "Dynamics": "kcircuits.study.dynamics.dynamics",
    "EdgeScores": "kcircuits.core.scores",
    "EpochOverlap": "kcircuits.study.overlap.epoch_overlap",
    "Evaluation": "kcircuits.study.evaluation.evaluation",
    "Fact": "kcircuits.core.facts",
    "Faithfulness": "kcircuits.core.faithfulness",
    "FaithfulnessCurve": "kcircuits.core.curve",
    "Inspection": "kcircuits.study.track.inspection",
    "KCircuitsError": "kcircuits.errors",
    "Link": "kcircuits.study.link.link",
    "Lenses": "kcircuits.core.lenses",
    "Manifest": "kcircuits.core.manifest",
    "Model": "kcircuits.models",
    "Necessity": "kcircuits.evaluation",
    "NeuronScores": "kcircuits.core.scores",
    "NodeScores": "kcircuits.core.node_scores",
    "ProbeCallback": "kcircuits.lab.training.callback",
    "Prompt": "kcircuits.core.facts",
    "PromptBatch": "kcircuits.core.batch",
    "Recipe": "kcircuits.discovery.pruning",
    "Run": "kcircuits.study",
    "Topology": "kcircuits.core.topology",
    "Track": "kcircuits.study.track.track",
    "TrainingObserver": "kcircuits.lab.training.observer",
    "Transfer": "kcircuits.study.transfer.transfer",
    "attribute": "kcircuits.discovery.attribute",
    "attribute_neurons": "kcircuits.discovery.attribute",
    "bootstrap_faithfulness": "kcircuits.core.bootstrap",
    "bootstrap_mean": "kcircuits.core.bootstrap",
    "bootstrap_ratio": "kcircuits.core.bootstrap",
    "evaluate": "kcircuits.evaluation",
    "faithfulness_curve": "kcircuits.evaluation",
    "fetch_model": "kcircuits.models",
    "import_dynamics": "kcircuits.study.dynamics.dynamics",
    "link": "kcircuits.study.link.link",
    "lenses": "kcircuits.evaluation",
    "load_facts": "kcircuits.io.facts",
    "load_manifest": "kcircuits.io.manifest",
    "load_model": "kcircuits.models",
    "necessity": "kcircuits.evaluation",
    "observe": "kcircuits.lab.training.observer",
    "open_dynamics": "kcircuits.study.dynamics.dynamics",
    "open_run": "kcircuits.study",
    "probe": "kcircuits.evaluation",
    "prune": "kcircuits.discovery.prune",
    "prune_sizes": "kcircuits.discovery.prune",
    "pruning_bar": "kcircuits.discovery.prune",
    "random_circuits": "kcircuits.core.random_circuits",
    "read_eap_ig": "kcircuits.discovery.interchange",
    "replay_rules": "kcircuits.study.dynamics.stopping",
    "seed_overlap": "kcircuits.discovery.prune",
    "select": "kcircuits.core.selection",
    "select_nodes": "kcircuits.core.selection",
    "smallest_circuit": "kcircuits.evaluation",
    "stop_when": "kcircuits.analysis.stopping.online",
    "stopping_rule": "kcircuits.analysis.stopping.registry",
    "swap_checkpoint": "kcircuits.models",
    "tokenize": "kcircuits.models",
    "write_eap_ig": "kcircuits.discovery.interchange",
    "write_facts": "kcircuits.io.facts",
    "write_manifest": "kcircuits.io.manifest",
}

__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kcircuits' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
