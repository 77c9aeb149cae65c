"""Circuits of the EAP-IG library measure the same here as there.

``tests/io/eap_ig`` holds graphs that the library attributed, selected and saved on these random
models, and the metric of each prompt that its ``evaluate_graph`` gave for them.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import kcircuits as kc

FILES = Path(__file__).parents[1] / "io" / "eap_ig"
# Sums in another order: float64 at logits of order 1.
TOLERANCE = 1e-12


@pytest.mark.parametrize(
    ("variant", "file"),
    [("gpt2", "gpt2.json"), ("gpt2", "gpt2.pt"), ("gpt2", "nodes.pt"), ("llama", "llama.json"),
     ("neox", "neox.json")],
)  # fmt: skip
def test_saved_circuit_measures_as_in_the_library(tiny_folder, variant: str, file: str) -> None:
    import torch

    stored = json.loads((FILES / "metrics.json").read_text())
    name = Path(file).stem
    model = kc.load_model(tiny_folder(variant), dtype=torch.float64)
    tokens = [np.array(stored[what]) for what in ("clean", "corrupt", "target_foil")]
    batch = kc.PromptBatch.from_tokens(*tokens, fact_idx=np.zeros(2, dtype=int))
    graphs = kc.read_eap_ig(FILES / file, model.topology, fact_id=batch.fact_ids[0])
    result = kc.evaluate(model, batch, graphs.circuits)
    circuit = np.mean(stored["circuit"][name])
    full, empty = (np.mean(stored[run][variant]) for run in ("full", "empty"))
    assert abs(result.metric[0] - circuit) < TOLERANCE
    assert abs(result.clean_metric[0] - full) < TOLERANCE
    assert abs(result.empty_metric[0] - empty) < TOLERANCE
    # The circuit does something of its own, or the comparison would say little.
    assert min(abs(circuit - full), abs(circuit - empty)) > 1e-4


@pytest.mark.parametrize("variant", ["gpt2", "llama", "neox"])
def test_saved_scores_have_the_sign_and_the_values_of_ours(tiny_folder, variant: str) -> None:
    import torch

    stored = json.loads((FILES / "metrics.json").read_text())
    model = kc.load_model(tiny_folder(variant), dtype=torch.float64)
    tokens = [np.array(stored[what]) for what in ("clean", "corrupt", "target_foil")]
    batch = kc.PromptBatch.from_tokens(*tokens, fact_idx=np.zeros(2, dtype=int))
    ours = kc.attribute(model, batch, "eap-ig-inputs", ig_steps=5).values[0]
    theirs = kc.read_eap_ig(FILES / f"{variant}.json").scores.values[0]
    # They were made with a mean over the batch of 2, which the library divides by 2 again.
    assert np.abs(2 * theirs - ours).max() < TOLERANCE * np.abs(ours).max()
