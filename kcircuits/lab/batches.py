"""Documents as padded token batches, in an order that is a function of seed and epoch alone."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

IGNORED = -100
"""Label of positions that carry no loss (the default of torch's cross-entropy)."""


def epoch_batches(
    lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """Row indices of each batch of an epoch, every row once.

    Rows of similar length share a batch, so that little is padding; which of equal length come
    together and the order of the batches are drawn anew for each epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(lengths))
    by_length = shuffled[np.argsort(np.asarray(lengths)[shuffled], kind="stable")]
    batches = [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    return [batches[i].tolist() for i in rng.permutation(len(batches))]


def pad(
    rows: Sequence[Sequence[int]],
) -> tuple[Int[Tensor, "document pos"], Int[Tensor, "document pos"], Int[Tensor, "document pos"]]:
    """Token ids, attention mask and labels; padded on the right, where labels are ignored."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask, ids.masked_fill(mask == 0, IGNORED)
