"""What a model knows of the facts: answer statistics on prompts that it was not trained on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kcircuits.core.batch import PromptBatch
from kcircuits.errors import FactsError
from kcircuits.evaluation.probe import Ask, answer_statistics, probe_rows
from kcircuits.lab.undisturbed import device_of, undisturbed

_CHUNK = 32


def asker(model: Any) -> Ask:
    """A transformers model as ``answer_statistics`` asks it; logits in float32."""

    def ask(tokens: Tensor, row: Tensor, pos: Tensor) -> Tensor:
        # Rows are padded on the right, and what is read lies before the padding. Reads come in
        # the order of their rows, so that only what is read of each part has to be kept.
        tokens, read = tokens.to(device_of(model)), []
        for start in range(0, len(tokens), _CHUNK):
            mine = (row >= start) & (row < start + _CHUNK)
            logits = model(input_ids=tokens[start : start + _CHUNK], use_cache=False).logits
            read.append(logits[row[mine] - start, pos[mine]].float())
        return torch.cat(read)

    return ask


def probe_model(model: Any, batch: PromptBatch) -> list[dict[str, Any]]:
    """One row per prompt to probe with: fact, prompt, probability, rank, known and by what rule.

    The model is asked in its own data type and left as it was.
    """
    chosen = probe_rows(batch)
    with undisturbed(model):
        return [
            row
            for start in range(0, len(chosen), _CHUNK)
            for row in answer_statistics(
                asker(model), chosen.rows(np.arange(start, min(start + _CHUNK, len(chosen))))
            )
        ]


def require_room(model: Any, batch: PromptBatch) -> None:
    """FactsError where a token has no row in the embedding, or a prompt is too long."""
    n_rows = model.get_input_embeddings().weight.shape[0]
    n_positions = getattr(model.config, "max_position_embeddings", None)
    for row in range(len(batch)):
        answers = (batch.targets[row], *(batch.candidates[row] if batch.candidates else ()))
        largest = max(int(batch.clean[row].max()), *(max(answer) for answer in answers))
        length = int(batch.lengths[row]) + max(map(len, answers)) - 1
        place = f"fact {batch.fact_ids[int(batch.fact_idx[row])]}, prompt {batch.prompt_idx[row]}"
        if largest >= n_rows:
            raise FactsError(
                f"{place}: token id {largest} is beyond the {n_rows} rows of the embedding",
                hint="use the tokenizer that belongs to this model",
            )
        if n_positions is not None and length > n_positions:
            raise FactsError(
                f"{place}: {length} tokens, but the model reads {n_positions}",
                hint="shorten the prompt",
            )
