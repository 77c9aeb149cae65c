"""Log-probability of the target, summed over its tokens."""

from jaxtyping import Float

from kcircuits.engine.annotations import Reads, Tensor
from kcircuits.engine.metrics.metric import Metric


def _compute(
    logits: Float[Tensor, "read vocab"],
    clean_logits: Float[Tensor, "read vocab"],  # noqa: ARG001  # one signature for all metrics
    reads: Reads,
) -> Float[Tensor, " read"]:
    return logits.log_softmax(-1).gather(1, reads.token[:, None])[:, 0]


target_log_probability = Metric(name="log-probability", compute=_compute, unit="nats")
