"""``memory`` is kept to: measured peaks of every family and every kind of run.

The plan is an upper bound that is counted by hand (``engine.footprint``); what runs really hold is
told by PyTorch's profiler.
"""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import kcircuits as kc
from kcircuits.discovery.pruning import Recipe
from kcircuits.engine import chunks

MakeFolder = Callable[..., Path]
N_FACTS, VOCABULARY = 12, 96
# Of the plan at least this share is used when all prompts run at once: a bound that is looser
# would make runs needlessly slow.
SMALLEST_SHARE = 0.2
# Every kind of norm, of grouping, of residual; the formulas know no families.
VARIANTS = ("gpt2", "neox", "llama-biases-untied", "gemma2-biases-uncapped", "olmo2-biases")


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes of tensors that a call held at once, above what was held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as told:
        run()
    assert told.profiler is not None
    results = told.profiler.kineto_results
    assert results is not None
    events = [event for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max(initial=0))


def prompts(n_pos: int, n_shared: int, answer: int) -> kc.PromptBatch:
    """A prompt a fact; clean and corrupt share leading tokens."""
    clean, corrupt = np.random.default_rng(0).integers(0, VOCABULARY - 1, (2, N_FACTS, n_pos))
    corrupt[:, :n_shared] = clean[:, :n_shared]
    corrupt[:, n_shared] = clean[:, n_shared] + 1
    pairs = [((1, *range(7, 6 + answer)), (2, *range(17, 16 + answer)))] * N_FACTS
    return kc.PromptBatch.from_tokens(clean, corrupt, pairs)


BATCHES = {
    "plain": prompts(16, 0, 1),
    "shared prefix, longer answers": prompts(20, 12, 3),
}


# A run to be measured, of its bytes of memory; what it needs is made before.
Run = Callable[[int], object]


def attributed(model: kc.Model, batch: kc.PromptBatch, *method: str, **options: Any) -> Run:
    return lambda memory: kc.attribute(model, batch, *method, memory=memory, **options)


def evaluated(model: kc.Model, batch: kc.PromptBatch, **options: Any) -> Run:
    mask = np.random.default_rng(1).random((N_FACTS, *model.topology.edge_mask.shape)) < 0.3
    circuits = kc.Circuits.from_mask(mask & model.topology.edge_mask, model.topology)
    return lambda memory: kc.evaluate(model, batch, circuits, memory=memory, **options)


def pruned(model: kc.Model, batch: kc.PromptBatch, **options: Any) -> Run:
    given: dict[str, Any] = {"n_edges": 30, "candidates": 0.5, "recipe": Recipe(steps=2)}
    given |= {"init": kc.attribute(model, batch, "eap"), **options}
    return lambda memory: kc.prune(model, batch, memory=memory, **given)


RUNS: dict[str, Callable[[kc.Model, kc.PromptBatch], Run]] = {
    "eap": lambda *a: attributed(*a, "eap"),
    "positional-mean": lambda *a: attributed(*a, "eap", ablation="positional-mean"),
    "eap-ig-inputs": attributed,
    "eap-ig-activations": lambda *a: attributed(*a, "eap-ig-activations", ig_steps=2),
    "gim": lambda *a: attributed(*a, "gim"),
    "neurons": lambda *a: lambda memory: kc.attribute_neurons(*a, memory=memory),
    "evaluate": evaluated,
    "evaluate-mean": lambda *a: evaluated(*a, ablation="mean"),
    "evaluate-optimal": lambda *a: evaluated(*a, ablation="optimal"),
    "prune": pruned,
    "lenses": lambda *a: lambda memory: kc.lenses(*a, memory=memory),
    "probe": lambda *a: lambda memory: kc.probe(*a, memory=memory),
}


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What chunks are planned by, and how large they become."""
    made: list[dict[str, Any]] = []
    plan_chunks = chunks.plan_chunks

    def planned(batch: Any, per_prompt: int, *args: Any, n_fixed: int = 0) -> list[Any]:
        plan = plan_chunks(batch, per_prompt, *args, n_fixed=n_fixed)
        made.append({"per_prompt": per_prompt, "fixed": n_fixed, "largest": max(map(len, plan))})
        return plan

    for name in ("engine.chunks", "engine.constants", "evaluation.lenses", "evaluation.probe"):
        # By import: the package names the function like the module.
        module = importlib.import_module(f"kcircuits.{name}")
        monkeypatch.setattr(module, "plan_chunks", planned)
    return made


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest, tiny_folder: MakeFolder) -> kc.Model:
    """Each variant in float32."""
    return kc.load_model(tiny_folder(request.param), dtype=torch.float32)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The profiler sees one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_stays_within_its_memory(
    kind: str, model: kc.Model, plans: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kcircuits.evaluation.optimal.STEPS", 1)
    shares = {}
    for name, batch in BATCHES.items():
        run = RUNS[kind](model, batch)
        plans.clear()
        whole = peak_bytes(lambda run=run: run(2**40))
        shares[name] = whole / max(each["fixed"] + N_FACTS * each["per_prompt"] for each in plans)
        memory = max(each["fixed"] + 4 * each["per_prompt"] for each in plans)
        memory *= 2 if kind == "prune" else 1  # half of it is for stages
        plans.clear()
        assert peak_bytes(lambda run=run, memory=memory: run(memory)) <= memory, name
        assert max(each["largest"] for each in plans) > 1
    assert all(share >= SMALLEST_SHARE for share in shares.values()), shares


def test_exact_patching_stays_within_its_memory(
    model: kc.Model, plans: list[dict[str, Any]]
) -> None:
    """Runs side by side take no more than the differentiated run that was planned."""
    batch = BATCHES["plain"].facts(("fact-0", "fact-1"))
    peak = peak_bytes(lambda: kc.attribute(model, batch, "exact", memory=2**40))
    assert peak <= plans[0]["fixed"] + 2 * plans[0]["per_prompt"]
