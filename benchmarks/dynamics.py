"""Time of ``kcircuits dynamics`` on 1,000 probes x 100 epochs x 10 runs.

250 facts about 125 entities with 4 probes each, in ten run folders with losses and skills of 60
items; invented answers that rise, stay or fade. The verb is timed whole, start of Python and
reading of the million rows included; the tables alone are timed in one process.

    python benchmarks/dynamics.py [--repeats 3] [--out FILE]
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import measurement, parser, report

from kcircuits.core.facts import Fact, Prompt
from kcircuits.io.facts import write_facts
from kcircuits.io.jsonl import append_rows
from kcircuits.study.dynamics.dynamics import Dynamics, open_dynamics

LIMIT_S = 5.0
N_RUNS, N_EPOCHS, N_FACTS, N_PROMPTS, N_ITEMS = 10, 100, 250, 4, 60


def main() -> int:
    options = parser("Time of kcircuits dynamics on 1,000 probes x 100 epochs x 10 runs")
    options.add_argument("--repeats", type=int, default=3)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        facts = Path(folder) / "facts.jsonl"
        _write_facts(facts)
        runs = [Path(folder) / f"run{seed}" for seed in range(N_RUNS)]
        for seed, run in enumerate(runs):
            _write_run(run, seed)
        command = [sys.executable, "-m", "kcircuits", "dynamics", "--facts", str(facts), "--run"]
        command += map(str, runs)
        text = [_time_verb(command) for _ in range(args.repeats)]
        document = [_time_verb([*command, "--json"]) for _ in range(args.repeats)]
        opened = open_dynamics(*runs, facts=facts)
        tables = [_time_tables(opened) for _ in range(args.repeats)]
    size = {"probes": N_FACTS * N_PROMPTS, "epochs": N_EPOCHS, "runs": N_RUNS, "unit": "s"}
    results = [
        measurement(
            name,
            [wall for wall, _ in times],
            limit=LIMIT_S,
            cpu_seconds=round(statistics.median(spent for _, spent in times), 3),
            **size,
        )
        for name, times in (("dynamics", text), ("dynamics --json", document))
    ]
    results.append(measurement("tables without reading", tables, **size))
    return report("dynamics", results, args.out)


def _write_facts(file: Path) -> None:
    prompt = Prompt(clean="a b", corrupt="a c", target=" x", foil=" y")
    write_facts(
        [
            Fact(
                id=f"person-{i:03d}-university",
                subject=f"person {i // 2}",
                relation="university",
                object="o",
                prompts=(prompt,),
                strata={"split": "control" if i % 5 == 0 else "trained"},
            )
            for i in range(N_FACTS)
        ],
        file,
    )


def _write_run(run: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    level = rng.normal(size=(N_FACTS, N_PROMPTS))
    gain = np.where(np.arange(N_FACTS) % 5 == 0, 0.0, 3.0)[:, None]
    for epoch in range(N_EPOCHS):
        logit = level + gain * np.tanh(epoch / 8) - 0.01 * epoch
        logit += 0.6 * rng.normal(size=level.shape)
        head = {"checkpoint": f"ep{epoch}", "epoch": epoch, "strategy": "full", "seed": seed}
        about = {"kind": "paraphrase", "rank": 1, "candidate_rank": 1}
        about |= {"known_rule": "candidate-rank", "recall": None, "f1": None}
        append_rows(
            run / "probes.jsonl",
            [
                {
                    **head,
                    "fact": f"person-{i:03d}-university",
                    "prompt_idx": p,
                    **about,
                    "logprob": float(-np.log1p(np.exp(-logit[i, p]))),
                    "prob": float(1 / (1 + np.exp(-logit[i, p]))),
                    "known": bool(logit[i, p] > 1),
                }
                for i in range(N_FACTS)
                for p in range(N_PROMPTS)
            ],
        )
        items = (rng.random(N_ITEMS) < 0.9 - 0.004 * epoch).astype(int).tolist()
        skill = {"skill": "addition", "n": N_ITEMS, "accuracy": sum(items) / N_ITEMS}
        append_rows(run / "skills.jsonl", [{**head, **skill, "per_item": items}])
    losses = [{"epoch": e, "loss": 0.3 + 2 / e} for e in range(1, N_EPOCHS)]
    append_rows(run / "train.jsonl", losses)


def _time_verb(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds; they differ where the machine is shared."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, spent


def _time_tables(opened: Dynamics) -> float:
    fresh = Dynamics(series=opened.series)
    start = time.perf_counter()
    json.dumps(fresh.to_json(), allow_nan=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
