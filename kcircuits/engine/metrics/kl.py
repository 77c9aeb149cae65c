"""KL(clean || patched) of the next-token distributions, summed over the target's positions.

Its gradient at the clean run is zero, so methods that differentiate only there refuse it.
"""

from jaxtyping import Float

from kcircuits.engine.annotations import Reads, Tensor
from kcircuits.engine.metrics.metric import Metric


def _compute(
    logits: Float[Tensor, "read vocab"],
    clean_logits: Float[Tensor, "read vocab"],
    reads: Reads,
) -> Float[Tensor, " read"]:
    clean = clean_logits.log_softmax(-1)
    divergence = (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1)
    return divergence * (reads.sign > 0)


kl_divergence = Metric(
    name="kl", compute=_compute, unit="nats", has_clean_gradient=False, is_higher_better=False
)
