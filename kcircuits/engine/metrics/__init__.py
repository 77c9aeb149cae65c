"""Metrics of the logits at the answer position. One file and one line here per metric.

Answers without torch, like the registry of methods.
"""

from kcircuits.engine.metrics.kl import kl_divergence
from kcircuits.engine.metrics.log_probability import target_log_probability
from kcircuits.engine.metrics.logit_difference import logit_difference
from kcircuits.engine.metrics.metric import Metric
from kcircuits.errors import UsageError

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (logit_difference, target_log_probability, kl_divergence)
}
DEFAULT_METRIC = logit_difference.name


def get_metric(name: str) -> Metric:
    """The metric of that name; UsageError names those that exist."""
    if name not in METRICS:
        raise UsageError(
            f"there is no metric {name!r}", field="metric", hint=f"choose from {', '.join(METRICS)}"
        )
    return METRICS[name]


__all__ = ["DEFAULT_METRIC", "METRICS", "Metric", "get_metric"]
