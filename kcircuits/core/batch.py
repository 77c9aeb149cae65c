"""Prompts as token ids, ready for the engine."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Int

from kcircuits.core.facts import Kind, Use
from kcircuits.errors import FactsError, UsageError

# Token ids of an answer, at least one.
Answer = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Clean and corrupt prompts of many facts, padded on the right.

    Attributes:
        clean: Token ids.
        corrupt: Token ids of equal length per row.
        lengths: Number of real tokens of each row; the answer is read at position length - 1.
        targets: Tokens of each row's right answer.
        foils: Tokens of the corrupt prompt's answer.
        fact_idx: Which fact each row belongs to, an index into ``fact_ids``.
        fact_ids: Names of the facts, in the order of every result's fact axis.
        prompt_idx: Position of each row among its fact's prompts.
        uses: What each row is for; None where prompts have no declared use, and then every row
            serves for discovery and evaluation alike.
        candidates: Tokens of the answers among which each row's target is ranked, the target's
            among them; empty where the fact names none.
        subject_mask: True at the tokens of the subject; None where it is not known.
        text_mask: True at the tokens of the prompt's own text, which leaves out what a tokenizer or
            chat template adds; None where it is not known.
        relation_mask: True at the tokens of the prompt's ``relation_span``, where it has one; None
            where it is not known.
        kinds: How each row asks; None where all rows are paraphrases.
    """

    clean: Int[np.ndarray, "prompt pos"]
    corrupt: Int[np.ndarray, "prompt pos"]
    lengths: Int[np.ndarray, " prompt"]
    targets: tuple[Answer, ...]
    foils: tuple[Answer, ...]
    fact_idx: Int[np.ndarray, " prompt"]
    fact_ids: tuple[str, ...]
    prompt_idx: Int[np.ndarray, " prompt"]
    uses: tuple[Use, ...] | None = None
    candidates: tuple[tuple[Answer, ...], ...] = ()
    subject_mask: Bool[np.ndarray, "prompt pos"] | None = None
    text_mask: Bool[np.ndarray, "prompt pos"] | None = None
    relation_mask: Bool[np.ndarray, "prompt pos"] | None = None
    kinds: tuple[Kind, ...] | None = None

    @classmethod
    def from_tokens(
        cls,
        clean: Any,
        corrupt: Any,
        target_foil: Any,
        *,
        lengths: Any = None,
        fact_idx: Any = None,
        fact_ids: Sequence[str] | None = None,
    ) -> "PromptBatch":
        """A batch from token ids, for models without a tokenizer.

        Args:
            clean: Ids [prompt, pos]; anything that numpy reads, torch tensors included.
            corrupt: Ids [prompt, pos].
            target_foil: The target and the foil of each row: ids [prompt, 2], or pairs of
                sequences of ids for answers of several tokens.
            lengths: Real tokens per row; default all positions.
            fact_idx: Fact of each row; default one fact per row.
            fact_ids: Names of the facts; default ``fact-0``, ``fact-1``, ...

        Raises:
            FactsError: Shapes that do not fit, ids that are no whole numbers or below 0, lengths
                out of range, or a fact named twice.
        """
        clean, corrupt = _ids(clean), _ids(corrupt)
        targets, foils = _answers(target_foil)
        n_prompts = len(clean)
        if clean.ndim != 2 or clean.shape != corrupt.shape or len(targets) != n_prompts:
            raise FactsError(
                f"clean {clean.shape}, corrupt {corrupt.shape} and {len(targets)} pairs of target "
                "and foil do not fit together",
                hint="give clean and corrupt as [prompt, pos] and target_foil as [prompt, 2]",
            )
        lengths = _lengths(lengths, clean.shape)
        rows = np.arange(n_prompts) if fact_idx is None else _ids(fact_idx)
        n_facts = int(rows.max(initial=-1)) + 1
        names = tuple(f"fact-{i}" for i in range(n_facts)) if fact_ids is None else tuple(fact_ids)
        if rows.shape != (n_prompts,) or set(rows.tolist()) != set(range(len(names))):
            raise FactsError(
                f"fact_idx must name each of the {len(names)} facts and give one fact per row "
                f"({n_prompts} rows)",
                field="fact_idx",
            )
        if len(set(names)) < len(names):
            raise FactsError(
                f"fact_ids names a fact twice: {', '.join(map(str, names[:8]))}",
                field="fact_ids",
                hint="name each fact once, and say with fact_idx which rows are its prompts",
            )
        seen = np.zeros(n_facts, dtype=np.int64)
        prompt_idx = np.zeros(n_prompts, dtype=np.int64)
        for row, fact in enumerate(rows):
            prompt_idx[row] = seen[fact]
            seen[fact] += 1
        return cls(
            clean=clean,
            corrupt=corrupt,
            lengths=lengths,
            targets=targets,
            foils=foils,
            fact_idx=rows,
            fact_ids=names,
            prompt_idx=prompt_idx,
        )

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def n_facts(self) -> int:
        """Number of facts, those without a row of some use included."""
        return len(self.fact_ids)

    @property
    def target(self) -> Int[np.ndarray, " prompt"]:
        """First token of each row's target."""
        return np.array([answer[0] for answer in self.targets], dtype=np.int64)

    @property
    def foil(self) -> Int[np.ndarray, " prompt"]:
        """First token of each row's foil."""
        return np.array([answer[0] for answer in self.foils], dtype=np.int64)

    @property
    def pos_mask(self) -> Bool[np.ndarray, "prompt pos"]:
        """True at real tokens."""
        pos = np.arange(self.clean.shape[1], dtype=np.int64)
        return pos[None, :] < self.lengths[:, None]

    @property
    def prefix_lengths(self) -> Int[np.ndarray, " prompt"]:
        """Tokens before the first one where clean and corrupt differ."""
        differs: Bool[np.ndarray, "prompt pos"] = (self.clean != self.corrupt) & self.pos_mask
        first: Int[np.ndarray, " prompt"] = differs.argmax(1)
        found: Int[np.ndarray, " prompt"] = np.where(differs.any(1), first, self.lengths - 1)
        return found

    def rows(self, index: Any) -> "PromptBatch":
        """The batch with only the given rows, cut to their longest; the fact axis is kept."""
        index = np.arange(len(self))[index]
        kept: list[int] = index.tolist()
        width = int(self.lengths[index].max(initial=1))

        def chosen(mask: Bool[np.ndarray, "prompt pos"] | None) -> Any:
            return None if mask is None else mask[index, :width]

        return replace(
            self,
            clean=self.clean[index, :width],
            corrupt=self.corrupt[index, :width],
            lengths=self.lengths[index],
            targets=tuple(self.targets[i] for i in kept),
            foils=tuple(self.foils[i] for i in kept),
            fact_idx=self.fact_idx[index],
            prompt_idx=self.prompt_idx[index],
            uses=None if self.uses is None else tuple(self.uses[i] for i in kept),
            candidates=tuple(self.candidates[i] for i in kept) if self.candidates else (),
            subject_mask=chosen(self.subject_mask),
            text_mask=chosen(self.text_mask),
            relation_mask=chosen(self.relation_mask),
            kinds=None if self.kinds is None else tuple(self.kinds[i] for i in kept),
        )

    def with_use(self, use: Use) -> "PromptBatch":
        """The rows for one use; all rows where no use is declared."""
        if self.uses is None:
            return self
        return self.rows(np.array([u == use for u in self.uses], dtype=bool))

    def facts(self, fact_ids: Sequence[str]) -> "PromptBatch":
        """The batch of only the given facts, in the given order."""
        unknown = [name for name in fact_ids if name not in self.fact_ids]
        if unknown:
            raise UsageError(f"fact {unknown[0]!r} is not in this batch", field="facts")
        order = {self.fact_ids.index(name): i for i, name in enumerate(fact_ids)}
        keep = np.array([row for row, fact in enumerate(self.fact_idx) if int(fact) in order])
        chosen = self.rows(keep.astype(np.int64))
        new_idx = np.array([order[int(fact)] for fact in chosen.fact_idx], dtype=np.int64)
        return replace(chosen, fact_idx=new_idx, fact_ids=tuple(fact_ids))


def _ids(values: Any) -> Int[np.ndarray, "..."]:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as cause:  # ragged, or a tensor with a gradient
        raise FactsError(
            f"token ids cannot be read: {cause}",
            field="tokens",
            hint="give rows of equal length, padded on the right, with lengths",
        ) from cause
    if array.size and array.dtype.kind not in "iu":
        raise FactsError(f"token ids must be whole numbers, not {array.dtype}", field="tokens")
    if array.size and array.min() < 0:
        raise FactsError(f"{array.min()} is no token id; expected 0 or more", field="tokens")
    return array.astype(np.int64)


def _answers(target_foil: Any) -> tuple[tuple[Answer, ...], tuple[Answer, ...]]:
    """Targets and foils from ids [prompt, 2] or from pairs of sequences of ids."""
    pairs: list[list[Any]] = [
        [np.atleast_1d(_ids(x)) for x in cast("Iterable[Any]", pair)]
        if isinstance(pair, Iterable)
        else []
        for pair in target_foil
    ]
    if any(len(pair) != 2 or not all(a.ndim == 1 and len(a) for a in pair) for pair in pairs):
        raise FactsError(
            "target_foil and prompts do not fit together: each prompt needs a target and a foil",
            field="target_foil",
            hint="give ids [prompt, 2], or pairs of sequences of ids",
        )
    target, foil = (tuple(tuple(pair[i].tolist()) for pair in pairs) for i in range(2))
    return target, foil


def _lengths(given: Any, shape: tuple[int, ...]) -> Int[np.ndarray, " prompt"]:
    n_prompts, width = shape
    lengths = np.full(n_prompts, width, dtype=np.int64) if given is None else _ids(given)
    if lengths.shape != (n_prompts,) or ((lengths < 1) | (lengths > width)).any():
        raise FactsError(
            f"lengths are {lengths.tolist()[:8]}; expected {n_prompts} numbers from 1 to {width}",
            field="lengths",
        )
    return lengths
