"""Does the model know a fact: probability, rank and correctness of its answer.

A prompt is *known* when its target ranks first among the fact's candidates, by first token; a
fact when more than half of its probe prompts are. Where a fact names no candidates the target is
ranked among the whole vocabulary. The rule's name stands in every row.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.core.batch import PromptBatch
from kcircuits.engine.chunks import (
    DEFAULT_MEMORY,
    count_workers,
    masked_bytes,
    parse_memory,
    plan_chunks,
    run_chunks,
)
from kcircuits.engine.forward import embed, forward
from kcircuits.engine.parity import checked_weights
from kcircuits.engine.tokens import TokenRows
from kcircuits.models import Model

KNOWN_AMONG_CANDIDATES = "first-among-candidates"
KNOWN_AMONG_VOCABULARY = "first-in-vocabulary"


def probe(
    model: Model, batch: PromptBatch, *, memory: str | int = DEFAULT_MEMORY
) -> list[dict[str, Any]]:
    """Asks the model every probe prompt of a batch.

    Args:
        model: From ``load_model``.
        batch: From ``tokenize``; the rows of ``probe_rows`` are asked.
        memory: Peak memory above the loaded model to stay within.

    Returns:
        One row per prompt, in batch order: see ``answer_statistics``.
    """
    batch = probe_rows(batch)
    weights = checked_weights(model)
    n_bytes = masked_bytes(weights, batch.clean.shape[1])
    n_workers = count_workers(weights)

    def ask(index: np.ndarray) -> list[dict[str, Any]]:
        part = batch.rows(index)
        tokens = TokenRows.from_batch(part, weights, share_prefix=False)
        with torch.no_grad():
            logits = forward(weights, embed(weights, tokens.clean), tokens.answer_pos)
        return answer_statistics(logits, part)

    rows: list[dict[str, Any]] = [{} for _ in range(len(batch))]
    plan = plan_chunks(batch, n_bytes, parse_memory(memory), n_workers)
    for index, answers in run_chunks(plan, ask, n_workers):
        for place, row in zip(index, answers, strict=True):
            rows[place] = row
    return rows


def probe_rows(batch: PromptBatch) -> PromptBatch:
    """The prompts that decide what is known: those for probing, else those for evaluation.

    Facts without either are asked by all their prompts.
    """
    if batch.uses is None:
        return batch
    keep: list[int] = []
    for fact in range(batch.n_facts):
        mine = [row for row in range(len(batch)) if batch.fact_idx[row] == fact]
        for use in ("probe", "evaluation"):
            if chosen := [row for row in mine if batch.uses[row] == use]:
                mine = chosen
                break
        keep += mine
    return batch.rows(sorted(keep))


def answer_statistics(
    logits: Float[Tensor, "prompt d_vocab"], batch: PromptBatch
) -> list[dict[str, Any]]:
    """What the logits at the answer positions say of each prompt's target.

    Args:
        logits: Of any model, one row per row of the batch.
        batch: Targets and candidates.

    Returns:
        Rows with ``fact``, ``prompt_idx``, ``logprob`` (nats), ``prob``, ``rank`` (in the
        vocabulary, 1 is best), ``candidate_rank`` (None without candidates), ``known``,
        ``known_rule``.
    """
    logprobs = logits.detach().log_softmax(-1)
    target = torch.as_tensor(batch.target, device=logits.device)
    own = logprobs.gather(1, target[:, None])
    ranks = (1 + (logprobs > own).sum(-1)).tolist()
    rows = []
    for i, (logprob, rank) in enumerate(zip(own[:, 0].tolist(), ranks, strict=True)):
        candidates = batch.candidates[i] if batch.candidates else ()
        candidate_rank = None
        if candidates:
            others = logprobs[i, list(candidates)]
            candidate_rank = 1 + int((others > own[i]).sum())
        rows.append(
            {
                "fact": batch.fact_ids[int(batch.fact_idx[i])],
                "prompt_idx": int(batch.prompt_idx[i]),
                "logprob": logprob,
                "prob": float(own[i, 0].exp()),
                "rank": rank,
                "candidate_rank": candidate_rank,
                "known": (rank if candidate_rank is None else candidate_rank) == 1,
                "known_rule": KNOWN_AMONG_CANDIDATES if candidates else KNOWN_AMONG_VOCABULARY,
            }
        )
    return rows


def known_facts(rows: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Which facts are known: more than half of their rows are."""
    known: dict[str, list[bool]] = {}
    for row in rows:
        known.setdefault(row["fact"], []).append(bool(row["known"]))
    return {fact: 2 * sum(flags) > len(flags) for fact, flags in known.items()}
