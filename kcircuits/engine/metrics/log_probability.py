"""Log-probability of the target's first token."""

from jaxtyping import Float, Int

from kcircuits.engine.annotations import Tensor
from kcircuits.engine.metrics.metric import Metric


def _compute(
    logits: Float[Tensor, "row vocab"],
    clean_logits: Float[Tensor, "row vocab"],  # noqa: ARG001  # one signature for all metrics
    target: Int[Tensor, " row"],
    foil: Int[Tensor, " row"],  # noqa: ARG001
) -> Float[Tensor, " row"]:
    return logits.log_softmax(-1).gather(1, target[:, None])[:, 0]


target_log_probability = Metric(name="log-probability", compute=_compute, unit="nats")
