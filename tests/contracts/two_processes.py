"""Two processes that train one model, as torchrun would start them, on the CPU."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import kcircuits


def run_two(script: str, *arguments: object) -> tuple[list[int], list[str]]:
    """Runs a script as both processes; exit codes and standard errors, the main one's first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common["OMP_NUM_THREADS"] = "1"
    # They import what is tested, and this.
    roots = (Path(kcircuits.__file__).parents[1], Path(__file__).parents[2])
    common["PYTHONPATH"] = os.pathsep.join(map(str, roots))
    processes = [
        subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=180)[1] for process in processes]
    return [process.returncode for process in processes], errors
