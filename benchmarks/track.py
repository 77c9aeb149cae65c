"""Wall time and memory of ``kcircuits track``, start of Python included, on 100 facts x 10 epochs.

The graph is that of SmolLM2-135M (30 layers, 9 heads), the budget 0.5 % of its 123,211 edges, 8
prompts a fact, a tenth of the circuit moving at every step. Scores are invented
(``synthetic_run``); each of ``--distinct`` facts stands in several copies, for inventing takes
longer than tracking.

    python benchmarks/track.py [--facts 100] [--distinct 20] [--repeats 3] [--out FILE]
"""

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from record import measurement, parser, report
from synthetic_run import make_epochs, make_facts, write_run

from kcircuits.core.topology import Topology

LIMIT_S = 10.0
N_EPOCHS, N_PROMPTS, N_EDGES = 10, 8, 616


def main() -> int:
    options = parser("Wall time of kcircuits track on 100 facts x 10 epochs")
    options.add_argument("--facts", type=int, default=100)
    options.add_argument("--distinct", type=int, default=20)
    options.add_argument("--repeats", type=int, default=3)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        n_candidates = _build(run, args.facts, args.distinct)
        command = [sys.executable, "-m", "kcircuits.cli.main", "track", "--run", str(run), "--json"]
        seconds = [_time(command) for _ in range(args.repeats + 1)][1:]  # the first warms up
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    result = measurement(
        "track",
        seconds,
        unit="s",
        limit=LIMIT_S if args.facts == 100 else None,
        facts=args.facts,
        epochs=N_EPOCHS,
        prompts=N_PROMPTS,
        n_edges=N_EDGES,
        candidates_per_cell=n_candidates,
        peak_gib=peak,
    )
    return report("track", [result], args.out)


def _build(run: Path, n_facts: int, n_distinct: int) -> int:
    facts = make_facts(n_facts, N_PROMPTS)
    topology = Topology(n_layers=30, n_heads=9)
    steps = [0.1] * (N_EPOCHS - 1)
    made, _ = make_epochs(facts[:n_distinct], topology, n_edges=N_EDGES, steps=steps)
    epochs = {
        name: [
            replace(cells[i % n_distinct], fact_id=fact.id, fact_hash=fact.content_hash)
            for i, fact in enumerate(facts)
        ]
        for name, cells in made.items()
    }
    write_run(run, facts, epochs)
    sizes = [len(cell.candidates) for cells in made.values() for cell in cells]
    return round(sum(sizes) / len(sizes))


def _time(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
