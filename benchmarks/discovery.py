"""Cost of an edge-pruning step, of a faithfulness curve and of methods with one backward.

Everything is timed in one process and one thread, by turns, as ratios: a step of training gates for
16 facts (the full and the ablated run of its prompts included, as often as they are made) against a
forward and backward of the plain transformers model; a curve of ten sizes, full and ablated run
included, against one masked forward; relp and gim against EAP-IG.

    python benchmarks/discovery.py [--model DIR] [--out FILE]
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from beside import N_FACTS, N_STEPS, Plain, alternate, random_batch, ratios
from record import measurement, parser, report

import kcircuits as kc
from kcircuits.discovery.pruning import Recipe
from kcircuits.engine.masked import circuit_logits, set_stage
from kcircuits.engine.tokens import TokenRows
from kcircuits.engine.workspace import Workspace
from kcircuits.models import fetch_model

# Steps of a training that is timed: so many that stages are made once and used again.
N_TRAINED = 4


def training(
    model: kc.Model, batch: kc.PromptBatch, scores: kc.EdgeScores, candidates: float
) -> Callable[[], object]:
    """Trains gates for some steps."""
    recipe = Recipe(steps=N_TRAINED)

    def run() -> None:
        kc.prune(
            model,
            batch,
            fraction=0.005,
            init=scores,
            candidates=candidates,
            recipe=recipe,
            memory="4GiB",
        )

    return run


def masked_forward(model: kc.Model, batch: kc.PromptBatch) -> Callable[[], object]:
    """One masked forward of the batch, with everything that can be shared made before."""
    rows = TokenRows.from_batch(batch, model.weights)
    stage, space = set_stage(model.weights, rows), Workspace()
    shape = (N_FACTS, *model.topology.edge_mask.shape)
    drawn = np.random.default_rng(0).random(shape) < 0.05
    mask = torch.as_tensor(drawn & model.topology.edge_mask, dtype=model.weights.dtype)
    return lambda: circuit_logits(model.weights, stage, mask, space)


def main() -> int:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--model", type=Path, help="model folder; default the demo's model")
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    path = options.model or fetch_model()
    model, plain = kc.load_model(path), Plain(path)
    d_vocab = len(model.weights.embed)
    batch, shared = random_batch(0, d_vocab), random_batch(9, d_vocab)
    scores, of_shared = (kc.attribute(model, each, "eap") for each in (batch, shared))
    seconds = alternate(
        {
            "forward and backward": lambda: plain.forward_backward(batch),
            "10 %": training(model, batch, scores, 0.1),
            "all": training(model, batch, scores, 1.0),
            "shared": training(model, shared, of_shared, 0.1),
            "masked forward": masked_forward(model, batch),
            "curve": lambda: kc.faithfulness_curve(model, batch, scores),
            "EAP-IG": lambda: kc.attribute(model, batch, ig_steps=N_STEPS),
            "relp": lambda: kc.attribute(model, batch, "relp"),
            "gim": lambda: kc.attribute(model, batch, "gim"),
        },
        options.repeats,
    )
    for name in ("10 %", "all", "shared"):
        seconds[name] = [value / N_TRAINED for value in seconds[name]]
    wanted = (
        ("pruning step, 10 % of edges candidates", "10 %", "forward and backward", 3.0),
        ("pruning step, all edges candidates", "all", "forward and backward", None),
        ("pruning step, 9 of 12 tokens shared", "shared", "forward and backward", 3.0),
        ("curve of 10 sizes", "curve", "masked forward", 12.0),
        ("relp", "relp", "EAP-IG", 1 / 3),
        ("gim", "gim", "EAP-IG", 1 / 3),
    )
    results = [
        measurement(f"{name} / {below}", ratios(seconds, above, below), unit="ratio", limit=limit)
        for name, above, below, limit in wanted
    ]
    results += [measurement(name, values, unit="CPU s") for name, values in seconds.items()]
    return report("discovery", results, options.out)


if __name__ == "__main__":
    sys.exit(main())
