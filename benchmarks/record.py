"""One form for every benchmark result: what was measured, where, on which code."""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "transformer-lens", "numpy")


def measurement(
    name: str, values: Sequence[float], *, unit: str, limit: float | None = None, **details: Any
) -> dict[str, Any]:
    """A result: the median of repeated values, their spread, and what it must reach.

    Args:
        name: What was measured.
        values: One value per repeat.
        unit: Unit of the values; ratios have the unit ``ratio``.
        limit: Largest value that counts as reached; negative names a lower bound.
        details: Whatever the reader needs to judge the number.
    """
    median = statistics.median(values)
    is_reached = None if limit is None else (median <= limit if limit >= 0 else median >= -limit)
    return {
        "name": name,
        "value": median,
        "min": min(values),
        "max": max(values),
        "unit": unit,
        "limit": limit,
        "reached": is_reached,
        **details,
    }


def report(benchmark: str, results: Sequence[dict[str, Any]], out: Path | None) -> int:
    """Prints the results as JSON, writes them where asked, and returns 0."""
    record = {
        "benchmark": benchmark,
        "commit": _commit(),
        "hardware": {"machine": platform.machine(), "processor": _processor()},
        "versions": {"python": platform.python_version(), **_versions()},
        "results": list(results),
    }
    text = json.dumps(record, indent=2, allow_nan=False)
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    for result in results:
        sign = {True: "reached", False: "MISSED", None: ""}[result["reached"]]
        print(f"{result['name']}: {result['value']:.3g} {result['unit']} {sign}", file=sys.stderr)
    return 0


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with ``--out``."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--out", type=Path, help="write the JSON there too")
    return made


def _commit() -> str | None:
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Of all threads of this process."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result
