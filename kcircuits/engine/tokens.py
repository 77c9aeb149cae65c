"""Rows of tokens on the device, split into a shared prefix and the rest.

Before the first token where clean and corrupt prompts differ, every activation of the two runs is
equal. That prefix is run once and only its keys and values are kept.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from kcircuits.core.batch import PromptBatch
from kcircuits.errors import CheckpointError
from kcircuits.models.weights import TransformerWeights


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """Clean and corrupt prompts of a chunk.

    Attributes:
        clean: Token ids, all positions.
        corrupt: Token ids, all positions.
        answer_pos: Where each row's answer is read.
        target: First token of the right answer.
        foil: First token of the other answer.
        n_shared: Positions at the start where clean and corrupt agree in every row.
    """

    clean: Int[Tensor, "prompt pos"]
    corrupt: Int[Tensor, "prompt pos"]
    answer_pos: Int[Tensor, " prompt"]
    target: Int[Tensor, " prompt"]
    foil: Int[Tensor, " prompt"]
    n_shared: int

    @property
    def device(self) -> torch.device:
        """Where the rows live."""
        return self.clean.device

    @classmethod
    def from_batch(
        cls, batch: PromptBatch, weights: TransformerWeights, *, share_prefix: bool = True
    ) -> "TokenRows":
        """The rows of a batch on the weights' device.

        Args:
            batch: Prompts, right-padded.
            weights: Say which token ids and how many positions exist.
            share_prefix: Run equal leading positions once; exact only where ablated edges carry
                corrupt activations.

        Raises:
            CheckpointError: A token id beyond the embedding, or more positions than the model has.
        """
        d_vocab = weights.embed.shape[0]
        used = (batch.clean, batch.corrupt, batch.target, batch.foil)
        largest = max(int(ids.max(initial=0)) for ids in used)
        if largest >= d_vocab:
            raise CheckpointError(
                f"token id {largest} is beyond the embedding, which has {d_vocab} rows",
                hint="use the tokenizer that belongs to this checkpoint",
            )
        n_ctx = _n_ctx(weights)
        if n_ctx is not None and batch.clean.shape[1] > n_ctx:
            raise CheckpointError(
                f"a prompt has {batch.clean.shape[1]} tokens; the model has {n_ctx} positions",
                hint="shorten the prompt",
            )
        # The answer position itself is always run: its logits are what is measured.
        n_shared = int(min(batch.prefix_lengths.min(), batch.lengths.min() - 1))

        def tensor(array: object) -> Tensor:
            return torch.as_tensor(array, device=weights.device)

        return cls(
            clean=tensor(batch.clean),
            corrupt=tensor(batch.corrupt),
            answer_pos=tensor(batch.lengths - 1),
            target=tensor(batch.target),
            foil=tensor(batch.foil),
            n_shared=n_shared if share_prefix else 0,
        )


def _n_ctx(weights: TransformerWeights) -> int | None:
    if weights.pos_embed is not None:
        return len(weights.pos_embed)
    rotary = weights.attention[0].rotary
    return None if rotary is None else len(rotary[0])
