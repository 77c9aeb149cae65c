"""What a model knows of the facts: answer statistics on prompts that it was not trained on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kcircuits.core.batch import PromptBatch
from kcircuits.evaluation.probe import Ask, answer_statistics, probe_rows

_CHUNK = 32


def asker(model: Any) -> Ask:
    """A transformers model as ``answer_statistics`` asks it; logits in float32."""

    def ask(tokens: Tensor, row: Tensor, pos: Tensor) -> Tensor:
        # Rows are padded on the right, and what is read lies before the padding.
        logits = [model(input_ids=part, use_cache=False).logits for part in tokens.split(_CHUNK)]
        return torch.cat(logits)[row, pos].float()

    return ask


def probe_model(model: Any, batch: PromptBatch) -> list[dict[str, Any]]:
    """One row per prompt to probe with: fact, prompt, probability, rank, known and by what rule."""
    chosen = probe_rows(batch)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        rows = [
            row
            for start in range(0, len(chosen), _CHUNK)
            for row in answer_statistics(
                asker(model), chosen.rows(np.arange(start, min(start + _CHUNK, len(chosen))))
            )
        ]
    model.train(was_training)
    return rows
