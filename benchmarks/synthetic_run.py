"""A run folder with invented scores: a true circuit per fact, seen through noise per prompt.

Signals are log-normal with random signs over all edges. A prompt's score is off by normal noise,
``noise`` times the signal plus .3 ``noise`` times the smallest signal in the circuit; at .7 two
halves of 8 prompts share two thirds of the top 616 of 123,211 edges. ``moved`` exchanges that share
of a fact's circuit with edges outside it between two epochs.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kcircuits.core.candidates import candidate_edges
from kcircuits.core.cell import Cell
from kcircuits.core.facts import Fact, Prompt
from kcircuits.core.provenance import Provenance
from kcircuits.core.topology import Topology
from kcircuits.io.run_record import (
    CheckpointRecord,
    FactRecord,
    RequestRecord,
    RunRecord,
    write_run_record,
)
from kcircuits.io.store import Store

RELATIONS = ("birthplace", "employer", "field", "university")
PROVENANCE = Provenance(method="eap-ig-inputs", params={"ig_steps": 5})


def make_facts(n_facts: int, n_prompts: int, *, facts_per_entity: int = 2) -> tuple[Fact, ...]:
    """Facts about invented people, in the strata frequency (high, low)."""
    facts = []
    for i in range(n_facts):
        subject, relation = f"Person {i // facts_per_entity}", RELATIONS[i % len(RELATIONS)]
        prompts = tuple(
            Prompt(
                clean=f"{subject} has the {relation}, phrase {k},",
                corrupt=f"Person X has the {relation}, phrase {k},",
                target=" yes",
                foil=" no",
                use="discovery",
            )
            for k in range(n_prompts)
        )
        strata = {"frequency": "high" if i % 2 else "low"}
        facts.append(
            Fact(
                id=f"fact-{i:03d}",
                subject=subject,
                relation=relation,
                object="yes",
                prompts=prompts,
                strata=strata,
            )
        )
    return tuple(facts)


def make_cells(
    facts: Sequence[Fact],
    topology: Topology,
    *,
    n_edges: int,
    moved: Sequence[float] | float = 0.0,
    noise: float = 0.7,
    unknown: Sequence[str] = (),
    seed: int = 0,
) -> tuple[list[Cell], list[Cell]]:
    """Cells of all facts at two epochs, ``a`` and ``b``; facts ``unknown`` are so at ``a``."""
    rng = np.random.default_rng(seed)
    shares = np.broadcast_to(moved, len(facts))
    before, after = [], []
    for fact, share in zip(facts, shares, strict=True):
        first, second = signal_pair(rng, topology.n_edges, n_edges, float(share))
        cutoff = np.sort(np.abs(first))[-n_edges]
        for cells, checkpoint, signal in ((before, "a", first), (after, "b", second)):
            scores = prompt_scores(rng, signal, len(fact.prompts), noise, cutoff)
            is_known = not (checkpoint == "a" and fact.id in unknown)
            cells.append(_cell(fact, checkpoint, topology, n_edges, scores, is_known=is_known))
    return before, after


def make_epochs(
    facts: Sequence[Fact],
    topology: Topology,
    *,
    n_edges: int,
    steps: Sequence[float],
    noise: float = 0.7,
    known: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[dict[str, list[Cell]], np.ndarray]:
    """Cells of all facts at epochs ep0, ep1, ..., and their true scores [fact, epoch, edge].

    ``steps`` says which share of every circuit moves from an epoch to the next, ``known`` [fact,
    epoch] where facts are known (default everywhere). A prompt's noise is drawn once per epoch.
    """
    rng = np.random.default_rng(seed)
    epochs: dict[str, list[Cell]] = {f"ep{i}": [] for i in range(len(steps) + 1)}
    signals = np.zeros((len(facts), len(epochs), topology.n_edges))
    for i, fact in enumerate(facts):
        signal = signal_pair(rng, topology.n_edges, n_edges, 0.0)[0]
        cutoff = np.sort(np.abs(signal))[-n_edges]
        for t, (name, cells) in enumerate(epochs.items()):
            signal = signal if t == 0 else move_edges(rng, signal, n_edges, steps[t - 1])
            signals[i, t] = signal
            scores = prompt_scores(rng, signal, len(fact.prompts), noise, cutoff)
            is_known = known is None or bool(known[i, t])
            cells.append(_cell(fact, name, topology, n_edges, scores, is_known=is_known))
    return epochs, signals


def signal_pair(
    rng: np.random.Generator, n_total: int, n_edges: int, moved: float
) -> tuple[np.ndarray, np.ndarray]:
    """True scores at two epochs; a share of the circuit changes places with edges outside."""
    first = rng.lognormal(0, 1.5, n_total) * rng.choice([-1, 1], n_total)
    return first, move_edges(rng, first, n_edges, moved)


def move_edges(
    rng: np.random.Generator, first: np.ndarray, n_edges: int, moved: float
) -> np.ndarray:
    """True scores after a share of the circuit has changed places with edges outside."""
    second = first.copy()
    order = np.argsort(-np.abs(first))
    n_moved = round(moved * n_edges)
    lost = rng.choice(order[:n_edges], n_moved, replace=False)
    gained = rng.choice(order[n_edges:], n_moved, replace=False)
    second[lost], second[gained] = first[gained], first[lost]
    return second


def related_signals(
    rng: np.random.Generator,
    groups: Sequence[str],
    n_total: int,
    n_edges: int,
    *,
    shared: float = 0.0,
    within: float = 0.0,
) -> np.ndarray:
    """True scores [fact, edge] of circuits that share edges.

    Of each circuit the share ``shared`` is in those of all facts, ``within`` in those of its group
    and the rest is its own. An edge is as strong in every circuit that has it.
    """
    order = rng.permutation(n_total)
    n_shared, n_within = round(shared * n_edges), round(within * n_edges)
    ends = n_shared + n_within * np.arange(1 + len(set(groups)))
    parts = dict(zip(dict.fromkeys(groups), np.split(order, ends)[1:], strict=False))
    signals = 0.05 * rng.lognormal(0, 0.5, (len(groups), n_total))
    strength = 2 * rng.lognormal(0, 0.5, n_total)
    for signal, group in zip(signals, groups, strict=True):
        inside = np.concatenate([order[:n_shared], parts[group]])
        own = rng.choice(np.setdiff1d(order, inside), n_edges - len(inside), replace=False)
        circuit = np.concatenate([inside, own])
        signal[circuit] = strength[circuit]
    return signals * rng.choice([-1, 1], n_total)


def related_scores(
    rng: np.random.Generator,
    signals: np.ndarray,
    templates: Sequence[Sequence[str]],
    *,
    noise: float = 0.7,
    template_noise: float = 0.0,
) -> list[np.ndarray]:
    """Scores [prompt, edge] of each fact; prompts of one template share part of their noise."""
    names = dict.fromkeys(name for rows in templates for name in rows)
    shared = {name: template_noise * rng.standard_normal(signals.shape[1]) for name in names}
    return [
        prompt_scores(rng, signal, len(rows), noise, 1.0) + np.stack([shared[n] for n in rows])
        for signal, rows in zip(signals, templates, strict=True)
    ]


def make_related_cells(
    facts: Sequence[Fact],
    topology: Topology,
    *,
    n_edges: int,
    shared: float = 0.2,
    within: float = 0.3,
    noise: float = 0.7,
    template_noise: float = 0.0,
    unknown: Sequence[str] = (),
    seed: int = 0,
) -> list[Cell]:
    """Cells of one epoch whose circuits share edges with all facts and with their relation's."""
    rng = np.random.default_rng(seed)
    relations = [fact.relation for fact in facts]
    signals = related_signals(
        rng, relations, topology.n_edges, n_edges, shared=shared, within=within
    )
    templates = [[p.clean.replace(f.subject, "{}") for p in f.prompts] for f in facts]
    scores = related_scores(rng, signals, templates, noise=noise, template_noise=template_noise)
    return [
        _cell(fact, "a", topology, n_edges, rows, is_known=fact.id not in unknown)
        for fact, rows in zip(facts, scores, strict=True)
    ]


def prompt_scores(
    rng: np.random.Generator, signal: np.ndarray, n_prompts: int, noise: float, cutoff: float
) -> np.ndarray:
    """Scores [prompt, edge] around a signal whose circuit ends at ``cutoff``."""
    relative, absolute = rng.standard_normal((2, n_prompts, len(signal)))
    return signal * (1 + noise * relative) + 0.3 * noise * cutoff * absolute


def write_run(
    folder: Path, facts: Sequence[Fact], epochs: dict[str, list[Cell]], *, batch_size: int = 16
) -> Path:
    """Writes a run folder whose checkpoints have the given cells."""
    names = list(epochs)
    first = epochs[names[0]][0]
    request = RequestRecord(
        settings={"method": first.provenance.method, "fraction": None, "n_edges": first.n_edges},
        batch_size=batch_size,
        topology=first.topology,
        n_edges=first.n_edges,
        facts=tuple(
            FactRecord(fact=f, hash=f.content_hash, tokens=f"tokens {f.id}") for f in facts
        ),
        checkpoints=tuple(
            CheckpointRecord(
                id=name, epoch=float(i), step=100 * i, content_hash=f"{i:064x}", is_verified=i > 0
            )
            for i, name in enumerate(names)
        ),
        batches=(),
    )
    store = Store(folder / "store")
    with store.writing():
        for checkpoint in request.checkpoints:
            cells = [
                replace(cell, checkpoint=checkpoint.content_hash, key=request.key(checkpoint, fact))
                for cell, fact in zip(epochs[checkpoint.id], request.facts, strict=True)
            ]
            for start in range(0, len(cells), batch_size):
                batch = f"{checkpoint.id}-{start:04d}"
                store.commit(batch, cells[start : start + batch_size])
    write_run_record(folder, RunRecord(run="synthetic", manifest="none", requests=(request,)))
    return folder


def _cell(
    fact: Fact,
    checkpoint: str,
    topology: Topology,
    n_edges: int,
    scores: np.ndarray,
    *,
    is_known: bool,
) -> Cell:
    dense = np.zeros((len(scores), topology.n_forward, topology.n_backward), dtype=np.float32)
    dense[:, topology.edge_mask] = scores
    candidates = candidate_edges(dense, topology, n_edges)
    return Cell(
        key=f"{checkpoint} {fact.id}",
        checkpoint=checkpoint,
        fact_id=fact.id,
        fact_hash=fact.content_hash,
        provenance=PROVENANCE,
        topology=topology,
        n_edges=n_edges,
        candidates=candidates,
        prompt_idx=np.arange(len(scores)),
        prompt_scores=dense.reshape(len(scores), -1)[:, candidates],
        is_known=is_known,
        values={},
    )
