"""Total log-probabilities of continuations: how an answer is chosen without generating one.

What is shared is computed once. Prompts that begin alike (with the same solved examples) share a
cache of that beginning; and where continuations of one prompt share all but their last token (" 7"
and " 8" after "3 + 4 =", in a tokenizer that splits off the space) one row of tokens serves them.
"""

import copy
import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.errors import NonFiniteError
from kcircuits.lab.generation import BATCH_SIZE, Progress, batches_by_length
from kcircuits.lab.undisturbed import device_of, undisturbed

Tokens = tuple[int, ...]
Asked = Sequence[tuple[Tokens, Sequence[Tokens]]]


def continuation_logprobs(
    model: Any,
    asked: Asked,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> list[list[float]]:
    """What the model gives each continuation of each prompt.

    Args:
        model: A transformers model for causal language modelling, with or without an adapter.
        asked: Each prompt as token ids, and its continuations; neither is empty.
        batch_size: Rows of tokens per forward pass.
        progress: Called with the number of rows since the last call.

    Returns:
        Log-probabilities in nats, summed over the tokens of a continuation, in the order given.

    Raises:
        NonFiniteError: The model's logits are not numbers.
    """
    keys = sorted({(i, text[:-1]) for i, (_, texts) in enumerate(asked) for text in texts})
    rows = [asked[i][0] + more for i, more in keys]
    n_shared = _shared_length([prompt for prompt, _ in asked])
    found: dict[tuple[int, Tokens], float] = {}
    with undisturbed(model):
        cache = _cache_of(model, rows[0][:n_shared]) if n_shared else None
        for batch in batches_by_length([len(row) for row in rows], batch_size):
            fed = [rows[row][n_shared:] for row in batch]
            n_read = [1 + len(keys[row][1]) for row in batch]
            for row, logits in zip(batch, _last_logits(model, fed, n_read, cache), strict=True):
                i, more = keys[row]
                for text in asked[i][1]:
                    if text[:-1] == more:
                        found[i, text] = _total(logits, text, prompt=i)
            if progress is not None:
                progress(len(batch))
    return [[found[i, text] for text in texts] for i, (_, texts) in enumerate(asked)]


def _shared_length(prompts: Sequence[Tokens]) -> int:
    """Tokens that all prompts begin with; each keeps at least one of its own."""
    if len(prompts) < 2:
        return 0
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _cache_of(model: Any, tokens: Tokens) -> Any:
    """Keys and values of one row of tokens."""
    ids = torch.tensor([tokens], device=device_of(model))
    return model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values


def _last_logits(
    model: Any, rows: Sequence[Tokens], n_read: Sequence[int], cache: Any
) -> list[Float[Tensor, "pos d_vocab"]]:
    """The logits at the last ``n_read`` tokens of each row, which follow the cached ones."""
    # Padded on the right, which nothing that is read can see.
    width = max(map(len, rows))
    first = min(len(row) - n for row, n in zip(rows, n_read, strict=True))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    if cache is not None:
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(rows))
    logits = model(
        input_ids=ids.to(device_of(model)),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=width - first,
    ).logits[:, first - width :]
    return [
        logits[i, len(row) - n - first : len(row) - first]
        for i, (row, n) in enumerate(zip(rows, n_read, strict=True))
    ]


def _total(logits: Float[Tensor, "pos d_vocab"], text: Tokens, *, prompt: int) -> float:
    """Log-probability of a continuation, from the logits before each of its tokens."""
    # Half precision would round away what sums of small differences decide.
    number = torch.promote_types(logits.dtype, torch.float32)
    steps = logits.to(number).log_softmax(-1).cpu()
    total = float(steps[range(len(text)), list(text)].sum())
    if math.isnan(total):
        raise NonFiniteError(
            f"the model gives NaN to continuation {text} of prompt {prompt}",
            hint="the weights are spoiled: go back to an earlier checkpoint",
        )
    return total
