"""Total log-probabilities of continuations: how an answer is chosen without generating one.

What is shared is computed once (see ``prompt_tree``): prompts that begin alike (with the same
solved examples) share that beginning; and where continuations of one prompt share all but their
last token (" 7" and " 8" after "3 + 4 =", in a tokenizer that splits off the space) one row of
tokens serves them.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kcircuits.errors import NonFiniteError
from kcircuits.lab.probing.generation import BATCH_SIZE, Progress
from kcircuits.lab.probing.prompt_tree import Tokens, read_logits
from kcircuits.lab.training.undisturbed import undisturbed

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
    reads = [range(len(asked[i][0]) - 1, len(asked[i][0] + more)) for i, more in keys]
    found: dict[tuple[int, Tokens], float] = {}
    with undisturbed(model):
        for row, logits in read_logits(model, rows, reads, max_texts=batch_size):
            i, more = keys[row]
            for text in asked[i][1]:
                if text[:-1] == more:
                    found[i, text] = _total(logits, text, prompt=i)
            if progress is not None:
                progress(1)
    return [[found[i, text] for text in texts] for i, (_, texts) in enumerate(asked)]


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
