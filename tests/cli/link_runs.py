"""Run folders in which turnover precedes forgetting, and one edge marks the facts that stay."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

from kcircuits.core.facts import Fact
from kcircuits.core.topology import Topology
from kcircuits.io.jsonl import append_rows

TOPOLOGY = Topology(n_layers=4, n_heads=3)
N_EDGES, N_EPOCHS, N_PROBES, N_FACTS = 30, 7, 4, 48
MARK = "m0->m3"


def make_facts(synthetic: ModuleType) -> tuple[Fact, ...]:
    """One fact an entity, in two strata of exposure."""
    facts = synthetic.make_facts(N_FACTS, 8, facts_per_entity=1)
    return tuple(
        replace(fact, strata={**fact.strata, "exposure": str(1 + 2 * (i // (N_FACTS // 2)))})
        for i, fact in enumerate(facts)
    )


def is_lost(fact: int) -> bool:
    """Half of the facts of each stratum."""
    return fact // 2 % 2 == 1


def knowledge(seed: int) -> np.ndarray:
    """Half of the facts stay once they are acquired at epoch 1 or 2; others come and go."""
    rng = np.random.default_rng(seed)
    known = np.zeros((N_FACTS, N_EPOCHS), dtype=bool)
    for fact in range(N_FACTS):
        start = 1 + rng.integers(2)
        known[fact, start:] = True
        if is_lost(fact):
            known[fact, start + 2 + rng.integers(2) :] = False
    return known


def write_run(synthetic: ModuleType, folder: Path, seed: int, *, moved: float = 0.5) -> Path:
    """A run folder; a share ``moved`` of a circuit is exchanged in the step before forgetting."""
    rng = np.random.default_rng(seed)
    facts, known = make_facts(synthetic), knowledge(seed)
    mark = (
        np.flatnonzero(TOPOLOGY.edge_mask)
        .tolist()
        .index(np.ravel_multi_index(TOPOLOGY.edge_index(MARK), TOPOLOGY.edge_mask.shape))
    )
    epochs: dict[str, list] = {f"ep{t}": [] for t in range(N_EPOCHS)}
    for i, fact in enumerate(facts):
        signal, _ = synthetic.signal_pair(rng, TOPOLOGY.n_edges, N_EDGES, 0.0)
        for t, cells in enumerate(epochs.values()):
            is_next = t + 1 < N_EPOCHS and known[i, t - 1] and known[i, t] and not known[i, t + 1]
            if t and is_next:
                signal = _moved(rng, signal, moved)
            cutoff = np.sort(np.abs(signal))[-N_EDGES]
            signal[mark] = (0.01 if is_lost(i) else 5) * cutoff
            scores = synthetic.prompt_scores(rng, signal, 8, 0.25, cutoff)
            cell = synthetic._cell(
                fact, f"ep{t}", TOPOLOGY, N_EDGES, scores, is_known=bool(known[i, t])
            )
            cells.append(replace(cell, values={"logprob": float(rng.normal(-1 - known[i, t]))}))
    synthetic.write_run(folder, facts, epochs)
    for t in range(N_EPOCHS):
        head = {"checkpoint": f"ep{t}", "epoch": t, "strategy": "lora", "seed": seed}
        append_rows(
            folder / "probes.jsonl",
            [
                head
                | {"fact": fact.id, "prompt_idx": p, "kind": "paraphrase", "known_rule": "rank"}
                | {"logprob": -1.0, "known": bool(known[i, t] != (p == i % N_PROBES))}
                for i, fact in enumerate(facts)
                for p in range(N_PROBES)
            ],
        )
    return folder


def _moved(rng: np.random.Generator, signal: np.ndarray, share: float) -> np.ndarray:
    order = np.argsort(-np.abs(signal))
    n = round(share * N_EDGES)
    lost = rng.choice(order[:N_EDGES], n, replace=False)
    gained = rng.choice(order[N_EDGES:], n, replace=False)
    changed = signal.copy()
    changed[lost], changed[gained] = signal[gained], signal[lost]
    return changed
