"""Wall time of ``kcircuits diff``, start of Python included, on 100 facts x 10 epochs.

The graph is that of SmolLM2-135M (30 layers, 9 heads), the budget 0.5 % of its 123,211 edges, 8
prompts a fact. Scores are invented (``synthetic_run``); the ten epochs repeat two of them.

    python benchmarks/diff_latency.py [--repeats 5]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from synthetic_run import make_cells, make_facts, write_run

from kcircuits.core.topology import Topology

LIMIT_S = 2.0
N_FACTS, N_EPOCHS, N_PROMPTS, N_EDGES = 100, 10, 8, 616


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        n_candidates = _build(run)
        command = [sys.executable, "-m", "kcircuits.cli.main", "diff", "ep3", "ep8"]
        command += ["--run", str(run)]
        seconds = [_time(command) for _ in range(args.repeats + 1)][1:]  # the first warms up
    median = statistics.median(seconds)
    result = {
        "benchmark": "diff_latency",
        "value": round(median, 3),
        "limit": LIMIT_S,
        "unit": "s",
        "is_within_limit": median <= LIMIT_S,
        "spread": [round(min(seconds), 3), round(max(seconds), 3)],
        "repeats": args.repeats,
        "facts": N_FACTS,
        "epochs": N_EPOCHS,
        "prompts": N_PROMPTS,
        "n_edges": N_EDGES,
        "candidates_per_cell": n_candidates,
        "python": platform.python_version(),
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(result, indent=2))
    return 0 if result["is_within_limit"] else 1


def _build(run: Path) -> int:
    facts = make_facts(N_FACTS, N_PROMPTS)
    topology = Topology(n_layers=30, n_heads=9)
    moved = [0.2 if i % 4 == 0 else 0.0 for i in range(N_FACTS)]
    pair = make_cells(facts, topology, n_edges=N_EDGES, moved=moved)
    write_run(run, facts, {f"ep{i}": pair[i % 2] for i in range(N_EPOCHS)})
    return round(statistics.mean(len(cell.candidates) for cells in pair for cell in cells))


def _time(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
