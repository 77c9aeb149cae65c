"""What each component adds directly to the logit of a fact's answer, and what each layer would say.

Numbers are kept prompt by prompt: means, standard errors and halves follow from them. All are read
at the prompt's last position and are about the *first token* of the target and of the foil.

Contributions are in logits before any soft cap, measured from the mean over the vocabulary: what
raises all logits alike changes no probability and counts as nothing (as with a centred
unembedding). Those of all heads, MLPs, the embedding and the constants add up to the target's logit
minus the mean logit (effect ``target``), or to target minus foil (effect ``difference``; exactly 0
where the two begin with the same token).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.core.batch import PromptBatch
from kcircuits.core.topology import Topology
from kcircuits.errors import FactsError, UsageError

# Positions that heads read from, see ``position_groups``.
GROUPS = ("subject", "relation", "last", "rest")
SUBJECT, RELATION, LAST, REST = range(4)
PADDING = -1
EFFECTS = ("target", "difference")
TARGET, DIFFERENCE = range(2)
Relation = Literal["text", "span"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)
# Raised whenever the same inputs would give other numbers; part of what a file of them is kept by.
LENSES_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Lenses:
    """Direct contributions, attention and logit lens of each prompt.

    Attributes:
        topology: The graph of the model.
        checkpoint: Content hash of the checkpoint.
        relation: What the relation's positions are, see ``position_groups``.
        fact_ids: Names of the facts.
        fact_idx: Fact of each prompt.
        prompt_idx: Place of each prompt among its fact's prompts.
        n_tokens: Tokens of each group of positions.
        heads: Contribution of each head, by the positions that it reads from.
        mlps: Contribution of each MLP.
        embedding: Contribution of the last token's embedding.
        constant: What belongs to no component: positional embeddings, output biases of attention,
            biases of norms and of the unembedding.
        mean_logit: Mean logit of the vocabulary, before any soft cap.
        attention: Share of each head's attention on each group of positions.
        logprob: Log-probability of the target (nats) read off the residual stream: of the
            embedding, then after each layer; the last is the model's own.
        rank: Rank of the target in the vocabulary there, 1 is best.
    """

    topology: Topology
    checkpoint: str
    relation: Relation
    fact_ids: tuple[str, ...]
    fact_idx: Int[np.ndarray, " prompt"]
    prompt_idx: Int[np.ndarray, " prompt"]
    n_tokens: Int[np.ndarray, "prompt group"]
    heads: Float[np.ndarray, "prompt effect n_layers n_heads group"]
    mlps: Float[np.ndarray, "prompt effect n_layers"]
    embedding: Float[np.ndarray, "prompt effect"]
    constant: Float[np.ndarray, "prompt effect"]
    mean_logit: Float[np.ndarray, " prompt"]
    attention: Float[np.ndarray, "prompt n_layers n_heads group"]
    logprob: Float[np.ndarray, "prompt depth"]
    rank: Int[np.ndarray, "prompt depth"]

    def __len__(self) -> int:
        return len(self.fact_idx)

    @property
    def prob(self) -> Float[np.ndarray, "prompt depth"]:
        """Probability of the target at each depth."""
        return np.exp(self.logprob)

    @property
    def total(self) -> Float[np.ndarray, "prompt effect"]:
        """All contributions together: target minus mean logit, and target minus foil."""
        heads = self.heads.sum((2, 3, 4))
        return heads + self.mlps.sum(2) + self.embedding + self.constant

    def mean(self, values: Float[np.ndarray, "prompt *rest"]) -> Float[np.ndarray, "fact *rest"]:
        """Means over each fact's prompts; NaN where it has none."""
        sums = np.zeros((len(self.fact_ids), *values.shape[1:]))
        np.add.at(sums, self.fact_idx, values)
        with np.errstate(invalid="ignore"):
            return sums / self._counts(values.ndim)

    def standard_error(
        self, values: Float[np.ndarray, "prompt *rest"]
    ) -> Float[np.ndarray, "fact *rest"]:
        """Standard errors of ``mean`` over each fact's prompts; NaN below two."""
        off = values - self.mean(values)[self.fact_idx]
        counts = self._counts(values.ndim)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(self.mean(off**2) / np.where(counts > 1, counts - 1, np.nan))

    def prompts(self, index: Any) -> "Lenses":
        """Only the given prompts; the fact axis is kept."""
        per_prompt = (field.name for field in fields(self) if field.name not in _WHOLE)
        return replace(self, **{name: getattr(self, name)[index] for name in per_prompt})

    def facts(self, fact_ids: Sequence[str]) -> "Lenses":
        """Only the given facts, in the given order.

        Raises:
            UsageError: A fact that is not here.
        """
        unknown = [name for name in fact_ids if name not in self.fact_ids]
        if unknown:
            raise UsageError(f"fact {unknown[0]!r} is not among these lenses", field="facts")
        order = [self.fact_ids.index(name) for name in fact_ids]
        rows = [np.flatnonzero(self.fact_idx == place) for place in order]
        chosen = self.prompts(np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64))
        new_idx = np.repeat(np.arange(len(order)), [len(row) for row in rows])
        return replace(chosen, fact_ids=tuple(fact_ids), fact_idx=new_idx.astype(np.int64))

    def _counts(self, n_axes: int) -> Float[np.ndarray, " fact *_"]:
        counts = np.bincount(self.fact_idx, minlength=len(self.fact_ids)).astype(np.float64)
        return counts.reshape(-1, *[1] * (n_axes - 1))


_WHOLE = ("topology", "checkpoint", "relation", "fact_ids")


def position_groups(
    batch: PromptBatch, relation: Relation = "text"
) -> Int[np.ndarray, "prompt pos"]:
    """The group of each position, an index into ``GROUPS``; ``PADDING`` after the prompt's end.

    ``last`` is the prompt's last token, where the answer is read: it has seen all others.
    ``subject`` are the subject's tokens, ``relation`` the other tokens of the prompt's text
    (``text``) or those of its ``relation_span`` (``span``). ``rest`` is what remains: what a
    tokenizer or chat template adds, and the first token whatever it says, unless it is the whole
    subject: heads that look for nothing attend to it (attention sink), so what they get there was
    not read of the subject or relation.

    Raises:
        UsageError: A relation that is none of ``RELATIONS``.
        FactsError: ``span``, and a prompt has no ``relation_span``.

    Source: Xiao et al. 2023, arXiv 2309.17453 (attention sinks).
    """
    is_real, empty = batch.pos_mask, np.zeros(batch.clean.shape, dtype=bool)
    subject: Bool[np.ndarray, "prompt pos"] = _or(batch.subject_mask, empty) & is_real
    pos: Int[np.ndarray, "1 pos"] = np.arange(batch.clean.shape[1], dtype=np.int64)[None, :]
    is_whole: Bool[np.ndarray, "prompt pos"] = subject & (subject.sum(1, keepdims=True) == 1)
    is_sink: Bool[np.ndarray, "prompt pos"] = (pos == 0) & ~is_whole
    groups = np.where(is_real, REST, PADDING)
    groups[_relation_mask(batch, relation, empty) & is_real & ~is_sink] = RELATION
    groups[subject & ~is_sink] = SUBJECT
    groups[pos == batch.lengths[:, None] - 1] = LAST
    return groups


def _relation_mask(
    batch: PromptBatch, relation: str, empty: Bool[np.ndarray, "prompt pos"]
) -> Bool[np.ndarray, "prompt pos"]:
    if relation == "text":
        return _or(batch.text_mask, empty)
    if relation != "span":
        raise UsageError(
            f"relation is {relation!r}; expected {' or '.join(RELATIONS)}", field="relation"
        )
    marked = _or(batch.relation_mask, empty)
    bare = np.flatnonzero(~marked.any(1))
    if len(bare):
        fact = batch.fact_ids[int(batch.fact_idx[bare[0]])]
        raise FactsError(
            f"fact {fact!r}, prompt {int(batch.prompt_idx[bare[0]])}: there is no relation_span",
            field="relation_span",
            hint="mark the relation in every prompt, or take all text but the subject as relation",
        )
    return marked


def _or(
    mask: Bool[np.ndarray, "prompt pos"] | None, empty: Bool[np.ndarray, "prompt pos"]
) -> Bool[np.ndarray, "prompt pos"]:
    return empty if mask is None else mask
