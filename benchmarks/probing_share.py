"""What probes and skills cost in the default study: their share of an epoch's time.

Trains SmolLM2 for ``--epochs`` epochs with each strategy of ``kcircuits lab study`` on the
benchmark ``study`` (built here, or that of ``--lab``), and reads what every run has recorded of its
time.
Saving counts for neither part. The limit is on all strategies together, as in the study.

    python benchmarks/probing_share.py [--out FILE] [--lab DIR] [--epochs N] [--strategies LIST]
"""

import sys
import tempfile
from pathlib import Path

import torch
from record import measurement, parser, report

from kcircuits.cli.lab_study import STRATEGIES
from kcircuits.io.jsonl import read_rows
from kcircuits.lab.build import Built, build, open_lab
from kcircuits.lab.skills import DEFAULT_SKILLS
from kcircuits.lab.study import train_built
from kcircuits.lab.training.run_folder import RunFolder

LIMIT = 0.25
"""Share of an epoch's time that probes and skills may take."""


def times(built: Built, strategy: str, n_epochs: int) -> list[tuple[float, float]]:
    """Seconds of training and of probing, epoch by epoch."""
    with tempfile.TemporaryDirectory() as place:
        manifest = train_built(
            built, to=place, strategy=strategy, n_epochs=n_epochs, skills=DEFAULT_SKILLS
        )
        rows = read_rows(RunFolder(root=Path(place), run=manifest.run).losses)
    return [(row["seconds"], row["probing_seconds"]) for row in rows]


def main() -> int:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--lab", type=Path)
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--strategies", default=STRATEGIES)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        built = open_lab(options.lab) if options.lab else build("study", place)
        found = {name: times(built, name, options.epochs) for name in options.strategies.split(",")}
    results = [
        measurement(
            name,
            [probing / (training + probing) for training, probing in epochs],
            unit="share",
            training_seconds=[training for training, _ in epochs],
            probing_seconds=[probing for _, probing in epochs],
        )
        for name, epochs in found.items()
    ]
    training, probing = (sum(e[i] for epochs in found.values() for e in epochs) for i in range(2))
    share = probing / (training + probing)
    results.append(measurement("all strategies", [share], unit="share", limit=LIMIT))
    return report("probing share", results, options.out)


if __name__ == "__main__":
    sys.exit(main())
