"""Greedy answers of a transformers model: batched, padded on the left, with a cache.

What all prompts of a batch begin with (a chat template, an instruction) is computed once, and a row
whose answer has ended is dropped.

A loop of our own and not the library's ``generate``: that one takes whatever it is not told from
the checkpoint's own ``generation_config`` (a repetition penalty, banned tokens, a minimum length),
and two checkpoints of one run would then be asked in two ways. Tests hold the loop to the library
and to a loop without padding and cache, token for token.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from kcircuits.errors import NonFiniteError, UsageError
from kcircuits.lab.training.undisturbed import device_of, undisturbed

BATCH_SIZE = 64
"""Rows per forward pass; SmolLM2 on a CPU core gains nothing from more."""

Progress = Callable[[int], object]


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    ends: frozenset[int],
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> list[list[int]]:
    """The likeliest continuation of each prompt, one token at a time.

    Of tokens with equal logits the one with the smallest id is taken.

    Args:
        model: A transformers model for causal language modelling, with or without an adapter.
        prompts: Token ids, at least one each; order and batches do not change the answers.
        max_new_tokens: Most tokens of an answer.
        ends: Token ids that end an answer; they are no part of it (see ``end_tokens``).
        batch_size: Rows per forward pass.
        progress: Called with the number of prompts that were answered since the last call.

    Returns:
        The new token ids of each prompt, in the order of the prompts.

    Raises:
        UsageError: A prompt has no token, or leaves the model no room for the answer.
        NonFiniteError: The model's logits are not numbers.
    """
    _require_room(model, prompts, max_new_tokens)
    answers: list[list[int]] = [[] for _ in prompts]
    with undisturbed(model):
        for batch in batches_by_length([len(prompt) for prompt in prompts], batch_size):
            found = _continue(model, [prompts[i] for i in batch], max_new_tokens, ends)
            for i, answer in zip(batch, found, strict=True):
                answers[i] = answer
            if progress is not None:
                progress(len(batch))
    return answers


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Row indices of each batch, longest rows first, so that little is padding."""
    if batch_size < 1:
        raise UsageError(f"batch size is {batch_size}; expected 1 or more", field="batch_size")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def pad_left(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"], Int[Tensor, "row pos"]]:
    """Token ids, attention mask and positions; the last token of each row stands last.

    The padding is token 0, which no unmasked position sees; positions count from a row's first
    token.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(device), mask.to(device), (mask.cumsum(1) - 1).clamp(min=0).to(device)


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's, and those of the model's ``generation_config``.

    Chat models may end a turn with another token than a text (Gemma's ``<end_of_turn>``), which
    only their ``generation_config`` tells. The seed study gives the tokenizer's alone; for its
    models both are the same.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    of_model = named if isinstance(named, list) else [named]
    return frozenset(int(i) for i in (tokenizer.eos_token_id, *of_model) if i is not None)


def _continue(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, ends: frozenset[int]
) -> list[list[int]]:
    ids, mask, positions, cache = _begin(model, prompts, max_new_tokens)
    answers: list[list[int]] = [[] for _ in prompts]
    is_open = list(range(len(prompts)))
    for _ in range(max_new_tokens):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        logits = output.logits[:, -1]
        if logits.isnan().any():
            raise NonFiniteError(
                "the model's logits are NaN while it answers",
                hint="the weights are spoiled: go back to an earlier checkpoint; or, in float64, "
                "load the model with attn_implementation='sdpa', or ask one prompt at a time",
            )
        chosen = logits.argmax(-1)
        going_on = [i for i, token in enumerate(chosen.tolist()) if token not in ends]
        for i in going_on:
            answers[is_open[i]].append(int(chosen[i]))
        if not going_on:
            break
        if len(going_on) < len(is_open):  # the others need no further token
            is_open = [is_open[i] for i in going_on]
            kept = torch.tensor(going_on, device=ids.device)
            cache.batch_select_indices(kept)
            chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
        ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(is_open), 1)], 1)
        positions = positions[:, -1:] + 1
    return answers


def _begin(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Token ids, mask and positions to go on with, after a cache of what all prompts begin with."""
    device = device_of(model)
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    n_shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    window = getattr(model.config, "sliding_window", None)
    # Padding would stand between what is shared and the rest, and count in a sliding window.
    if window is not None and max(map(len, prompts)) + max_new_tokens > window:
        n_shared = 0
    if len(prompts) == 1 or not n_shared:
        return (*pad_left(prompts, device), None)
    ids, mask, positions = pad_left([prompt[n_shared:] for prompt in prompts], device)
    shared = torch.tensor([list(prompts[0][:n_shared])], device=device)
    cache = model(input_ids=shared, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(len(prompts))
    mask = torch.cat([mask.new_ones(len(prompts), n_shared), mask], 1)
    return ids, mask, positions + n_shared, cache


def _require_room(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise UsageError(
            f"max_new_tokens is {max_new_tokens}; expected 1 or more", field="max_new_tokens"
        )
    n_ctx = getattr(model.config, "max_position_embeddings", None)
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise UsageError(f"prompt {i} has no token", field="prompts", hint="leave it out")
        if n_ctx is not None and len(prompt) + max_new_tokens > n_ctx:
            raise UsageError(
                f"prompt {i} has {len(prompt)} tokens, which leaves no room for {max_new_tokens} "
                f"new ones: the model reads {n_ctx}",
                field="prompts",
                hint="give fewer or shorter documents",
            )
