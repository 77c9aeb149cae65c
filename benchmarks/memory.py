"""Peak resident memory above the loaded model, against the budget that was asked for.

Every run is a process of its own: prompts of 12 and of 64 tokens, one chunk after the other, with
budgets so small that several chunks are needed; ``--threads`` chunks run side by side.

    python benchmarks/memory.py [--model DIR] [--threads N] [--out FILE]
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from record import measurement, parser, report

import kcircuits as kc
from kcircuits.discovery.pruning import Recipe
from kcircuits.evaluation import optimal
from kcircuits.models import fetch_model

BUDGETS = (256, 512, 1024)
N_PROMPTS = {12: 96, 64: 32}
RUNS = ("eap", "eap-ig-inputs", "evaluate", "evaluate-optimal", "prune", "probe")


def random_batch(n_pos: int, d_vocab: int) -> kc.PromptBatch:
    """Prompts of random tokens, one a fact."""
    n_prompts = N_PROMPTS[n_pos]
    clean, corrupt = np.random.default_rng(0).integers(100, d_vocab - 100, (2, n_prompts, n_pos))
    pairs = np.random.default_rng(1).integers(100, d_vocab - 100, (n_prompts, 2))
    return kc.PromptBatch.from_tokens(clean, corrupt, pairs)


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 2**10


def peak(path: Path, run: str, n_pos: int, memory: int) -> float:
    """Peak of one run above what it started with, in MiB.

    What is asked for and comes back, a matrix of scores or masks per fact, is made before or
    counted after: it is not the run's working memory.
    """
    model = kc.load_model(path)
    batch = random_batch(n_pos, len(model.weights.embed))
    few = batch.facts(batch.fact_ids[:2])
    kc.evaluate(model, few, kc.select(kc.attribute(model, few, "eap"), fraction=0.005))
    shape = (len(batch), *model.topology.edge_mask.shape)
    scores = kc.attribute(model, few, "eap")
    n_copies = -(-len(batch) // 2)
    values = np.tile(scores.values, (n_copies, 1, 1))[: len(batch)]
    init = kc.EdgeScores(
        values=values,
        topology=scores.topology,
        fact_ids=batch.fact_ids,
        fact_idx=np.arange(len(batch)),
        provenance=scores.provenance,
    )
    circuits = kc.select(init, fraction=0.005)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    before, budget = resident("VmRSS"), memory * 2**20
    if run in ("eap", "eap-ig-inputs"):
        kc.attribute(model, batch, run, memory=budget)
        before += np.prod(shape) * 4 / 2**20
    elif run == "evaluate":
        kc.evaluate(model, batch, circuits, memory=budget)
    elif run == "evaluate-optimal":
        optimal.STEPS = 2  # memory does not grow with their number
        kc.evaluate(model, batch, circuits, ablation="optimal", memory=budget)
    elif run == "prune":
        recipe = Recipe(steps=2)
        kc.prune(model, batch, fraction=0.005, init=init, recipe=recipe, memory=budget)
        before += 3 * np.prod(shape) * 4 / 2**20
    else:
        kc.probe(model, batch, memory=budget)
    return resident("VmHWM") - before


def main() -> int:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--model", type=Path, help="model folder; default the demo's model")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument(
        "--one", nargs=3, help="run, positions and budget: what each process does"
    )
    options = arguments.parse_args()
    path = options.model or fetch_model()
    torch.set_num_threads(options.threads)
    if options.one:
        run, n_pos, memory = options.one
        print(peak(path, run, int(n_pos), int(memory)))
        return 0
    results = []
    for run in RUNS:
        for n_pos in N_PROMPTS:
            for memory in BUDGETS:
                asked = ["--model", str(path), "--threads", str(options.threads)]
                asked += ["--one", run, str(n_pos), str(memory)]
                told = subprocess.run(
                    [sys.executable, __file__, *asked], capture_output=True, text=True, check=True
                )
                name = f"{run}, {N_PROMPTS[n_pos]} prompts of {n_pos} tokens"
                value = float(told.stdout.split()[-1])
                results.append(measurement(name, [value], unit="MiB", limit=memory))
                print(f"{name}: {value:.0f} of {memory} MiB", file=sys.stderr, flush=True)
    return report("memory", results, options.out)


if __name__ == "__main__":
    sys.exit(main())
