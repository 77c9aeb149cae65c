"""What a model knows of the facts: answer statistics on prompts that it was not trained on."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kcircuits.core.batch import PromptBatch
from kcircuits.errors import FactsError
from kcircuits.evaluation.probe import Ask, answer_statistics, probe_rows
from kcircuits.lab.probing.generation import Progress
from kcircuits.lab.probing.prompt_tree import read_logits
from kcircuits.lab.training.undisturbed import undisturbed

N_READS = 256
"""Rows of logits, each as long as the vocabulary, that are held at once."""


def asker(model: Any) -> Ask:
    """A transformers model as ``answer_statistics`` asks it; logits in float32."""

    def ask(tokens: Tensor, row: Tensor, pos: Tensor) -> Tensor:
        # Rows are padded on the right; nothing after the last read of a row is looked at.
        reads: list[list[int]] = [[] for _ in tokens]
        for i, place in zip(row.tolist(), pos.tolist(), strict=True):
            reads[i].append(place)
        texts = [
            tuple(ids[: max(places) + 1])
            for ids, places in zip(tokens.tolist(), reads, strict=True)
        ]
        found = dict(read_logits(model, texts, reads))
        # Reads come in the order of their rows.
        return torch.cat([found[i] for i in range(len(texts))]).float()

    return ask


def probe_model(
    model: Any, batch: PromptBatch, *, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """One row per prompt to probe with: fact, prompt, probability, rank, known and by what rule.

    The model is asked in its own data type and left as it was.

    Args:
        model: A transformers model, with or without an adapter.
        batch: From ``tokenize_facts``; the rows of ``probe_rows`` are asked.
        progress: Called with the number of prompts that were asked since the last call.
    """
    chosen = probe_rows(batch)
    rows: list[dict[str, Any]] = [{} for _ in range(len(chosen))]
    with undisturbed(model):
        for index in _chunks(chosen):
            for place, row in zip(
                index, answer_statistics(asker(model), chosen.rows(index)), strict=True
            ):
                rows[place] = row
            if progress is not None:
                progress(len(index))
    return rows


def _chunks(batch: PromptBatch) -> Iterator[Sequence[int]]:
    """Prompts to ask together: those that begin alike, and ``N_READS`` reads or one prompt."""
    order = sorted(range(len(batch)), key=lambda i: batch.clean[i, : batch.lengths[i]].tolist())
    chunk: list[int] = []
    n_reads = 0
    for i in order:
        candidates = batch.candidates[i] if batch.candidates else ()
        n_more = sum(map(len, {answer[:-1] for answer in (batch.targets[i], *candidates)}))
        n_more += len({answer[:-1] for answer in (batch.targets[i], *candidates)})
        if chunk and n_reads + n_more > N_READS:
            yield chunk
            chunk, n_reads = [], 0
        chunk.append(i)
        n_reads += n_more
    if chunk:
        yield chunk


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
