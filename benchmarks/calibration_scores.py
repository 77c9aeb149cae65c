"""Scores of real models to calibrate the statistics of change on: many prompts, one checkpoint.

- ``real_scores``: EAP-IG of 48 facts of the world that SmolLM2-135M-Instruct knows; 16 prompts.
- ``pruning_scores``: gates of edge pruning by several seeds, 8 folds of each fact's prompts, of a
  model that was made on the spot and knows 32 people.

Both are kept in the work folder and read from there the next time.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import kcircuits as kc
from kcircuits.core.candidates import candidate_edges, flat_edges
from kcircuits.discovery.prune_folds import prune_folds
from kcircuits.lab.benchmark.spec_file import load_spec
from kcircuits.lab.build import build
from kcircuits.lab.scratch import ScratchSpec, make_base

SPEC = """\
schema_version: 1
relations: [birthplace]
people: {trained: {high: 2, low: 2}}
documents: short
prompts: {discovery: 8, evaluation: 4, candidates: 24}
probes: {paraphrase: 4}
real: {relations: [capital, element, country], control: {known: 48}}
"""
FRACTION, SCRATCH_FRACTION, N_FOLDS = 0.005, 0.05, 8


@dataclass(frozen=True, kw_only=True)
class FactScores:
    """One fact.

    Attributes:
        subject: Its entity.
        relation: Facts of one relation have the same templates, in the same order.
        candidates: Flat edge indices.
        values: Scores; of several seeds, one array each.
    """

    subject: str
    relation: str
    candidates: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All facts, and the budget of their circuits."""

    facts: tuple[FactScores, ...]
    topology: kc.Topology
    n_edges: int


def real_scores(work: Path) -> Scores:
    """[prompt, candidate] of each fact."""
    spec = work / "spec.yaml"
    work.mkdir(parents=True, exist_ok=True)
    spec.write_text(SPEC)
    built = build("small", work / "real", spec=spec)
    facts = [fact for fact in kc.load_facts(built.facts) if fact.strata.get("prior") == "known"]
    facts = [
        replace(f, prompts=tuple(replace(p, use="discovery") for p in f.prompts)) for f in facts
    ]

    def score() -> tuple[list[np.ndarray], kc.Topology]:
        model = kc.load_model(built.base)
        found = kc.attribute(model, kc.tokenize(model, facts), reduce="prompt")
        return [found.values[found.fact_idx == i] for i in range(len(facts))], found.topology

    return _kept(work / "real.npz", facts, score, FRACTION)


def pruning_scores(work: Path, n_seeds: int, n_facts: int = 32) -> Scores:
    """[seed, fold, candidate] of each fact that the model knows."""
    folder = work / "scratch"
    scratch = ScratchSpec(n_controls=n_facts)
    facts = list(make_base(scratch, load_spec("smoke"), folder, seed=0))
    model = kc.load_model(folder)
    batch = kc.tokenize(model, facts)
    known = {row["fact"] for row in kc.probe(model, batch) if row["known"]}
    facts = [fact for fact in facts if fact.id in known]
    batch = kc.tokenize(model, facts)

    def score() -> tuple[list[np.ndarray], kc.Topology]:
        n_edges = round(SCRATCH_FRACTION * model.topology.n_edges)
        by_seed = []
        for seed in range(n_seeds):
            recipe = kc.Recipe(seed=seed)
            by_seed.append(prune_folds(model, batch, n_edges, n_folds=N_FOLDS, recipe=recipe))
            print(f"pruning seed {seed + 1} of {n_seeds}", flush=True)
        index = by_seed[0].fact_idx
        gates = [np.stack([s.values[index == i] for s in by_seed]) for i in range(len(facts))]
        return gates, model.topology

    return _kept(work / "pruning.npz", facts, score, SCRATCH_FRACTION)


def _kept(file: Path, facts, score, fraction: float) -> Scores:
    """Scores on candidate edges, from the file where it is there."""
    if not file.exists():
        values, topology = score()
        n_edges = round(fraction * topology.n_edges)
        tables = {"graph": np.array([topology.n_layers, topology.n_heads])}
        for i, of_fact in enumerate(values):
            rows = of_fact.reshape(-1, *topology.edge_mask.shape)
            candidates = candidate_edges(rows, topology, n_edges) if of_fact.ndim == 3 else None
            if candidates is None:  # gates of several seeds: a few edges, all of them are kept
                candidates = flat_edges(topology)
            flat = of_fact.reshape(*of_fact.shape[:-2], -1)
            tables |= {f"candidates{i}": candidates, f"values{i}": flat[..., candidates]}
        np.savez(file, **tables)
    kept = np.load(file)
    n_layers, n_heads = kept["graph"].tolist()
    topology = kc.Topology(n_layers=n_layers, n_heads=n_heads)
    return Scores(
        facts=tuple(
            FactScores(
                subject=fact.subject,
                relation=fact.relation,
                candidates=kept[f"candidates{i}"],
                values=kept[f"values{i}"],
            )
            for i, fact in enumerate(facts)
        ),
        topology=topology,
        n_edges=round(fraction * topology.n_edges),
    )
