"""What probing costs at every epoch, on a real model: CPU seconds of one thread.

The probe prompts of the small preset are asked in turn by ``probe_model``, which computes common
beginnings once and logits at answers alone, and plainly: 32 prompts at a time, padded, with the
logits of every position. What the two say is compared.

    python benchmarks/probing.py [--out FILE] [--model MODEL] [--repeats N] [--questions N]
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import cpu_seconds, measurement, parser, report
from torch import Tensor

from kcircuits.core.batch import PromptBatch
from kcircuits.evaluation.probe import answer_statistics, probe_rows
from kcircuits.io.facts import load_facts
from kcircuits.lab.build import build
from kcircuits.lab.probing.open_questions import ask_open_questions, questions_about
from kcircuits.lab.probing.probes import probe_model
from kcircuits.lab.training.train import load_base
from kcircuits.lab.training.undisturbed import undisturbed
from kcircuits.models.prompts import tokenize_facts

LIMIT = 0.6
"""Share of the plain way's time that is left."""
N_ROWS = 32


def plainly(model: Any, batch: PromptBatch) -> list[dict[str, Any]]:
    """The same rows, in a straightforward way."""

    def ask(tokens: Tensor, row: Tensor, pos: Tensor) -> Tensor:
        return model(input_ids=tokens, use_cache=False).logits[row, pos]

    chosen, rows = probe_rows(batch), []
    with undisturbed(model):
        for start in range(0, len(chosen), N_ROWS):
            index = np.arange(start, min(start + N_ROWS, len(chosen)))
            rows += answer_statistics(ask, chosen.rows(index))
    return rows


def main() -> int:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--model")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--questions", type=int, default=64)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        built = build("small", Path(folder), model=options.model)
        facts = load_facts(built.facts)
        model, tokenizer = load_base(built.base)
    batch = tokenize_facts(tokenizer, facts)
    n_prompts = len(probe_rows(batch))
    seconds: dict[str, list[float]] = {"fast": [], "plain": []}
    error, n_other, n_known = 0.0, 0, 0
    for _ in range(1 + options.repeats):
        took, rows = cpu_seconds(lambda: probe_model(model, batch))
        seconds["fast"].append(took)
        took, twins = cpu_seconds(lambda: plainly(model, batch))
        seconds["plain"].append(took)
        pairs = list(zip(rows, twins, strict=True))
        error = max(abs(a["logprob"] - b["logprob"]) for a, b in pairs)
        # Of tokens whose logits are equal but for rounding, either may come first.
        n_other = sum(a["rank"] != b["rank"] for a, b in pairs)
        n_known = sum(a["known"] != b["known"] for a, b in pairs)
    fast, plain = (times[1:] for times in seconds.values())  # the first is a warm-up
    ratios = [a / b for a, b in zip(fast, plain, strict=True)]
    asked = questions_about(facts)[: options.questions]
    took, _ = cpu_seconds(lambda: ask_open_questions(model, tokenizer, asked))
    results = [
        measurement(
            "probing / plain probing",
            ratios,
            unit="ratio",
            limit=LIMIT,
            largest_difference_nats=error,
            other_ranks=n_other,
            other_known=n_known,
        ),
        measurement(f"probing, {n_prompts} prompts", fast, unit="cpu s"),
        measurement(f"plain probing, {n_prompts} prompts", plain, unit="cpu s"),
        measurement("open questions", [len(asked) / took], unit="answers per cpu s"),
    ]
    return report("probing", results, options.out)


if __name__ == "__main__":
    sys.exit(main())
