"""What training through the Trainer costs: tokens a second of its steps against a bare loop.

Both train SmolLM2 in full (``--model`` names another) on the same documents in the same order, with
the same optimiser, in the same process. Repeats of the two take turns, so that what else the
machine does falls on both. A round is an epoch of ``--steps`` steps; the first is a warm-up, and
probing is no part of it. Seconds are of one CPU thread; those of the clock stand beside them. The
losses of the two have to be equal.

    python benchmarks/training.py [--out FILE] [--model MODEL] [--steps N] [--repeats N]
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import measurement, parser, report

from kcircuits.lab.benchmark.generate import generate
from kcircuits.lab.benchmark.spec import BenchmarkSpec
from kcircuits.lab.training.batches import collate, epoch_batches
from kcircuits.lab.training.loss_meter import LossMeter
from kcircuits.lab.training.spec import TrainSpec
from kcircuits.lab.training.step import Step
from kcircuits.lab.training.train import load_base
from kcircuits.lab.training.trainer import ContinualTrainer, Course, training_arguments
from kcircuits.models import fetch_model

LIMIT = 0.85
"""Share of a bare loop's tokens per second that training has to reach."""
BATCH_SIZE = 4
LR = 1e-4


def documents(tokenizer: Any, n_rows: int) -> list[list[int]]:
    """Token rows of the controlled benchmark."""
    made = generate(BenchmarkSpec(people={"high": 24, "low": 24}), tokenizer, seed=0).documents
    rows: list[list[int]] = tokenizer([document.text for document in made])["input_ids"]
    return [rows[i % len(rows)] for i in range(n_rows)]


def now() -> np.ndarray:
    """Seconds of this process, and of the clock."""
    return np.array([time.process_time(), time.perf_counter()])


def bare_loop(model: Any, rows: list[list[int]]) -> Callable[[int], float]:
    """Trains an epoch as one writes it by hand; gives its last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
    lengths = [len(row) for row in rows]

    def epoch(number: int) -> float:
        model.train()
        last = 0.0
        for batch in epoch_batches(lengths, BATCH_SIZE, seed=0, epoch=number):
            inputs = collate([rows[i] for i in batch])
            labels = inputs.pop("labels")[:, 1:]
            logits = model(**inputs, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            last = loss.item()
        return last

    return epoch


def main() -> int:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--model", default="smollm2-135m-instruct")
    arguments.add_argument("--steps", type=int, default=6)
    arguments.add_argument("--repeats", type=int, default=4)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    folder = fetch_model(options.model)
    bare, tokenizer = load_base(folder)
    rows = documents(tokenizer, options.steps * BATCH_SIZE)
    loop = bare_loop(bare.requires_grad_(True), rows)
    marks: dict[str, list[np.ndarray]] = {"bare loop": [], "trainer": []}
    losses: dict[str, list[float]] = {"bare loop": [], "trainer": []}
    began = now()

    def shown(epoch: int) -> list[list[int]]:
        """The bare loop's turn, then the Trainer's, whose epoch begins when this returns."""
        nonlocal began
        started = now()
        losses["bare loop"].append(loop(epoch))
        began = now()
        marks["bare loop"].append(began - started)
        return rows

    def told(step: Step) -> None:
        if step.step == step.n_steps:
            marks["trainer"].append(now() - began)
            losses["trainer"].append(step.loss)

    spec = TrainSpec(n_epochs=options.repeats + 1, lr=LR, batch_size=BATCH_SIZE)
    with tempfile.TemporaryDirectory() as place:
        ContinualTrainer(
            load_base(folder)[0].requires_grad_(True),
            training_arguments(spec, Path(place), name="benchmark"),
            Course(spec=spec, shown=shown, n_most=len(rows)),
            meter=LossMeter(),
            progress=told,
        ).train()
    np.testing.assert_allclose(losses["trainer"], losses["bare loop"], rtol=1e-3)
    n_tokens = sum(map(len, rows))
    rates = {name: n_tokens / np.array(took[1:]) for name, took in marks.items()}
    details = {"steps": options.steps, "tokens": n_tokens, "batch_size": BATCH_SIZE}
    results = [
        measurement(
            name,
            of_cpu.tolist(),
            unit="tokens/cpu s",
            tokens_per_second=statistics.median(of_clock.tolist()),
            **details,
        )
        for name, (of_cpu, of_clock) in ((name, rate.T) for name, rate in rates.items())
    ]
    ratios = (rates["trainer"] / rates["bare loop"]).T
    name, by_clock = "trainer over bare loop", statistics.median(ratios[1].tolist())
    results.append(
        measurement(name, ratios[0].tolist(), unit="ratio", limit=-LIMIT, by_clock=by_clock)
    )
    return report("training", results, options.out)


if __name__ == "__main__":
    sys.exit(main())
