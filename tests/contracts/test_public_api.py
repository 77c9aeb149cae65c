"""The public face: which names there are, that they say what they are, and what they cost."""

import subprocess
import sys

import pytest

import kcircuits as kc

# A name that goes or comes is a change that users have to be told of: see CHANGELOG.md.
LIGHT = [  # answer without torch
    "BetweenFacts", "BetweenRuns", "BootstrapInterval", "Cell", "Checkpoint", "Circuits", "Diff",
    "Dynamics", "EdgeScores", "EpochOverlap", "Evaluation", "Fact", "Faithfulness",
    "FaithfulnessCurve", "Inspection", "KCircuitsError", "Lenses", "Link", "Manifest",
    "NeuronScores", "NodeScores", "Prompt", "PromptBatch", "Run", "Topology", "Track", "Transfer",
    "bootstrap_faithfulness", "bootstrap_mean", "bootstrap_ratio", "import_dynamics", "link",
    "load_facts", "load_manifest", "open_dynamics", "open_run", "random_circuits", "read_eap_ig",
    "replay_rules", "select", "select_nodes", "stop_when", "stopping_rule", "write_eap_ig",
    "write_facts", "write_manifest",
]  # fmt: skip
HEAVY = [
    "Model", "Necessity", "ProbeCallback", "Recipe", "TrainingObserver", "attribute",
    "attribute_neurons", "evaluate", "faithfulness_curve", "fetch_model", "lenses", "load_model",
    "necessity", "observe", "probe", "prune", "prune_sizes", "pruning_bar", "seed_overlap",
    "smallest_circuit", "swap_checkpoint", "tokenize",
]  # fmt: skip


def run_python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_these() -> None:
    assert dir(kc) == sorted(kc.__all__) == sorted(["__version__", *LIGHT, *HEAVY])


@pytest.mark.parametrize("name", [*LIGHT, *HEAVY])
def test_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(kc, name)
    assert callable(value)
    assert value.__name__ == name
    # A dataclass without a docstring of its own gets its signature as one.
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'atribute'"):
        _ = kc.atribute


def test_importing_touches_nothing() -> None:
    run_python(
        "import logging, random, sys, warnings\n"
        "before = random.getstate(), logging.root.handlers[:], logging.root.level, "
        "warnings.filters[:]\n"
        "import kcircuits\n"
        "after = random.getstate(), logging.root.handlers[:], logging.root.level, "
        "warnings.filters[:]\n"
        "assert after == before\n"
        "heavy = {'torch', 'numpy', 'plotly', 'transformers', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def test_names_for_reading_import_no_torch() -> None:
    run_python(
        "import sys, kcircuits as kc\n"
        f"for name in {LIGHT}: getattr(kc, name)\n"
        "import kcircuits.cli.diff, kcircuits.study.diff.page, kcircuits.discovery\n"
        "heavy = {'torch', 'transformers', 'transformer_lens'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
