"""Cost of a transfer matrix over 9 epochs, as ratios to plain forward passes of its prompts.

On each of the 9 checkpoints the circuits of all 9 epochs run: so the matrix over the 9 forwards of
the plain transformers model is what one checkpoint's circuits cost over one forward. Both are CPU
time in one process and one thread, by turns; the full and the ablated run are in it, the loading of
checkpoints (told apart) is not. With what stands beside the matrix by default, a random circuit for
each and two halves, 20 circuits run instead of 9.

    python benchmarks/transfer.py [--model DIR] [--out FILE]
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from beside import N_FACTS, Plain, alternate, random_batch, ratios
from record import measurement, parser, report

import kcircuits as kc
from kcircuits.engine.chunks import parse_memory
from kcircuits.evaluation.judge import Judge
from kcircuits.models import fetch_model

N_EPOCHS, N_EDGES = 9, 616
# Prompts of 12 tokens that share their first tokens: as one fact's subject in different places.
N_SHARED = 3


def judging(model: kc.Model, batch: kc.PromptBatch, n_circuits: int) -> Callable[[], object]:
    """Runs as many circuits of every fact on one checkpoint's weights."""
    judge = Judge(
        model,
        batch,
        batch.fact_ids,
        model.topology,
        metric="logit-difference",
        ablation="corrupt",
        memory=parse_memory("1GiB"),
    )
    edges = np.flatnonzero(model.topology.edge_mask)
    rng = np.random.default_rng(0)
    circuits = [
        [rng.choice(edges, N_EDGES, replace=False) for _ in range(batch.n_facts)]
        for _ in range(n_circuits)
    ]
    return lambda: judge.run_edges(circuits)


def main() -> int:
    options = parser("Cost of a transfer matrix relative to plain forward passes")
    options.add_argument("--model", type=Path)
    options.add_argument("--repeats", type=int, default=3)
    args = options.parse_args()
    torch.set_num_threads(1)
    path = args.model or fetch_model()
    start = time.process_time()
    model = kc.load_model(path)
    loading = time.process_time() - start
    plain, batch = Plain(path), random_batch(N_SHARED, model.hooked.cfg.d_vocab)
    n_default = 2 * N_EPOCHS + 2
    seconds = alternate(
        {
            "plain": lambda: plain.forward(batch),
            "matrix": judging(model, batch, N_EPOCHS),
            "default": judging(model, batch, n_default),
        },
        args.repeats,
    )
    details = {"facts": N_FACTS, "epochs": N_EPOCHS, "n_edges": N_EDGES}
    results = [
        measurement(
            "9 x 9 matrix over 9 plain forwards",
            ratios(seconds, "matrix", "plain"),
            unit="ratio",
            circuits=N_EPOCHS,
            **details,
        ),
        measurement(
            "the same with random circuits and halves",
            ratios(seconds, "default", "plain"),
            unit="ratio",
            circuits=n_default,
            **details,
        ),
        measurement("plain forward", seconds["plain"], unit="s", **details),
        measurement("loading a checkpoint", [loading], unit="s"),
    ]
    return report("transfer", results, args.out)


if __name__ == "__main__":
    sys.exit(main())
