"""How well circuits do what the model does, per fact."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

# A fact counts as known to the metric where m(full) - m(empty) exceeds both of these.
# Source: this toolkit's gate; half a logit is the smallest gap that the engine's float32 noise
# (1e-4 of the logits) and prompt wording leave meaningful.
MIN_GAP = 0.5
MIN_GAP_STANDARD_ERRORS = 2.0


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """Metrics of the full model, the empty circuit and each fact's circuit.

    F(C) = (m(C) - m(empty)) / (m(full) - m(empty)), each m the mean over the fact's prompts
    first; NaN where the gap in the denominator is too small to divide by (``is_gated``).

    Attributes:
        fact_ids: Names of the fact axis.
        metric: Metric of the circuit.
        clean_metric: Metric of the full model on the clean prompts.
        empty_metric: Metric with every edge ablated.
        faithfulness: F(C); NaN where gated.
        is_gated: The model does not know the fact well enough to judge its circuit.
        hit_at_k: Share of prompts whose target is among the k best logits of the circuit.
        k: The k of ``hit_at_k``.
        target_rank: Mean rank of the target in the circuit's logits, 1 is best.
        ablation: What ablated edges carry.
        prompts: ``evaluation``; ``same`` where the circuit was judged on its discovery prompts.
    """

    fact_ids: tuple[str, ...]
    metric: Float[np.ndarray, " fact"]
    clean_metric: Float[np.ndarray, " fact"]
    empty_metric: Float[np.ndarray, " fact"]
    faithfulness: Float[np.ndarray, " fact"]
    is_gated: Bool[np.ndarray, " fact"]
    hit_at_k: Float[np.ndarray, " fact"]
    k: int
    target_rank: Float[np.ndarray, " fact"]
    ablation: str
    prompts: Literal["evaluation", "same"]

    @property
    def mean_of_ratios(self) -> float:
        """Mean faithfulness over the facts that are not gated; NaN if there are none."""
        kept = self.faithfulness[~self.is_gated]
        return float(kept.mean()) if len(kept) else float("nan")

    @property
    def ratio_of_means(self) -> float:
        """Sum of m(C) - m(empty) over sum of m(full) - m(empty), facts that are not gated."""
        kept = ~self.is_gated
        if not kept.any():
            return float("nan")
        gained = (self.metric - self.empty_metric)[kept].sum()
        return float(gained / (self.clean_metric - self.empty_metric)[kept].sum())

    def row(self, fact_id: str) -> Mapping[str, float]:
        """All numbers of one fact."""
        i = self.fact_ids.index(fact_id)
        names = (
            "metric",
            "clean_metric",
            "empty_metric",
            "faithfulness",
            "hit_at_k",
            "target_rank",
        )
        return {name: float(getattr(self, name)[i]) for name in names}
