"""Run folders with made-up results, and a browser that lets nothing pass."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

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
from kcircuits.study.run import Run, open_run

TOPOLOGY = Topology(n_layers=4, n_heads=3)
SETTINGS = {"method": "eap-ig-inputs", "params": {"ig_steps": 5}}
N_PROMPTS = 8
CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def make_fact(name: str, i: int) -> Fact:
    prompts = tuple(
        Prompt(
            clean=f"{p} {name} lives in",
            corrupt=f"{p} other lives in",
            target=" A",
            foil=" B",
            use="discovery",
        )
        for p in range(N_PROMPTS)
    )
    strata = {"split": "trained" if i % 2 else "control", "exposure": f"x{i % 3}"}
    return Fact(
        id=name, subject=f"Subject {name}", relation="city", object="A", prompts=prompts,
        strata=strata,
    )  # fmt: skip


def gate_cell(request: RequestRecord, record: FactRecord, n_edges: int) -> Cell:
    """Gates of one fact, near 1 on some edges and near 0 on the others."""
    rng = np.random.default_rng(len(record.id) + ord(record.id[-1]))
    topology, checkpoint = request.topology, request.checkpoints[-1]
    key = request.key(checkpoint, record)
    assert topology is not None
    assert key is not None
    gates = rng.beta(0.3, 0.6, size=(1, *topology.edge_mask.shape)) * topology.edge_mask
    gates = gates.astype(np.float32)
    candidates = candidate_edges(gates, topology, n_edges).astype(np.int32)
    return Cell(
        key=key, checkpoint=checkpoint.content_hash or "", fact_id=record.id,
        fact_hash=record.hash, topology=topology, n_edges=n_edges,
        provenance=Provenance(
            method="edge-pruning", params={"folds": 1, "n_folds": 1}, is_importance=True
        ),
        candidates=candidates, prompt_idx=np.zeros(1, dtype=np.int32),
        prompt_scores=gates.reshape(1, -1)[:, candidates], is_known=True,
        values={"faithfulness": 0.91, "hit_at_10": 1.0, "target_rank": 1.5},
    )  # fmt: skip


def make_run(
    folder: Path,
    *,
    n_epochs: int = 3,
    fact_ids: tuple[str, ...] = tuple(f"fact-{i}" for i in range(6)),
    has_probes: bool = True,
    topology: Topology = TOPOLOGY,
    name: str = "demo",
    missing: frozenset[tuple[str, int]] = frozenset(),
    fraction: float = 0.1,
    pruned: tuple[str, ...] = (),
) -> Run:
    """A run whose circuits drift a little from epoch to epoch; gates beside them, for some."""
    rng = np.random.default_rng(7)
    facts = [make_fact(fact_id, i) for i, fact_id in enumerate(fact_ids)]
    n_edges = int(fraction * topology.n_edges)
    records = [FactRecord(fact=f, hash=f.content_hash, tokens=f"t{i}") for i, f in enumerate(facts)]
    checkpoints = [
        CheckpointRecord(
            id=f"ep{e}", epoch=float(e), step=None, is_verified=e != 1,
            content_hash=hashlib.sha256(f"{e}".encode()).hexdigest(),
        )
        for e in range(n_epochs)
    ]  # fmt: skip
    request = RequestRecord(
        settings={**SETTINGS, "fraction": fraction}, batch_size=8, topology=topology,
        n_edges=n_edges, facts=tuple(records), checkpoints=tuple(checkpoints),
        batches=(tuple(fact_ids),),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    requests, side = (request,), None
    if pruned:
        side = replace(
            request,
            settings={**request.settings, "method": "edge-pruning", "params": {"folds": 1}},
            facts=tuple(r for r in records if r.id in pruned), checkpoints=checkpoints[-1:],
        )  # fmt: skip
        requests = (side, request)
    write_run_record(folder, RunRecord(run=name, manifest="m.yaml", requests=requests))
    store = Store(folder / "store")
    shape = topology.edge_mask.shape
    base = rng.normal(size=(len(facts), *shape)) * np.exp(1.2 * rng.normal(size=shape))
    drift = rng.normal(size=(len(facts), *shape))
    for e, checkpoint in enumerate(checkpoints):
        cells = []
        for i, record in enumerate(records):
            if (record.id, e) in missing:
                continue
            noise = 0.3 * rng.normal(size=(N_PROMPTS, *shape))
            scores = (base[i] + 0.2 * e * drift[i] + noise) * topology.edge_mask
            scores = scores.astype(np.float32)
            candidates = candidate_edges(scores, topology, n_edges).astype(np.int32)
            key = request.key(checkpoint, record)
            assert key is not None
            cells.append(
                Cell(
                    key=key, checkpoint=checkpoint.content_hash or "", fact_id=record.id,
                    fact_hash=record.hash, topology=topology, n_edges=n_edges,
                    provenance=Provenance(method="eap-ig-inputs", params={"ig_steps": 5}),
                    candidates=candidates, prompt_idx=np.arange(N_PROMPTS, dtype=np.int32),
                    prompt_scores=scores.reshape(N_PROMPTS, -1)[:, candidates],
                    is_known=i == 0 or i < 2 * e + 4,
                    values={
                        "faithfulness": None if i == 2 else 0.5 + 0.05 * i,
                        "hit_at_10": 1.0, "n_circuit_edges": n_edges - 2.0,
                        "prob": 0.1 * (e + 1), "logprob": -1.0, "rank": 3.0,
                    },
                )
            )  # fmt: skip
        if cells:
            store.commit(hashlib.sha256(f"batch {e}".encode()).hexdigest(), cells)
    if side is not None:
        cells = [gate_cell(side, record, n_edges) for record in side.facts]
        store.commit(hashlib.sha256(b"gates").hexdigest(), cells)
    if has_probes:
        probes = [
            {"checkpoint": f"ep{e}", "epoch": e, "fact": f, "prompt_idx": p, "known": i < 2 * e,
             "prob": 0.1 * (e + 1), "rank": 1}
            for e in range(n_epochs) for i, f in enumerate(fact_ids) for p in range(3)
        ]  # fmt: skip
        train = [{"epoch": e, "step": 10 * e, "loss": 3.0 / e} for e in range(1, n_epochs)]
        for file, rows in (("probes.jsonl", probes), ("train.jsonl", train)):
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_run(folder)


@pytest.fixture(scope="session")
def new_run(tmp_path_factory) -> Callable[..., Run]:
    return lambda **options: make_run(tmp_path_factory.mktemp("run"), **options)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A browser that closes with its file: while it runs, no other can be started."""
    chromium = shutil.which("chromium")
    if chromium is None:
        assert os.environ.get("CI") != "true", "chromium is missing: CI has to install it"
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path) -> Iterator[Callable]:
    """Opens an HTML text from a file; afterwards nothing may have been logged or requested."""
    problems: list[str] = []
    contexts = []

    def open_(html: str, *, width: int = 1280, height: int = 900):
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("request", lambda r: r.url == file.as_uri() or problems.append(f"request: {r.url}"))
        page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (e) =>"
            " console.error('policy: ' + e.violatedDirective + ' ' + e.sample))"
        )
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not problems
