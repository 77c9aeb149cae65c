"""Prompts followed by their answers: which tokens are run, and where which token is read.

An answer of n tokens is read at n positions: after the prompt, and after each of its tokens but
the last (teacher forcing). Its own tokens follow the prompt in the clean and in the corrupt row
alike, so positions still correspond. A foil of another wording needs a row of its own; a pair of
single tokens needs none, since both are read at the prompt's last position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.core.batch import Answer, PromptBatch

ROLES = ("subject", "rest", "last")
SUBJECT, REST, LAST = range(3)
NO_TOKEN = -1


@dataclass(frozen=True, kw_only=True)
class AnswerRows:
    """Rows of tokens and the reads on them.

    Attributes:
        clean: Token ids, right-padded with 0.
        corrupt: Token ids of equal length per row.
        lengths: Real tokens of each row.
        prompt: Prompt of each row, an index into the batch.
        role: Role of each position, an index into ``ROLES``: the subject's tokens, the rest of
            the prompt, and ``last``: the prompt's last token with the answer's after it.
        read_row: Row of each read.
        read_pos: Position whose logits are read.
        token: The token that is read.
        other: The token that it is compared with at the same position; ``NO_TOKEN`` where it is
            compared with all tokens (its log-probability).
        sign: 1 for reads of the target, -1 for those of the foil.
    """

    clean: Int[np.ndarray, "row pos"]
    corrupt: Int[np.ndarray, "row pos"]
    lengths: Int[np.ndarray, " row"]
    prompt: Int[np.ndarray, " row"]
    role: Int[np.ndarray, "row pos"]
    read_row: Int[np.ndarray, " read"]
    read_pos: Int[np.ndarray, " read"]
    token: Int[np.ndarray, " read"]
    other: Int[np.ndarray, " read"]
    sign: Float[np.ndarray, " read"]


def answer_rows(batch: PromptBatch, *, with_foil: bool = True) -> AnswerRows:
    """The rows that a metric needs of each prompt.

    Args:
        batch: Prompts with targets and foils.
        with_foil: The metric compares the target with the foil.
    """
    built = _Rows(batch)
    for prompt, (target, foil) in enumerate(zip(batch.targets, batch.foils, strict=True)):
        if not with_foil:
            built.read_answer(built.add(prompt, target), prompt, target, 1.0)
        elif len(target) == len(foil) == 1:
            last = int(batch.lengths[prompt]) - 1
            built.reads.append((built.add(prompt, target), last, target[0], foil[0], 1.0))
        else:
            row = built.add(prompt, target if len(target) > 1 else foil)
            has_own_row = len(target) > 1 and len(foil) > 1
            built.read_answer(row, prompt, target, 1.0)
            built.read_answer(built.add(prompt, foil) if has_own_row else row, prompt, foil, -1.0)
    return built.finished()


def max_rows_per_prompt(batch: PromptBatch) -> int:
    """2 where a target and its foil both have several tokens, else 1."""
    pairs = zip(batch.targets, batch.foils, strict=True)
    return 2 if any(min(len(target), len(foil)) > 1 for target, foil in pairs) else 1


class _Rows:
    """Rows and reads as they are added."""

    def __init__(self, batch: PromptBatch) -> None:
        self.batch = batch
        self.rows: list[tuple[int, Answer]] = []
        self.reads: list[tuple[int, int, int, int, float]] = []

    def add(self, prompt: int, answer: Answer) -> int:
        """A row of the prompt and all tokens of the answer but the last."""
        self.rows.append((prompt, answer[:-1]))
        return len(self.rows) - 1

    def read_answer(self, row: int, prompt: int, answer: Answer, sign: float) -> None:
        """Reads every token of the answer by its log-probability."""
        first = int(self.batch.lengths[prompt]) - 1
        self.reads += [
            (row, first + i, token, NO_TOKEN, sign) for i, token in enumerate(answer)
        ]  # fmt: skip

    def finished(self) -> AnswerRows:
        batch = self.batch
        prompts = np.array([prompt for prompt, _ in self.rows], dtype=np.int64)
        fed = [answer for _, answer in self.rows]
        clean, corrupt = (
            _followed(ids[prompts], batch.lengths[prompts], fed)
            for ids in (batch.clean, batch.corrupt)
        )
        role = np.full(clean.shape, REST, dtype=np.int64)
        if batch.subject_mask is not None:
            width = min(clean.shape[1], batch.clean.shape[1])
            role[:, :width][batch.subject_mask[prompts, :width]] = SUBJECT
        after: Bool[np.ndarray, "row pos"] = (
            np.arange(clean.shape[1], dtype=np.int64)[None, :]
            >= batch.lengths[prompts][:, None] - 1
        )
        role[after] = LAST
        row, pos, token, other, sign = (
            np.array([read[i] for read in self.reads], dtype=np.int64) for i in range(5)
        )
        return AnswerRows(
            clean=clean,
            corrupt=corrupt,
            lengths=batch.lengths[prompts] + np.array([len(a) for a in fed], dtype=np.int64),
            prompt=prompts,
            role=role,
            read_row=row,
            read_pos=pos,
            token=token,
            other=other,
            sign=sign.astype(np.float64),
        )


def _followed(
    ids: Int[np.ndarray, "row pos"], lengths: Int[np.ndarray, " row"], answers: Sequence[Answer]
) -> Int[np.ndarray, "row longer"]:
    """Each row of ids cut to its length and followed by an answer's tokens."""
    width = max((int(n) + len(a) for n, a in zip(lengths, answers, strict=True)), default=0)
    followed = np.zeros((len(ids), width), dtype=np.int64)
    for row, (n, answer) in enumerate(zip(lengths.tolist(), answers, strict=True)):
        followed[row, :n] = ids[row, :n]
        followed[row, n : n + len(answer)] = answer
    return followed
