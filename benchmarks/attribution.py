"""Cost of per-fact EAP-IG and of circuit evaluation, against plain forwards and backwards.

Everything is timed in one process and one thread, by turns: our attribution; the floor (5 forward
and backward passes to activations plus 2 forwards of the plain transformers model on the same
batch); circuit evaluation; a plain forward. With ``--peer`` the EAP-IG library's loop (one graph
per fact, parameters frozen) is timed beside them.

    python benchmarks/attribution.py [--model DIR] [--peer CHECKOUT] [--out FILE]
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from beside import N_FACTS, N_STEPS, Plain, alternate, random_batch, ratios
from record import measurement, parser, report

import kcircuits as kc
from kcircuits.core.circuit import Circuits
from kcircuits.discovery import get_method
from kcircuits.discovery.attribute import attribute
from kcircuits.engine.masked import circuit_logits, set_stage
from kcircuits.engine.tokens import TokenRows
from kcircuits.models import fetch_model


def evaluation(model: kc.Model, batch: kc.PromptBatch) -> Callable[[], object]:
    """Evaluates a half-per-cent circuit per fact: clean and corrupt runs included."""
    circuits = kc.select(attribute(model, batch, "eap"), fraction=0.005)

    def run() -> None:
        rows = TokenRows.from_batch(batch, model.weights)
        mask = torch.as_tensor(circuits.mask, dtype=model.weights.dtype)
        circuit_logits(model.weights, set_stage(model.weights, rows), mask)

    return run


def peak_memory(model: kc.Model, batch: kc.PromptBatch) -> float:
    """Peak resident memory above the present, in GiB, of attribution and evaluation."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kib(field: str) -> int:
        lines = status.read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1])

    clear.write_text("5", encoding="utf-8")  # resets the peak
    before = kib("VmRSS")
    scores = attribute(model, batch, ig_steps=N_STEPS)
    kc.evaluate(model, batch, kc.select(scores, fraction=0.005))
    return (kib("VmHWM") - before) / 2**20


def chunking_error(model: kc.Model, batch: kc.PromptBatch) -> float:
    """Largest difference between one chunk and one prompt at a time, in units of the maximum."""
    whole = attribute(model, batch, memory="64GiB").values
    single = attribute(model, batch, memory=1).values
    return float(np.abs(whole - single).max() / np.abs(whole).max())


def circuits_of_everything(model: kc.Model) -> Circuits:
    """Full circuits, to warm the evaluation path."""
    mask = np.broadcast_to(model.topology.edge_mask, (N_FACTS, *model.topology.edge_mask.shape))
    return Circuits.from_mask(np.array(mask), model.topology)


def main() -> int:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--model", type=Path, help="model folder; default the demo's model")
    arguments.add_argument("--peer", type=Path, help="checkout of the EAP-IG library")
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    path = options.model or fetch_model()
    model = kc.load_model(path)
    plain_batch = random_batch(0, len(model.weights.embed))
    shared_batch = random_batch(9, len(model.weights.embed))
    kc.evaluate(model, plain_batch, circuits_of_everything(model))
    memory = peak_memory(model, plain_batch)
    error = chunking_error(model, plain_batch)
    plain = Plain(path)
    functions: dict[str, Callable[[], object]] = {
        "floor": lambda: plain.floor(plain_batch),
        "forward": lambda: plain.forward(plain_batch),
        "ours": lambda: attribute(model, plain_batch, ig_steps=N_STEPS),
        "ours, shared prefix": lambda: attribute(model, shared_batch, ig_steps=N_STEPS),
        "evaluation": evaluation(model, plain_batch),
        "evaluation, shared prefix": evaluation(model, shared_batch),
    }
    seconds = alternate(functions, options.repeats)
    results = [
        measurement("EAP-IG / floor", ratios(seconds, "ours", "floor"), unit="ratio", limit=1.0),
        measurement(
            "EAP-IG / floor, 9 of 12 tokens shared",
            ratios(seconds, "ours, shared prefix", "floor"),
            unit="ratio",
            limit=0.5,
        ),
        measurement(
            "circuit evaluation / plain forward",
            ratios(seconds, "evaluation", "forward"),
            unit="ratio",
            limit=5.0,
        ),
        measurement(
            "circuit evaluation / plain forward, 9 of 12 tokens shared",
            ratios(seconds, "evaluation, shared prefix", "forward"),
            unit="ratio",
            limit=4.0,
        ),
        measurement("peak memory above the model", [memory], unit="GiB", limit=1.0),
        measurement("chunked against whole", [error], unit="of the maximum", limit=1e-5),
    ]
    results += [
        measurement(f"{name}: seconds per fact", [s / N_FACTS for s in values], unit="CPU s")
        for name, values in seconds.items()
    ]
    if options.peer:
        results += against_peer(options.peer, path, model, plain_batch, options.repeats)
    return report("attribution", results, options.out)


def against_peer(
    checkout: Path, path: Path, model: kc.Model, batch: kc.PromptBatch, repeats: int
) -> list[dict[str, object]]:
    """Times the library's loop on two facts, by turns with ours on the whole batch."""
    from peer import peer_scores  # needs the checkout on sys.path

    n_facts = 2
    few = batch.rows(slice(0, n_facts))
    run = peer_scores(checkout, kc.load_model(path).hooked, few, N_STEPS)
    ours = lambda: attribute(model, batch, ig_steps=N_STEPS)  # noqa: E731
    seconds = alternate({"peer": run, "ours": ours}, repeats)
    times = [
        (peer / n_facts) / (own / N_FACTS)
        for peer, own in zip(seconds["peer"], seconds["ours"], strict=True)
    ]
    theirs = run()
    own = attribute(model, batch, get_method("eap-ig-inputs").name, ig_steps=N_STEPS).values
    error = float(np.abs(theirs - own[:n_facts]).max() / np.abs(theirs).max())
    return [
        measurement("EAP-IG library / ours, per fact", times, unit="times", limit=-15.0),
        measurement("EAP-IG library: score difference", [error], unit="of the maximum", limit=1e-4),
    ]


if __name__ == "__main__":
    sys.exit(main())
