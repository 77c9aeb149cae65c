"""Wall time of ``kcircuits diff``, start of Python included, on 100 facts x 10 epochs.

The graph is that of SmolLM2-135M (30 layers, 9 heads), the budget 0.5 % of its 123,211 edges, 8
prompts a fact. Scores are invented (``synthetic_run``); the ten epochs repeat two of them.

    python benchmarks/diff_latency.py [--repeats 5] [--out FILE]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import measurement, parser, report
from synthetic_run import make_cells, make_facts, write_run

from kcircuits.core.topology import Topology

LIMIT_S = 2.0
N_FACTS, N_EPOCHS, N_PROMPTS, N_EDGES = 100, 10, 8, 616


def main() -> int:
    options = parser("Wall time of kcircuits diff on 100 facts x 10 epochs")
    options.add_argument("--repeats", type=int, default=5)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        n_candidates = _build(run)
        command = [sys.executable, "-m", "kcircuits.cli.main", "diff", "ep3", "ep8"]
        command += ["--run", str(run)]
        seconds = [_time(command) for _ in range(args.repeats + 1)][1:]  # the first warms up
    result = measurement(
        "diff of two epochs",
        seconds,
        unit="s",
        limit=LIMIT_S,
        facts=N_FACTS,
        epochs=N_EPOCHS,
        prompts=N_PROMPTS,
        n_edges=N_EDGES,
        candidates_per_cell=n_candidates,
    )
    return report("diff_latency", [result], args.out)


def _build(run: Path) -> int:
    facts = make_facts(N_FACTS, N_PROMPTS)
    topology = Topology(n_layers=30, n_heads=9)
    moved = [0.2 if i % 4 == 0 else 0.0 for i in range(N_FACTS)]
    pair = make_cells(facts, topology, n_edges=N_EDGES, moved=moved)
    write_run(run, facts, {f"ep{i}": pair[i % 2] for i in range(N_EPOCHS)})
    sizes = [len(cell.candidates) for cells in pair for cell in cells]
    return round(sum(sizes) / len(sizes))


def _time(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
