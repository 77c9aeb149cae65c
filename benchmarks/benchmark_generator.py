"""Time of making a benchmark of 10,000 invented people, its matching report included.

Three frequencies and people held out, 2,500 each, with drawn exposures, links and prompts of every
kind; one fact a person. Facts and documents are written too, as ``kcircuits lab build`` does.
One process, one thread.

    python benchmarks/benchmark_generator.py [--tokenizer smollm2-135m-instruct] [--out FILE]
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from record import measurement, parser, report

from kcircuits.io.facts import write_facts
from kcircuits.lab.benchmark.generate import generate
from kcircuits.lab.benchmark.matching import matching_report
from kcircuits.lab.benchmark.spec import BenchmarkSpec
from kcircuits.models.fetch import fetch_model
from kcircuits.models.tokenizer import load_tokenizer

LIMIT_S = 60.0
GROUP = 2_500
PROBES = {
    "paraphrase": 2,
    "memorisation": 1,
    "compositional": 0.25,
    "inverse": 0.25,
    "inference": 0.25,
}


def main() -> int:
    options = parser("Time of a benchmark of 10,000 people")
    options.add_argument("--tokenizer", default="smollm2-135m-instruct")
    args = options.parse_args()
    spec = BenchmarkSpec(
        people={"high": GROUP, "medium": GROUP, "low": GROUP},
        held_out=GROUP,
        exposure={"mean": 2.5},
        has_links=True,
        probes=PROBES,
    )
    tokenizer = load_tokenizer(fetch_model(args.tokenizer))
    seconds: dict[str, float] = {}
    started = time.process_time()
    benchmark = generate(spec, tokenizer, 0)
    seconds["generate"] = time.process_time() - started
    matching = matching_report(benchmark.facts, benchmark.documents, tokenizer)
    matching.require()
    seconds["report"] = time.process_time() - started - sum(seconds.values())
    with tempfile.TemporaryDirectory() as folder:
        write_facts(benchmark.facts, Path(folder) / "facts.jsonl")
        rows = [json.dumps(asdict(document)) + "\n" for document in benchmark.documents]
        (Path(folder) / "documents.jsonl").write_text("".join(rows), encoding="utf-8")
    seconds["write"] = time.process_time() - started - sum(seconds.values())
    made = {
        "people": spec.n_people,
        "facts": len(benchmark.facts),
        "documents": len(benchmark.documents),
        "prompts": sum(len(fact.prompts) for fact in benchmark.facts),
        "tokenizer": args.tokenizer,
    }
    results = [measurement(name, [value], unit="s") for name, value in seconds.items()]
    total = sum(seconds.values())
    results.append(measurement("whole benchmark", [total], unit="s", limit=LIMIT_S, **made))
    return report("benchmark_generator", results, args.out)


if __name__ == "__main__":
    sys.exit(main())
