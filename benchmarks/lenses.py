"""What looking through the lenses costs, on a real model: CPU seconds of one thread.

The discovery prompts of some facts of the small preset go through ``kc.lenses`` (contributions of
all heads by what they read, attention, the logit lens at every depth) and, in turn, through a plain
forward of transformers: 32 prompts at a time, padded, with the logits of every position.

    python benchmarks/lenses.py [--out FILE] [--model MODEL] [--repeats N] [--facts N]
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import cpu_seconds, measurement, parser, report
from transformers import AutoModelForCausalLM

import kcircuits as kc
from kcircuits.lab.build import build

N_ROWS = 32
LIMIT = 3.0
"""Times of the plain forward. The logit lens alone unembeds at every depth: on SmolLM2-135M, with
prompts of some 9 tokens, as much arithmetic as the layers."""


def plainly(model: Any, batch: kc.PromptBatch) -> np.ndarray:
    """Log-probability of each prompt's target."""
    found = []
    for start in range(0, len(batch), N_ROWS):
        part = batch.rows(np.arange(start, min(start + N_ROWS, len(batch))))
        with torch.no_grad():
            logits = model(input_ids=torch.as_tensor(part.clean), use_cache=False).logits
        row = torch.arange(len(part))
        last = logits[row, torch.as_tensor(part.lengths) - 1].log_softmax(-1)
        found.append(last[row, torch.as_tensor(part.target)].numpy())
    return np.concatenate(found)


def main() -> int:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--model")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--facts", type=int, default=12)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        built = build("small", Path(folder), model=options.model)
        facts = kc.load_facts(built.facts)[: options.facts]
        model = kc.load_model(built.base)
        plain = AutoModelForCausalLM.from_pretrained(built.base, dtype=torch.float32).eval()
    batch = kc.tokenize(model, facts).with_use("discovery")
    seconds: dict[str, list[float]] = {"lenses": [], "plain": []}
    error = 0.0
    for _ in range(1 + options.repeats):
        took, found = cpu_seconds(lambda: kc.lenses(model, batch))
        seconds["lenses"].append(took)
        took, twins = cpu_seconds(lambda: plainly(plain, batch))
        seconds["plain"].append(took)
        error = float(np.abs(found.logprob[:, -1] - twins).max())
    ours, theirs = (times[1:] for times in seconds.values())  # the first is a warm-up
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    results = [
        measurement(
            "lenses / plain forward",
            ratios,
            unit="ratio",
            limit=LIMIT,
            prompts=len(batch),
            largest_difference_nats=error,
        ),
        measurement(f"lenses, {len(batch)} prompts", ours, unit="cpu s"),
        measurement(f"plain forward, {len(batch)} prompts", theirs, unit="cpu s"),
    ]
    return report("lenses", results, options.out)


if __name__ == "__main__":
    sys.exit(main())
