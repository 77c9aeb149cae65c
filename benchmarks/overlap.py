"""Wall time and peak memory of the overlap of all pairs of epochs, reading included.

The graph is that of SmolLM2-135M (30 layers, 9 heads), the budget 0.5 % of its 123,211 edges, 8
prompts a fact, 10 epochs. Scores are invented (``synthetic_run``): 20 facts whose circuits move by
a tenth from epoch to epoch, under as many names as are asked for; so 1,000 facts have the data of
50 times 20, and as many entities as they have names. What is measured: ceiling, chance (also within
blocks of layers), other facts, turnover and intervals of 200 resamples, of all pairs of epochs.

    python benchmarks/overlap.py [--facts 100 1000] [--repeats 3] [--run DIR] [--out FILE]

``--run DIR`` keeps the run folders there, and takes them from there the next time.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from record import measurement, parser, report
from synthetic_run import make_epochs, make_facts, write_run

from kcircuits.core.topology import Topology

LIMITS_S = {100: 60.0}
LIMIT_GIB = 4.0
N_DISTINCT, N_EPOCHS, N_PROMPTS, N_EDGES = 20, 10, 8, 616
# A process of its own, so that its peak memory is that of the overlap alone.
WORK = """
import resource, sys, time
import kcircuits as kc
start = time.perf_counter()
rows = kc.open_run(sys.argv[1]).overlap(measures=sys.argv[2] == "measures").rows
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
cpu = time.process_time()
print(len(rows), time.perf_counter() - start, peak, cpu)
"""


def main() -> int:
    options = parser("Wall time and memory of the overlap of all pairs of epochs")
    options.add_argument("--facts", type=int, nargs="+", default=[100])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--measures", action="store_true", help="the graded measures too")
    options.add_argument("--run", type=Path, help="keep run folders here")
    args = options.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for n_facts in args.facts:
            run = (args.run or Path(scratch)) / f"facts-{n_facts}"
            if not run.exists():
                build(run, n_facts)
            results += measure(run, n_facts, args.repeats, measures=args.measures)
    return report("overlap", results, args.out)


def measure(run: Path, n_facts: int, repeats: int, *, measures: bool) -> list[dict]:
    """Results of one run folder: seconds and peak memory."""
    kind = "measures" if measures else "plain"
    command = [sys.executable, "-c", WORK, str(run), kind]
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        n_rows, _, peak, cpu = map(float, out.split())
        assert n_rows == N_EPOCHS * (N_EPOCHS + 1) / 2
        found.append((time.perf_counter() - start, peak, cpu))
    details = {
        "facts": n_facts, "distinct_facts": min(n_facts, N_DISTINCT), "epochs": N_EPOCHS,
        "prompts": N_PROMPTS, "n_edges": N_EDGES, "measures": measures,
    }  # fmt: skip
    seconds, peaks, cpus = zip(*found, strict=True)
    name = f"overlap of {n_facts:,} facts"
    return [
        measurement(name, seconds, unit="s", limit=LIMITS_S.get(n_facts), **details),
        measurement(f"{name}, processor time", cpus, unit="s", **details),
        measurement(f"{name}, peak memory", peaks, unit="GiB", limit=LIMIT_GIB, **details),
    ]


def build(run: Path, n_facts: int) -> None:
    """Writes a run folder."""
    facts = make_facts(n_facts, N_PROMPTS)
    topology = Topology(n_layers=30, n_heads=9)
    distinct = facts[:N_DISTINCT]
    epochs, _ = make_epochs(distinct, topology, n_edges=N_EDGES, steps=[0.1] * (N_EPOCHS - 1))
    named = {
        epoch: [
            replace(cells[i % len(cells)], fact_id=fact.id, fact_hash=fact.content_hash)
            for i, fact in enumerate(facts)
        ]
        for epoch, cells in epochs.items()
    }
    write_run(run, facts, named)


if __name__ == "__main__":
    sys.exit(main())
