"""Run folders as trainings leave them, with knowledge and a skill made here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kcircuits.cli.main import main
from kcircuits.core.facts import Fact, Prompt
from kcircuits.io.facts import write_facts
from kcircuits.io.jsonl import append_rows

N_FACTS, N_EPOCHS = 24, 6


def write_run(run: Path, seed: int, *, strategy: str = "full") -> Path:
    """A run whose trained facts are learned and whose skill is lost."""
    rng = np.random.default_rng(seed)
    for epoch in range(N_EPOCHS):
        head = {"checkpoint": f"ep{epoch}", "epoch": epoch, "strategy": strategy, "seed": seed}
        rows = []
        for i in range(N_FACTS):
            for p in range(3):
                z = rng.normal() + (1.2 * epoch - 2 if i % 4 else -1)
                about = {"fact": f"f{i}", "prompt_idx": p, "kind": "paraphrase", "rank": 1}
                answer = {"logprob": float(-np.log1p(np.exp(-z))), "known": bool(z > 0)}
                rows.append(head | about | answer | {"known_rule": "rank"})
        append_rows(run / "probes.jsonl", rows)
        items = (rng.random(50) < 0.9 - 0.1 * epoch).astype(int).tolist()
        skill = {"skill": "addition", "n": 50, "accuracy": sum(items) / 50, "per_item": items}
        append_rows(run / "skills.jsonl", [head | skill | {"items": "a"}])
    append_rows(run / "train.jsonl", [{"epoch": e, "loss": 3 / e} for e in range(1, N_EPOCHS)])
    return run


def write_lab(root: Path) -> Path:
    """Three seeds of a run, and their facts file."""
    prompt = Prompt(clean="a b", corrupt="a c", target=" x", foil=" y")
    facts = [
        Fact(
            id=f"f{i}", subject=f"person {i // 2}", relation="r", object="o", prompts=(prompt,),
            strata={"split": "trained" if i % 4 else "control"},
        )
        for i in range(N_FACTS)
    ]  # fmt: skip
    write_facts(facts, root / "facts.jsonl")
    for seed in range(3):
        folder = root / f"run{seed}"
        write_run(folder / "runs" / "tiny-full", seed)
        text = "schema_version: 1\nrun: tiny-full\nbase_model: models/tiny\n"
        text += "facts: ../facts.jsonl\n"
        text += "checkpoints: [{id: ep0, epoch: 0, path: models/tiny}]\n"
        (folder / "checkpoints_manifest.yaml").write_text(text)
    return root


def run_of(lab: Path, seed: int) -> Path:
    return lab / f"run{seed}" / "runs" / "tiny-full"


def run_json(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    assert main([*map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)
