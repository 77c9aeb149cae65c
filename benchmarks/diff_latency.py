"""Wall time of ``kcircuits diff``, start of Python included, on 100 or 1,000 facts x 10 epochs.

The graph is that of SmolLM2-135M (30 layers, 9 heads), the budget 0.5 % of its 123,211 edges, 8
prompts a fact. Scores are invented (``synthetic_run``): a hundred facts, under as many names as are
asked for; the ten epochs repeat two.

    python benchmarks/diff_latency.py [--facts 100 1000] [--repeats 5] [--out FILE]
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from record import measurement, parser, report
from synthetic_run import make_cells, make_facts, write_run

from kcircuits.core.topology import Topology

LIMITS_S = {100: 2.0, 1000: 10.0}
N_DISTINCT, N_EPOCHS, N_PROMPTS, N_EDGES = 100, 10, 8, 616


def main() -> int:
    options = parser("Wall time of kcircuits diff on 100 or 1,000 facts x 10 epochs")
    options.add_argument("--facts", type=int, nargs="+", default=[100], choices=tuple(LIMITS_S))
    options.add_argument("--repeats", type=int, default=5)
    args = options.parse_args()
    found = []
    for n_facts in args.facts:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            n_candidates = build(run, n_facts)
            command = [sys.executable, "-m", "kcircuits.cli.main", "diff", "ep3", "ep8"]
            command += ["--run", str(run)]
            seconds = [_time(command) for _ in range(args.repeats + 1)][1:]  # the first warms up
        found.append(
            measurement(
                f"diff of two epochs, {n_facts:,} facts",
                seconds,
                unit="s",
                limit=LIMITS_S[n_facts],
                facts=n_facts,
                epochs=N_EPOCHS,
                prompts=N_PROMPTS,
                n_edges=N_EDGES,
                candidates_per_cell=n_candidates,
            )
        )
    return report("diff_latency", found, args.out)


def build(run: Path, n_facts: int) -> int:
    """Writes the run folder; returns the mean number of candidates of a cell."""
    facts = make_facts(n_facts, N_PROMPTS)
    topology = Topology(n_layers=30, n_heads=9)
    moved = [0.2 if i % 4 == 0 else 0.0 for i in range(N_DISTINCT)]
    pair = make_cells(facts[:N_DISTINCT], topology, n_edges=N_EDGES, moved=moved)
    named = [
        [
            replace(cells[i % N_DISTINCT], fact_id=fact.id, fact_hash=fact.content_hash)
            for i, fact in enumerate(facts)
        ]
        for cells in pair
    ]
    write_run(run, facts, {f"ep{i}": named[i % 2] for i in range(N_EPOCHS)})
    sizes = [len(cell.candidates) for cells in pair for cell in cells]
    return round(sum(sizes) / len(sizes))


def _time(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
