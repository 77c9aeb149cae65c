"""The probes of one training run over its epochs, and what they say of facts and entities.

A *cloze* probe asks for the answer's tokens: it has a log-probability. An *open* probe is a
question that the model answers freely: it has a ROUGE-1 recall.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kcircuits.errors import UsageError

# Mean recall from which an entity counts as learned: arXiv 2601.03858, section 3.
LEARNED_RECALL = 0.6
# The kind of probe that decides what is known, where a fact has one.
PARAPHRASE = "paraphrase"
# For means of floats: ten recalls of .6 have the mean .6 - 1e-16, which is .6.
LEARNED_MARGIN = 1e-9


def is_learned(recall: Any, margin: float = LEARNED_MARGIN) -> Any:
    """Whether a mean recall (or each of an array) is that of an entity that is learned."""
    return recall >= LEARNED_RECALL - margin


@dataclass(frozen=True, kw_only=True)
class Skill:
    """Accuracy on one out-of-domain skill.

    Attributes:
        accuracy: In 0..1; NaN at epochs where the skill was not measured.
        per_item: Each item's score (0 to 1, NaN where not measured), where the run kept it.
    """

    accuracy: Float[np.ndarray, " epoch"]
    per_item: Float[np.ndarray, "item epoch"] | None = None


@dataclass(frozen=True, kw_only=True)
class ProbeSeries:
    """One training run.

    Attributes:
        model: Name of the base model, where known.
        strategy: Training strategy, where known.
        seed: Of the training, where known.
        epochs: In training order; 0 is the untrained model.
        fact_ids: Names of the facts.
        entities: The entity of each fact: the cluster of every interval.
        strata: Strata of each fact.
        fact_idx: Fact of each probe.
        kinds: How each probe asks; empty where all are paraphrases.
        is_known: Whether the probe was answered, by the rule that its row names.
        logprob: Of the answer, in nats; NaN throughout for open probes.
        recall: ROUGE-1 recall in 0..1; NaN throughout for cloze probes.
        loss: Mean training loss of each epoch, in nats per token; NaN where there is none.
        perplexity: Likewise.
        skills: Out-of-domain skills by name.
        stated_recall: Mean recalls ``avg``, ``high`` and ``low`` that the source itself states
            (a release without its single answers).
        learned_margin: How far below .6 a mean recall still counts as .6; the release of the seed
            study compared its floats as they are.
    """

    model: str | None = None
    strategy: str | None = None
    seed: int | None = None
    epochs: Float[np.ndarray, " epoch"]
    fact_ids: tuple[str, ...]
    entities: tuple[str, ...]
    strata: tuple[Mapping[str, str], ...]
    fact_idx: Int[np.ndarray, " probe"]
    is_known: Bool[np.ndarray, "probe epoch"]
    logprob: Float[np.ndarray, "probe epoch"]
    recall: Float[np.ndarray, "probe epoch"]
    loss: Float[np.ndarray, " epoch"]
    perplexity: Float[np.ndarray, " epoch"]
    skills: Mapping[str, Skill] = field(default_factory=lambda: MappingProxyType({}))
    stated_recall: Mapping[str, Float[np.ndarray, " epoch"]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    learned_margin: float = LEARNED_MARGIN
    kinds: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Model, strategy and seed, as far as they are known."""
        seed = None if self.seed is None else f"seed {self.seed}"
        return ", ".join(part for part in (self.model, self.strategy, seed) if part) or "run"

    @property
    def is_open(self) -> Bool[np.ndarray, " probe"]:
        """Which probes are open questions."""
        return np.asarray(np.isfinite(self.recall).all(1))

    @property
    def has_open(self) -> bool:
        """Whether any probe is an open question: then entities are what is learned."""
        return bool(self.is_open.any())


def fact_means(
    values: Float[np.ndarray, "probe epoch"], fact_idx: Int[np.ndarray, " probe"], n_facts: int
) -> Float[np.ndarray, "fact epoch"]:
    """Means over the probes of each fact (or other group); NaN where a fact has none."""
    sums = np.zeros((n_facts, values.shape[1]))
    np.add.at(sums, fact_idx, values)
    counts = np.bincount(fact_idx, minlength=n_facts)[:, None]
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def fact_known(
    series: ProbeSeries, chosen: Bool[np.ndarray, " probe"] | None = None
) -> Bool[np.ndarray, "fact epoch"]:
    """y_t: a fact is known where more than half of its probes are.

    Its paraphrases count; where it has none its other cloze probes; where it has none of these its
    open ones.

    Args:
        series: The run.
        chosen: Which probes may count; default all. A fact without any is not known.
    """
    kept = np.ones(len(series.fact_idx), dtype=bool) if chosen is None else chosen
    rows = deciding_probes(series, kept)
    values = series.is_known[rows].astype(float)
    return np.nan_to_num(fact_means(values, series.fact_idx[rows], len(series.fact_ids))) > 0.5


def deciding_probes(
    series: ProbeSeries, chosen: Bool[np.ndarray, " probe"]
) -> Bool[np.ndarray, " probe"]:
    """The chosen probes that decide whether a fact is known: see ``fact_known``."""
    order = probe_order(series)
    best = np.full(len(series.fact_ids), order.max(initial=0))
    np.minimum.at(best, series.fact_idx[chosen], order[chosen])
    return np.asarray(chosen & (order == best[series.fact_idx]))


def probe_order(series: ProbeSeries) -> Int[np.ndarray, " probe"]:
    """0 for paraphrases, 1 for other cloze probes, 2 for open questions."""
    kinds = np.array(series.kinds or [PARAPHRASE] * len(series.fact_idx), dtype=object)
    return np.where(series.is_open, 2, np.where(kinds == PARAPHRASE, 0, 1))


def fact_logprob(series: ProbeSeries) -> Float[np.ndarray, "fact epoch"]:
    """l_t: mean answer log-probability of each fact's paraphrases, in nats.

    Of its other cloze probes where it has no paraphrase; NaN without any.
    """
    rows = deciding_probes(series, np.asarray(np.isfinite(series.logprob).all(axis=1)))
    return fact_means(series.logprob[rows], series.fact_idx[rows], len(series.fact_ids))


def entity_recall(
    series: ProbeSeries,
) -> tuple[tuple[str, ...], Float[np.ndarray, "entity epoch"]]:
    """The entities that have open probes, and their mean recall over these."""
    names = tuple(dict.fromkeys(series.entities))
    place = {name: i for i, name in enumerate(names)}
    of_fact = np.array([place[name] for name in series.entities], dtype=np.int64)
    rows = series.is_open
    means = fact_means(series.recall[rows], of_fact[series.fact_idx[rows]], len(names))
    there = np.asarray(np.isfinite(means).all(1))
    return tuple(n for n, kept in zip(names, there, strict=True) if kept), means[there]


def learned_units(series: ProbeSeries) -> tuple[tuple[str, ...], Bool[np.ndarray, "unit epoch"]]:
    """What is learned when: entities by mean recall >= .6, or known facts without open probes.

    Source: Mousavi, Alghisi, Riccardi 2026, arXiv 2601.03858 (the threshold on open questions).
    """
    if not series.has_open:
        return series.fact_ids, fact_known(series)
    names, recall = entity_recall(series)
    return names, is_learned(recall, series.learned_margin)


def probe_halves(series: ProbeSeries) -> Bool[np.ndarray, "half probe"]:
    """The probes of each fact dealt out in turn to two halves, those of one kind together."""
    order = np.lexsort((probe_order(series), series.fact_idx))
    sizes = np.bincount(series.fact_idx, minlength=len(series.fact_ids))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.stack([rank % 2 == 0, rank % 2 == 1])


def select_facts(series: ProbeSeries, chosen: Bool[np.ndarray, " fact"]) -> ProbeSeries:
    """The run seen through some of its facts; recalls that the source states are of all, and go.

    Raises:
        UsageError: No fact is chosen.
    """
    if chosen.all():
        return series
    if not chosen.any():
        raise UsageError("no fact is left", hint="choose a stratum that has facts")
    return _part(series, chosen, chosen[series.fact_idx])


def select_kind(series: ProbeSeries, kind: str) -> ProbeSeries:
    """The run seen through its probes of one kind, and the facts that have such."""
    rows = np.array([each == kind for each in series.kinds], dtype=bool)
    asked = np.zeros(len(series.fact_ids), dtype=bool)
    asked[series.fact_idx[rows]] = True
    return _part(series, asked, rows)


def _part(
    series: ProbeSeries, chosen: Bool[np.ndarray, " fact"], rows: Bool[np.ndarray, " probe"]
) -> ProbeSeries:
    new_idx = np.cumsum(chosen) - 1
    kept = np.flatnonzero(chosen)
    return replace(
        series,
        fact_ids=tuple(series.fact_ids[i] for i in kept),
        entities=tuple(series.entities[i] for i in kept),
        strata=tuple(series.strata[i] for i in kept),
        fact_idx=new_idx[series.fact_idx[rows]],
        is_known=series.is_known[rows],
        logprob=series.logprob[rows],
        recall=series.recall[rows],
        kinds=tuple(each for each, is_in in zip(series.kinds, rows, strict=False) if is_in),
        stated_recall={},
    )


def knowledge_values(series: ProbeSeries) -> tuple[str, Float[np.ndarray, "fact epoch"]]:
    """What knowledge means in this run, and its value for each fact, in 0..1.

    ``known`` (y_t), or ``recall``, the mean over the fact's probes, where all probes are open.
    """
    if series.is_open.all():
        return "recall", fact_means(series.recall, series.fact_idx, len(series.fact_ids))
    return "known", fact_known(series).astype(float)


def knowledge_curve(
    series: ProbeSeries, chosen: Bool[np.ndarray, " probe"] | None = None
) -> Float[np.ndarray, " epoch"]:
    """Mean knowledge over facts at each epoch, from all probes or from chosen ones.

    Facts without a chosen probe are left out; NaN where no fact has one.
    """
    if chosen is None:
        return knowledge_values(series)[1].mean(0)
    there = np.bincount(series.fact_idx[chosen], minlength=len(series.fact_ids)) > 0
    if not there.any():
        return np.full(len(series.epochs), np.nan)
    if series.is_open.all():
        n_facts = len(series.fact_ids)
        return fact_means(series.recall[chosen], series.fact_idx[chosen], n_facts)[there].mean(0)
    return fact_known(series, chosen)[there].astype(float).mean(0)
