"""KL(clean || patched) of the next-token distributions.

Its gradient at the clean run is zero, so methods that differentiate only there refuse it.
"""

from jaxtyping import Float, Int

from kcircuits.engine.annotations import Tensor
from kcircuits.engine.metrics.metric import Metric


def _compute(
    logits: Float[Tensor, "row vocab"],
    clean_logits: Float[Tensor, "row vocab"],
    target: Int[Tensor, " row"],  # noqa: ARG001  # one signature for all metrics
    foil: Int[Tensor, " row"],  # noqa: ARG001
) -> Float[Tensor, " row"]:
    clean = clean_logits.log_softmax(-1)
    return (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1)


kl_divergence = Metric(
    name="kl", compute=_compute, unit="nats", has_clean_gradient=False, is_higher_better=False
)
