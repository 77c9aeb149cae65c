"""How long ``kcircuits --help`` takes: wall time of fresh processes.

Two warm-ups fill the page cache and write the byte code.

    python benchmarks/cli_latency.py [--out FILE]
"""

import subprocess
import sys
import time

from record import measurement, parser, report

N_RUNS = 10


def seconds(arguments: list[str]) -> float:
    """Wall time of one command."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "kcircuits", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def main() -> int:
    options = parser(__doc__ or "").parse_args()
    for _ in range(2):
        seconds(["--help"])
    times = [seconds(["--help"]) for _ in range(N_RUNS)]
    return report("cli-latency", [measurement("--help", times, unit="s", limit=0.3)], options.out)


if __name__ == "__main__":
    sys.exit(main())
