"""Faithfulness of circuits of growing size, and the areas that sum a curve up.

Two areas, over sizes from 0.1% to all edges, by straight lines between the sizes measured:

- CPR, the area under F. Higher is better, and above 1 is possible: a circuit may beat the model
  once edges that harm are left out. Its circuits hold the edges of largest *importance*.
- CMD, the area under |1 - F|. Lower is better: the circuit should do what the model does, no worse
  and no better. Its circuits hold the edges of largest |score|.

F = 1 at every size gives CPR .999 and CMD 0, as the sizes begin at .001.

Over a set of facts there are two ways, which differ: the areas of the curve of *ratio of means*,
F = sum (m(C) - m(empty)) / sum (m(full) - m(empty)), as MIB has it; and the *mean over facts* of
each fact's own areas, in which a fact with a small gap weighs as much as one with a large gap.

Source: Mueller et al. 2025 (MIB), arXiv 2504.13151.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from kcircuits.core.bootstrap import (
    CONFIDENCE,
    N_DRAWS,
    BootstrapInterval,
    bootstrap_mean,
    draw_clusters,
    percentiles,
)
from kcircuits.core.ranking import SIZES, By
from kcircuits.errors import UsageError

# What the areas of published tables cover.
FULL_SPAN = (SIZES[0], SIZES[-1])


@dataclass(frozen=True, kw_only=True)
class FaithfulnessCurve:
    """Faithfulness of every fact's circuits at several sizes.

    Attributes:
        fact_ids: Names of the fact axis.
        sizes: Nominal sizes, shares of all edges, ascending.
        n_selected: Edges chosen, before dangling nodes are pruned.
        n_edges: Edges of the circuits that were run.
        n_ties: Edges left out although they rank equal to the last one chosen.
        metric: Metric of the circuits.
        clean_metric: Metric of the full model on the clean prompts.
        empty_metric: Metric with every edge ablated.
        is_gated: The model does not know the fact well enough to judge its circuits.
        by: What edges were ranked by: ``importance`` for CPR, ``size`` for CMD.
        ablation: What ablated edges carry.
        prompts: ``evaluation``; ``same`` where circuits were judged on their discovery prompts.
    """

    fact_ids: tuple[str, ...]
    sizes: Float[np.ndarray, " size"]
    n_selected: Int[np.ndarray, "fact size"]
    n_edges: Int[np.ndarray, "fact size"]
    n_ties: Int[np.ndarray, "fact size"]
    metric: Float[np.ndarray, "fact size"]
    clean_metric: Float[np.ndarray, " fact"]
    empty_metric: Float[np.ndarray, " fact"]
    is_gated: Bool[np.ndarray, " fact"]
    by: By
    ablation: str
    prompts: Literal["evaluation", "same"]

    @cached_property
    def faithfulness(self) -> Float[np.ndarray, "fact size"]:
        """F = (m(C) - m(empty)) / (m(full) - m(empty)); NaN for gated facts."""
        gap = np.where(self.is_gated, np.nan, self.clean_metric - self.empty_metric)
        return (self.metric - self.empty_metric[:, None]) / gap[:, None]

    @property
    def mean_of_ratios(self) -> Float[np.ndarray, " size"]:
        """Mean F over the facts that are not gated; NaN if there are none."""
        kept = self.faithfulness[~self.is_gated]
        return kept.mean(0) if len(kept) else np.full(len(self.sizes), np.nan)

    @property
    def ratio_of_means(self) -> Float[np.ndarray, " size"]:
        """Sum of m(C) - m(empty) over sum of m(full) - m(empty), facts that are not gated."""
        return self._pooled(np.ones((1, len(self.fact_ids))))[0]

    def cpr(self, span: tuple[float, float] = FULL_SPAN) -> Float[np.ndarray, " fact"]:
        """Area under each fact's F between two sizes of the curve; NaN where gated."""
        return self._area(self.faithfulness, span)

    def cmd(self, span: tuple[float, float] = FULL_SPAN) -> Float[np.ndarray, " fact"]:
        """Area under each fact's |1 - F| between two sizes of the curve; NaN where gated."""
        return self._area(np.abs(1 - self.faithfulness), span)

    def set_areas(self, span: tuple[float, float] = FULL_SPAN) -> Mapping[str, float]:
        """CPR and CMD of the whole set, both ways; gated facts are left out.

        Args:
            span: First and last size; a part of the full span gives numbers that compare only
                with others over the same part.

        Returns:
            ``cpr_ratio_of_means``, ``cmd_ratio_of_means``, ``cpr_mean_over_facts``,
            ``cmd_mean_over_facts``; NaN where every fact is gated.
        """
        pooled = self.ratio_of_means
        kept = ~self.is_gated
        return {
            "cpr_ratio_of_means": float(self._area(pooled, span)),
            "cmd_ratio_of_means": float(self._area(np.abs(1 - pooled), span)),
            "cpr_mean_over_facts": _mean(self.cpr(span)[kept]),
            "cmd_mean_over_facts": _mean(self.cmd(span)[kept]),
        }

    def set_intervals(
        self,
        clusters: Shaped[np.ndarray, " fact"],
        *,
        seed: int,
        span: tuple[float, float] = FULL_SPAN,
        n_draws: int = N_DRAWS,
        confidence: float = CONFIDENCE,
    ) -> Mapping[str, BootstrapInterval]:
        """Bootstrap intervals of ``set_areas``, by the same names.

        Noise moves F to either side of 1 and so only adds to |1 - F|: where a set's F is close to
        1, the interval of ``cmd_ratio_of_means`` lies above the estimate rather than around it.

        Args:
            clusters: Cluster of each fact, e.g. its subject; drawn whole.
            seed: Of the generator.
            span: As in ``set_areas``.
            n_draws: Number of draws.
            confidence: Share of draws between the ends.
        """
        areas = self.set_areas(span)
        intervals = {
            f"{name}_mean_over_facts": bootstrap_mean(
                values, clusters, seed=seed, n_draws=n_draws, confidence=confidence
            )
            for name, values in (("cpr", self.cpr(span)), ("cmd", self.cmd(span)))
        }
        kept = ~self.is_gated
        n_clusters = len(np.unique(clusters[kept]))
        if n_clusters < 2:
            pooled = np.full((n_draws, len(self.sizes)), np.nan)
        else:
            counts = np.zeros((n_draws, len(kept)), dtype=np.int64)
            counts[:, kept] = draw_clusters(clusters[kept], seed=seed, n_draws=n_draws)
            pooled = self._pooled(counts)
        for name, draws in (("cpr", pooled), ("cmd", np.abs(1 - pooled))):
            low, high = percentiles(self._area(draws, span), confidence)
            intervals[f"{name}_ratio_of_means"] = BootstrapInterval(
                estimate=np.array(areas[f"{name}_ratio_of_means"]),
                low=low,
                high=high,
                n_units=np.array(n_clusters),
                confidence=confidence,
                n_draws=n_draws,
            )
        return {name: intervals[name] for name in areas}

    def size_at(self, faithfulness: float = 0.9) -> Float[np.ndarray, " fact"]:
        """The smallest size at which each fact's circuit reaches a faithfulness.

        Between the first size that reaches it and the one before, F is read as linear in the
        logarithm of the size, as sizes are spaced. Where the first size of the curve reaches it,
        that size is returned, an upper bound. A curve may fall again later; see the curve itself.

        Returns:
            Shares of all edges; inf where no size reaches it, NaN where the fact is gated.
        """
        reached = self.faithfulness >= faithfulness
        first = reached.argmax(1)
        rows, before = np.arange(len(first)), np.maximum(first - 1, 0)
        high, low = self.faithfulness[rows, first], self.faithfulness[rows, before]
        step = np.ones(len(first))
        np.divide(faithfulness - low, high - low, out=step, where=first > 0)
        logs = np.log(self.sizes)
        found = np.exp(logs[before] + step * (logs[first] - logs[before]))
        found = np.where(reached.any(1), found, np.inf)
        return np.where(self.is_gated, np.nan, found)

    def rows(self) -> list[dict[str, Any]]:
        """A tidy table, one row per fact and size; ``faithfulness`` is None where gated."""
        return [
            {
                "fact": fact_id,
                "size": float(size),
                "n_selected": int(self.n_selected[i, j]),
                "n_edges": int(self.n_edges[i, j]),
                "n_ties": int(self.n_ties[i, j]),
                "metric": float(self.metric[i, j]),
                "faithfulness": None if self.is_gated[i] else float(self.faithfulness[i, j]),
                "is_gated": bool(self.is_gated[i]),
                "by": self.by,
            }
            for i, fact_id in enumerate(self.fact_ids)
            for j, size in enumerate(self.sizes)
        ]

    def _pooled(self, counts: Shaped[np.ndarray, "draw fact"]) -> Float[np.ndarray, "draw size"]:
        """Ratio of means at every size, with facts counted so often; gated ones never."""
        counts = np.where(self.is_gated, 0, counts)
        gap = counts @ (self.clean_metric - self.empty_metric)
        gained = counts @ (self.metric - self.empty_metric[:, None])
        return gained / np.where(gap == 0, np.nan, gap)[:, None]

    def _area(
        self, curves: Float[np.ndarray, "*curve size"], span: tuple[float, float]
    ) -> Float[np.ndarray, "*curve"]:
        """Area by trapezoids on the nominal sizes."""
        ends = [np.flatnonzero(np.isclose(self.sizes, size, rtol=1e-9)) for size in span]
        if any(len(end) == 0 for end in ends) or ends[0] >= ends[1]:
            raise UsageError(
                f"an area from {span[0]:g} to {span[1]:g} needs circuits of both sizes; this curve "
                f"has {', '.join(f'{size:g}' for size in self.sizes)}",
                field="span",
                hint="give two sizes of the curve as span, and compare areas over one span only",
            )
        part = slice(int(ends[0][0]), int(ends[1][0]) + 1)
        return np.trapezoid(curves[..., part], self.sizes[part], axis=-1)


def _mean(values: Float[np.ndarray, " fact"]) -> float:
    return float(values.mean()) if len(values) else float("nan")
