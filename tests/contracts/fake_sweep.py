"""A sweep without a model: numbers that follow from names alone, in an instant.

As a script it sweeps a folder and kills itself at the n-th fsync:

    python fake_sweep.py FOLDER N
"""

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kcircuits.core.batch import PromptBatch
from kcircuits.core.facts import Fact, Prompt
from kcircuits.core.faithfulness import Faithfulness
from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.core.provenance import Provenance
from kcircuits.core.scores import EdgeScores
from kcircuits.core.topology import Topology
from kcircuits.errors import CheckpointError
from kcircuits.sweep.compute import BatchResult, Loaded
from kcircuits.sweep.local import run_local
from kcircuits.sweep.request import Request, make_settings

TOPOLOGY = Topology(n_layers=2, n_heads=2)


def hash_of(checkpoint: Checkpoint) -> str:
    if not checkpoint.path.exists():
        raise CheckpointError("no such checkpoint", file=checkpoint.path)
    return hashlib.sha256(checkpoint.path.read_bytes()).hexdigest()


class FakeCompute:
    """``Compute`` on checkpoints that are text files."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.batches: list[tuple[str, ...]] = []
        self.noise = 0.0
        self.nan_fact: str | None = None
        self.before_batch: Callable[[], None] = lambda: None

    def load(self, checkpoint: Checkpoint, previous: Loaded | None) -> Loaded:
        assert previous is None or previous.topology == TOPOLOGY
        self.loads.append(checkpoint.id)
        text = checkpoint.path.read_text()
        if "broken" in text:
            raise CheckpointError("tensor wte is missing", file=checkpoint.path)
        return Loaded(model=text, topology=TOPOLOGY, content_hash=hash_of(checkpoint))

    def tokenize(self, loaded: Loaded, facts: Sequence[Fact]) -> PromptBatch:
        rows = [
            (f, p, prompt) for f, fact in enumerate(facts) for p, prompt in enumerate(fact.prompts)
        ]
        clean, corrupt = (
            [[*map(ord, getattr(r[2], side))] for r in rows] for side in ("clean", "corrupt")
        )
        shift = 1 if "other tokenizer" in loaded.model else 0
        width = max(map(len, clean))
        return PromptBatch(
            clean=np.array([ids + [0] * (width - len(ids)) for ids in clean]) + shift,
            corrupt=np.array([ids + [0] * (width - len(ids)) for ids in corrupt]) + shift,
            lengths=np.array([len(ids) for ids in clean]),
            targets=tuple((ord(r[2].target[1]),) for r in rows),
            foils=tuple((ord(r[2].foil[1]),) for r in rows),
            fact_idx=np.array([r[0] for r in rows]),
            fact_ids=tuple(fact.id for fact in facts),
            prompt_idx=np.array([r[1] for r in rows]),
            uses=tuple(facts[r[0]].use_of(r[1]) for r in rows),
        )

    def attribute(
        self, loaded: Loaded, batch: PromptBatch, n_edges: int, advance: Callable[[int], object]
    ) -> BatchResult:
        self.before_batch()
        self.batches.append(batch.fact_ids)
        found = batch.with_use("discovery")
        values = np.stack([self._scores(loaded, found, row) for row in range(len(found))])
        advance(len(found))
        n_facts = batch.n_facts
        return BatchResult(
            scores=EdgeScores(
                values=values,
                topology=TOPOLOGY,
                fact_ids=batch.fact_ids,
                fact_idx=found.fact_idx,
                prompt_idx=found.prompt_idx,
                provenance=Provenance(method="eap", params={"metric": "logit-difference"}),
            ),
            faithfulness=Faithfulness(
                fact_ids=batch.fact_ids,
                metric=np.full(n_facts, 0.5),
                clean_metric=np.ones(n_facts),
                empty_metric=np.zeros(n_facts),
                faithfulness=np.full(n_facts, np.nan),
                is_gated=np.ones(n_facts, dtype=bool),
                hit_at_k=np.ones(n_facts),
                k=10,
                target_rank=np.ones(n_facts),
                ablation="corrupt",
                prompts="evaluation",
            ),
            probes=[
                {"fact": name, "prob": 0.5, "logprob": -0.7, "rank": rank}
                for name in batch.fact_ids
                for rank in (1, 4)
            ],
            is_known={name: name != "f1" for name in batch.fact_ids},
            n_circuit_edges=dict.fromkeys(batch.fact_ids, n_edges),
        )

    def _scores(self, loaded: Loaded, batch: PromptBatch, row: int) -> np.ndarray:
        name = f"{loaded.model} {batch.fact_ids[batch.fact_idx[row]]} {batch.prompt_idx[row]}"
        rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
        scores = rng.standard_t(2, size=TOPOLOGY.edge_mask.shape) * TOPOLOGY.edge_mask
        scores += self.noise * TOPOLOGY.edge_mask
        if batch.fact_ids[batch.fact_idx[row]] == self.nan_fact:
            scores[0, 3] = np.nan
        return scores.astype(np.float32)


def make_fact(name: str) -> Fact:
    prompts = tuple(
        Prompt(clean=f"{i} A of {name}", corrupt=f"{i} B of {name}", target=" x", foil=" y")
        for i in range(8)
    )
    return Fact(
        id=name, subject=f"s {name}", relation="r", object="x", prompts=prompts, strata={"k": name}
    )


def make_request(folder: Path, *, n_checkpoints: int = 2, n_facts: int = 5) -> Request:
    checkpoints = tuple(
        Checkpoint(id=f"ep{i}", path=folder / f"ep{i}.txt", epoch=i) for i in range(n_checkpoints)
    )
    for checkpoint in checkpoints:
        if not checkpoint.path.exists():
            checkpoint.path.write_text(f"weights of {checkpoint.id}")
    facts = tuple(make_fact(f"f{i}") for i in range(n_facts))
    manifest = Manifest(
        schema_version=1,
        run="fake",
        base_model="fake",
        facts=folder / "facts.jsonl",
        checkpoints=checkpoints,
        path=folder / "checkpoints_manifest.yaml",
    )
    return Request(
        manifest=manifest,
        known_facts=facts,
        facts=facts,
        checkpoints=checkpoints,
        settings=make_settings(n_edges=4),
        batch_size=2,
    )


def die_at_fsync(n: int) -> None:
    whole, calls = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == n:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(descriptor)

    os.fsync = fsync


if __name__ == "__main__":
    root = Path(sys.argv[1])
    die_at_fsync(int(sys.argv[2]))
    run_local(make_request(root), root / "run", FakeCompute(), hash_of=hash_of)
