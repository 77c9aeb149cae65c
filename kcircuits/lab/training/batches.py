"""Documents as padded token batches, in an order that is a function of seed and epoch alone."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import IterableDataset

IGNORED = -100
"""Label of positions that carry no loss (the default of torch's cross-entropy)."""
Shown = Callable[[int], Sequence[Sequence[int]]]
"""Gives the token rows of an epoch."""


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


def collate(rows: Sequence[Sequence[int]]) -> dict[str, Int[Tensor, "document pos"]]:
    """A batch as models take it; one without rows has a row of which nothing is predicted."""
    ids, mask, labels = pad(rows or [[0, 0]])
    if not rows:
        labels.fill_(IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class EpochStream(IterableDataset[dict[str, Tensor]]):
    """The batches of one epoch after another: this process's share of each.

    Args:
        shown: Gives the token rows of an epoch; asked when the epoch begins.
        n_most: Rows that an epoch has at most.
        batch_size: Rows per batch, of all processes together.
        seed: Of the order.
        process: This process's number, and how many there are.

    Attributes:
        epoch: The one that iterating begins.
        n_steps: Batches of the epoch that was begun last.
    """

    def __init__(
        self,
        shown: Shown,
        n_most: int,
        batch_size: int,
        seed: int,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        self._shown, self._batch_size, self._seed = shown, batch_size, seed
        self._n_most_steps = -(-n_most // batch_size)
        self._process = process
        self.epoch, self.n_steps = 1, 0

    def __len__(self) -> int:
        return self._n_most_steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rows = self._shown(self.epoch)
        lengths = [len(row) for row in rows]
        batches = epoch_batches(lengths, self._batch_size, seed=self._seed, epoch=self.epoch)
        self.n_steps = len(batches)
        assert self.n_steps <= len(self)
        index, count = self._process
        for batch in batches:
            yield collate([rows[i] for i in batch[index::count]])
