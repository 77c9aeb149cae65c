"""Rows of tokens on the device, what is read of them, and what clean and corrupt rows share.

Before the first token where clean and corrupt prompts differ, every activation of the two runs is
equal. That prefix is run once and only its keys and values are kept.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kcircuits.core.answers import answer_rows
from kcircuits.core.batch import PromptBatch
from kcircuits.errors import CheckpointError
from kcircuits.models.weights import TransformerWeights


@dataclass(frozen=True, kw_only=True)
class Reads:
    """Where logits are read, and of which tokens; see ``core.answers.AnswerRows``.

    Attributes:
        row: Row of each read.
        pos: Position, counted from the first token of the row.
        token: The token that is read.
        other: The token it is compared with; -1 for all tokens together.
        sign: 1 for the target's tokens, -1 for the foil's.
        prompt: Prompt of each read.
    """

    row: Int[Tensor, " read"]
    pos: Int[Tensor, " read"]
    token: Int[Tensor, " read"]
    other: Int[Tensor, " read"]
    sign: Float[Tensor, " read"]
    prompt: Int[Tensor, " read"]

    def repeated(self, n: int, n_rows: int) -> "Reads":
        """The reads of ``n_rows`` rows that are stacked ``n`` times; prompts stay the same."""
        return Reads(
            row=torch.cat([self.row + step * n_rows for step in range(n)]),
            pos=self.pos.repeat(n),
            token=self.token.repeat(n),
            other=self.other.repeat(n),
            sign=self.sign.repeat(n),
            prompt=self.prompt.repeat(n),
        )


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """Clean and corrupt rows of a chunk of prompts.

    Attributes:
        clean: Token ids, all positions.
        corrupt: Token ids, all positions.
        lengths: Real tokens of each row.
        role: Role of each position, an index into ``core.answers.ROLES``.
        prompt: Prompt of each row.
        n_prompts: Prompts of the chunk; a prompt has one or two rows.
        reads: What is measured.
        n_shared: Positions at the start where clean and corrupt agree in every row.
    """

    clean: Int[Tensor, "row pos"]
    corrupt: Int[Tensor, "row pos"]
    lengths: Int[Tensor, " row"]
    role: Int[Tensor, "row pos"]
    prompt: Int[Tensor, " row"]
    n_prompts: int
    reads: Reads
    n_shared: int

    @property
    def device(self) -> torch.device:
        """Where the rows live."""
        return self.clean.device

    def by_prompt(self, values: Float[Tensor, "row *rest"]) -> Float[Tensor, "prompt *rest"]:
        """Sums over each prompt's rows."""
        if len(values) == self.n_prompts:
            return values
        summed = values.new_zeros(self.n_prompts, *values.shape[1:])
        return summed.index_add_(0, self.prompt, values)

    @classmethod
    def from_batch(
        cls,
        batch: PromptBatch,
        weights: TransformerWeights,
        *,
        with_foil: bool = True,
        share_prefix: bool = True,
    ) -> "TokenRows":
        """The rows of a batch on the weights' device.

        Args:
            batch: Prompts, right-padded.
            weights: Say which token ids and how many positions exist.
            with_foil: The metric reads the foil as well as the target.
            share_prefix: Run equal leading positions once; exact only where ablated edges carry
                corrupt activations.

        Raises:
            CheckpointError: A token id beyond the embedding, or more positions than the model has.
        """
        rows = answer_rows(batch, with_foil=with_foil)
        ids = (rows.clean, rows.corrupt, rows.token, rows.other)
        largest = max(int(each.max(initial=0)) for each in ids)
        require_room(weights, largest_token=largest, n_pos=rows.clean.shape[1])
        # The first position that is read is always run: its logits are what is measured.
        n_shared = int(min(batch.prefix_lengths.min(), batch.lengths.min() - 1))

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, device=weights.device)

        return cls(
            clean=tensor(rows.clean),
            corrupt=tensor(rows.corrupt),
            lengths=tensor(rows.lengths),
            role=tensor(rows.role),
            prompt=tensor(rows.prompt),
            n_prompts=len(batch),
            reads=Reads(
                row=tensor(rows.read_row),
                pos=tensor(rows.read_pos),
                token=tensor(rows.token),
                other=tensor(rows.other),
                sign=tensor(rows.sign).to(weights.dtype),
                prompt=tensor(rows.prompt[rows.read_row]),
            ),
            n_shared=n_shared if share_prefix else 0,
        )


def require_room(weights: TransformerWeights, *, largest_token: int, n_pos: int) -> None:
    """CheckpointError for a token id beyond the embedding, or more positions than there are."""
    d_vocab = weights.embed.shape[0]
    if largest_token >= d_vocab:
        raise CheckpointError(
            f"token id {largest_token} is beyond the embedding, which has {d_vocab} rows",
            hint="use the tokenizer that belongs to this checkpoint",
        )
    n_ctx = _n_ctx(weights)
    if n_ctx is not None and n_pos > n_ctx:
        raise CheckpointError(
            f"a prompt has {n_pos} tokens; the model has {n_ctx} positions",
            hint="shorten the prompt",
        )


def _n_ctx(weights: TransformerWeights) -> int | None:
    if weights.pos_embed is not None:
        return len(weights.pos_embed)
    rotary = weights.attention[0].rotary
    return None if rotary is None else len(rotary[0])
