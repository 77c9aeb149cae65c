"""What the full model answers: probability, rank and knowledge of each prompt's target.

A prompt is *known* when its target ranks first among the fact's candidates, by first token where
all of them are single tokens, else by full log-probability; a fact when more than half of its
paraphrases among the probe prompts are. Where a fact names no candidates the target is compared
with the whole vocabulary. The rule's name stands in every row.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kcircuits.core.batch import Answer, PromptBatch
from kcircuits.core.facts import Kind
from kcircuits.engine.chunks import (
    DEFAULT_MEMORY,
    count_workers,
    parse_memory,
    plan_chunks,
    run_chunks,
)
from kcircuits.engine.footprint import RowSizes, plain_bytes
from kcircuits.engine.forward import At, embed, forward
from kcircuits.engine.parity import checked_weights
from kcircuits.engine.tokens import require_room
from kcircuits.models import Model

KNOWN_AMONG_CANDIDATES = "first-among-candidates"
KNOWN_AMONG_VOCABULARY = "first-in-vocabulary"

# (token ids [row, pos], row of each read, position of each read) -> logits [read, d_vocab].
Ask = Callable[[Int[Tensor, "row pos"], Int[Tensor, " read"], Int[Tensor, " read"]], Tensor]


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

    Raises:
        CheckpointError: A token id beyond the embedding, or more positions than the model has.
    """
    batch = probe_rows(batch)
    weights = checked_weights(model)
    asked = [_asked(batch, i) for i in range(len(batch))]
    longest = max((len(fed) for answers in asked for fed in answers), default=0)
    sizes = RowSizes(n_pos=int(batch.lengths.max(initial=0)) + longest, n_reads=1 + longest)
    prompts = (ids[:n] for ids, n in zip(batch.clean, batch.lengths, strict=True))
    texts = chain(prompts, batch.targets, *(batch.candidates or ()))
    largest = max((int(max(text)) for text in texts), default=0)
    require_room(weights, largest_token=largest, n_pos=sizes.n_pos)
    n_bytes = plain_bytes(weights, sizes) * max(map(len, asked), default=1)
    n_workers = count_workers(weights)

    def ask(tokens: Tensor, row: Tensor, pos: Tensor) -> Tensor:
        inputs = embed(weights, tokens.to(weights.device))
        with torch.no_grad():
            return forward(weights, inputs, At(row.to(inputs.device), pos.to(inputs.device)))

    rows: list[dict[str, Any]] = [{} for _ in range(len(batch))]
    plan = plan_chunks(batch, n_bytes, parse_memory(memory), n_workers)
    answer = lambda index: answer_statistics(ask, batch.rows(index))  # noqa: E731
    for index, answers in run_chunks(plan, answer, n_workers):
        for place, row in zip(index, answers, strict=True):
            rows[place] = row
    return rows


def probe_rows(batch: PromptBatch) -> PromptBatch:
    """The prompts that are asked: those for probing, else those for evaluation, else all.

    Where those for probing hold no paraphrase, which is what decides whether a fact is known, those
    for evaluation are asked beside them.
    """
    if batch.uses is None:
        return batch
    keep: list[int] = []
    for fact in range(batch.n_facts):
        mine = [row for row in range(len(batch)) if batch.fact_idx[row] == fact]
        probing, judging = (
            [row for row in mine if batch.uses[row] == use] for use in ("probe", "evaluation")
        )
        if not any(_kind(batch, row) == "paraphrase" for row in probing):
            probing += judging
        keep += probing or mine
    return batch.rows(sorted(keep))


def answer_statistics(ask: Ask, batch: PromptBatch) -> list[dict[str, Any]]:
    """What a model says of each prompt's target.

    Args:
        ask: Any model: token rows and places to logits there.
        batch: Prompts, targets and candidates.

    Returns:
        Rows with ``fact``, ``prompt_idx``, ``kind``, ``logprob`` (nats, summed over the target's
        tokens), ``prob``, ``rank`` (in the vocabulary, 1 is best; the worst over the target's
        positions),
        ``candidate_rank`` (None without candidates), ``known``, ``known_rule``.
    """
    rows = []
    for i, (logprobs, rank) in enumerate(_answers(ask, batch)):
        candidates = batch.candidates[i] if batch.candidates else ()
        own = logprobs[batch.targets[i]]
        candidate_rank = None
        if candidates:
            candidate_rank = 1 + sum(logprobs[answer] > own for answer in candidates)
        rows.append(
            {
                "fact": batch.fact_ids[int(batch.fact_idx[i])],
                "prompt_idx": int(batch.prompt_idx[i]),
                "kind": _kind(batch, i),
                "logprob": own,
                "prob": float(np.exp(own)),
                "rank": rank,
                "candidate_rank": candidate_rank,
                "known": (rank if candidate_rank is None else candidate_rank) == 1,
                "known_rule": KNOWN_AMONG_CANDIDATES if candidates else KNOWN_AMONG_VOCABULARY,
            }
        )
    return rows


def known_facts(rows: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Which facts are known: more than half of their paraphrases are; of all rows without one."""
    by_fact: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_fact.setdefault(row["fact"], []).append(row)
    known: dict[str, bool] = {}
    for fact, mine in by_fact.items():
        paraphrases = [row for row in mine if row.get("kind", "paraphrase") == "paraphrase"]
        flags = [bool(row["known"]) for row in paraphrases or mine]
        known[fact] = 2 * sum(flags) > len(flags)
    return known


def _kind(batch: PromptBatch, row: int) -> Kind:
    return batch.kinds[row] if batch.kinds else "paraphrase"


def _asked(batch: PromptBatch, prompt: int) -> tuple[Answer, ...]:
    """The tokens that follow a prompt, one row each: single tokens need none."""
    candidates = batch.candidates[prompt] if batch.candidates else ()
    fed = {answer[:-1] for answer in (batch.targets[prompt], *candidates)}
    return tuple(sorted(fed))


def _answers(ask: Ask, batch: PromptBatch) -> list[tuple[dict[Answer, float], int]]:
    """Of each prompt the log-probability of every answer, and the rank of its target."""
    texts: list[Answer] = []
    row_of: dict[tuple[int, Answer], int] = {}
    for i in range(len(batch)):
        prompt = tuple(batch.clean[i, : batch.lengths[i]].tolist())
        for fed in _asked(batch, i):
            row_of[i, fed] = len(texts)
            texts.append(prompt + fed)
    tokens = np.zeros((len(texts), max(map(len, texts), default=0)), dtype=np.int64)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
    places = {
        (row, int(batch.lengths[i]) - 1 + step)
        for (i, fed), row in row_of.items()
        for step in range(len(fed) + 1)
    }
    order = {place: n for n, place in enumerate(sorted(places))}
    row, pos = (torch.tensor([place[k] for place in order], dtype=torch.long) for k in range(2))
    logprobs = ask(torch.from_numpy(tokens), row, pos).detach().log_softmax(-1).cpu()
    found = []
    for i, target in enumerate(batch.targets):
        first = int(batch.lengths[i]) - 1
        candidates = batch.candidates[i] if batch.candidates else ()

        def places_of(answer: Answer, i: int = i, first: int = first) -> list[int]:
            row = row_of[i, answer[:-1]]
            return [order[row, first + step] for step in range(len(answer))]

        by_answer = {
            answer: float(logprobs[places_of(answer), list(answer)].sum())
            for answer in {target, *candidates}
        }
        own = logprobs[places_of(target)]
        ranks = 1 + (own > own.gather(1, torch.tensor(target)[:, None])).sum(-1)
        found.append((by_answer, int(ranks.max())))
    return found
