"""General text to replay: what the untrained model itself writes.

Sampled at temperature 1 from the ``TOP`` likeliest tokens, from the token that begins a text, or,
where a tokenizer has none, from tokens drawn evenly. Nothing has to be at hand for it, and it is by
construction what that model holds likely; it is no text of the world.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from kcircuits.lab.training.undisturbed import device_of, undisturbed

TOP, N_TOKENS = 50, 48
_AT_ONCE = 32


def sample_texts(model: Any, tokenizer: Any, n_texts: int, seed: int) -> list[list[int]]:
    """Texts as token ids, at most ``N_TOKENS`` long; the same for the same model and seed.

    Args:
        model: The untrained model.
        tokenizer: Its tokenizer.
        n_texts: How many.
        seed: Of the draws; the global random state is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    starts = _starts(tokenizer, n_texts, generator)
    with undisturbed(model):
        parts = [_continued(model, part, generator) for part in starts.split(_AT_ONCE)]
    ends = {tokenizer.eos_token_id} - {tokenizer.bos_token_id}
    return [_until(row, ends) for part in parts for row in part.tolist()]


def _starts(tokenizer: Any, n_texts: int, generator: torch.Generator) -> Int[Tensor, "text 1"]:
    if tokenizer.bos_token_id is not None:
        return torch.full((n_texts, 1), tokenizer.bos_token_id)
    special = set(tokenizer.all_special_ids)
    plain = torch.tensor([i for i in range(len(tokenizer)) if i not in special])
    return plain[torch.randint(len(plain), (n_texts, 1), generator=generator)]


def _continued(
    model: Any, ids: Int[Tensor, "text pos"], generator: torch.Generator
) -> Int[Tensor, "text longer"]:
    cache, fed = None, ids
    for _ in range(N_TOKENS - ids.shape[1]):
        output = model(
            input_ids=fed.to(device_of(model)),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        likely = output.logits[:, -1].float().cpu().topk(min(TOP, output.logits.shape[-1]))
        drawn = torch.multinomial(likely.values.softmax(-1), 1, generator=generator)
        fed = likely.indices.gather(1, drawn)
        ids = torch.cat([ids, fed], 1)
    return ids


def _until(row: Sequence[int], ends: set[int | None]) -> list[int]:
    """A text up to the token that ends it; two tokens at least, so that one is predicted."""
    for place, token in enumerate(row[1:], 1):
        if token in ends:
            return list(row[: max(place, 2)])
    return list(row)
