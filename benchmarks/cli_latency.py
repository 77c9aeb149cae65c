"""How long ``kcircuits --help`` takes, as one JSON object on stdout.

Run: ``python benchmarks/cli_latency.py``. The value is the median wall time of 10 fresh processes
after a warm-up that fills the page cache and writes the byte code.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time

LIMIT = 0.3
N_RUNS = 10


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "kcircuits", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def main() -> int:
    for _ in range(2):
        seconds(["--help"])
    times = sorted(seconds(["--help"]) for _ in range(N_RUNS))
    value = statistics.median(times)
    result = {
        "benchmark": "cli-latency-help",
        "value": round(value, 4),
        "limit": LIMIT,
        "unit": "s",
        "passed": value <= LIMIT,
        "spread": [round(times[0], 4), round(times[-1], 4)],
        "n_runs": N_RUNS,
        "commit": commit(),
        "hardware": {"machine": platform.machine(), "n_cores": os.cpu_count()},
        "versions": {"python": platform.python_version()},
    }
    print(json.dumps(result, indent=2, allow_nan=False))
    return 0 if value <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
