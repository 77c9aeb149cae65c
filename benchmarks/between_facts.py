"""Time and memory of ``kcircuits overlap --facts-at``: all pairs of 100 and of 1,000 facts.

The graph is that of SmolLM2-135M (30 layers, 9 heads), the budget 0.5 % of its 123,211 edges, 8
prompts a fact. Facts of 20 circuits that share a third of their edges with all and a third with
their relation; each fact sees its circuit through noise of its own.

    python benchmarks/between_facts.py [--facts 100 1000] [--out FILE]
"""

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from record import measurement, parser, report
from synthetic_run import make_facts, make_related_cells, write_run

from kcircuits.core.topology import Topology

N_CIRCUITS, N_PROMPTS, N_EDGES = 20, 8, 616
TOPOLOGY = Topology(n_layers=30, n_heads=9)
SCRIPT = """
import json, sys
import kcircuits as kc
json.dumps(kc.open_run(sys.argv[1]).fact_overlap("ep0").to_json())
"""


def main() -> int:
    options = parser("Time and memory of all pairs of facts at one epoch")
    options.add_argument("--facts", type=int, nargs="+", default=[100, 1000])
    args = options.parse_args()
    results = []
    for n_facts in args.facts:
        with tempfile.TemporaryDirectory() as folder:
            _build(Path(folder), n_facts)
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", SCRIPT, folder], check=True)
            seconds = time.perf_counter() - start
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        details = {"facts": n_facts, "prompts": N_PROMPTS, "n_edges": N_EDGES}
        results += [
            measurement(f"all pairs of {n_facts} facts", [seconds], unit="s", **details),
            measurement(
                f"peak memory of that (largest so far), {n_facts} facts",
                [usage.ru_maxrss / 2**20], unit="GiB", **details,
            ),
            measurement(
                "processor time (sum so far)",
                [usage.ru_utime + usage.ru_stime], unit="s", **details,
            ),
        ]  # fmt: skip
    return report("between_facts", results, args.out)


def _build(folder: Path, n_facts: int) -> None:
    facts = make_facts(n_facts, N_PROMPTS, facts_per_entity=2)
    few = make_related_cells(
        facts[:N_CIRCUITS], TOPOLOGY, n_edges=N_EDGES, shared=0.33, within=0.33
    )
    rng = np.random.default_rng(0)
    cells = []
    for i, fact in enumerate(facts):
        cell = few[i % N_CIRCUITS]
        noise = 1 + 0.3 * rng.standard_normal(cell.prompt_scores.shape)
        scores = (cell.prompt_scores * noise).astype(np.float32)
        cells.append(
            replace(cell, fact_id=fact.id, fact_hash=fact.content_hash, prompt_scores=scores)
        )
    write_run(folder, facts, {"ep0": cells})


if __name__ == "__main__":
    sys.exit(main())
