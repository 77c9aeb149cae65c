"""A built benchmark around a tiny model, in seconds."""

import json
from dataclasses import asdict

from kcircuits.io.facts import write_facts
from kcircuits.lab.benchmark.generate import generate
from kcircuits.lab.benchmark.spec import BenchmarkSpec, Tolerances
from kcircuits.lab.build import DOCUMENTS, FACTS, Built
from kcircuits.lab.scratch import ScratchSpec, make_base
from kcircuits.lab.training.train import load_base

SPEC = BenchmarkSpec(people={"high": 2, "low": 2}, relations=("birthplace", "profession"))
TINY = ScratchSpec(
    n_layers=2, n_heads=2, d_model=16, n_helpers=4, n_controls=2, n_texts=1, n_epochs=2
)


def build_tiny(folder):
    """As ``build`` leaves it, by the preset ``smoke``."""
    controls = make_base(TINY, SPEC, folder / "model", seed=0)
    _, tokenizer = load_base(folder / "model")
    benchmark = generate(SPEC, tokenizer, seed=0)
    write_facts((*benchmark.facts, *controls), folder / FACTS)
    rows = [json.dumps(asdict(document)) + "\n" for document in benchmark.documents]
    (folder / DOCUMENTS).write_text("".join(rows))
    request = {"preset": "smoke", "seed": 0, "model": None, "spec": SPEC.to_json()}
    record = {"request": request, "base": "model", "base_name": "tiny"}
    (folder / "lab.json").write_text(json.dumps(record))
    return Built(
        folder=folder,
        preset="smoke",
        seed=0,
        base=folder / "model",
        base_name="tiny",
        tolerances=Tolerances(),
    )
