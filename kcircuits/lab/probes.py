"""What a model knows of the facts: answer statistics on prompts that it was not trained on."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.core.batch import PromptBatch
from kcircuits.evaluation.probe import answer_statistics, probe_rows

_CHUNK = 32


def answer_logits(model: Any, batch: PromptBatch) -> Float[Tensor, "prompt d_vocab"]:
    """Next-token logits of a transformers model after each clean prompt, in float32."""
    rows: list[Tensor] = []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(batch), _CHUNK):
            part = batch.rows(np.arange(start, min(start + _CHUNK, len(batch))))
            ids = torch.from_numpy(part.clean)
            mask = torch.from_numpy(part.pos_mask).long()
            last = torch.from_numpy(part.lengths - 1)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            rows.append(logits[torch.arange(len(part)), last].float())
    model.train(was_training)
    return torch.cat(rows)


def probe_model(model: Any, batch: PromptBatch) -> list[dict[str, Any]]:
    """One row per prompt to probe with: fact, prompt, probability, rank, known and by what rule."""
    chosen = probe_rows(batch)
    return answer_statistics(answer_logits(model, chosen), chosen)
