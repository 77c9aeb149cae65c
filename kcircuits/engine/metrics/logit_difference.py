"""Logit of the target minus logit of the foil: the field's default."""

from jaxtyping import Float, Int

from kcircuits.engine.annotations import Tensor
from kcircuits.engine.metrics.metric import Metric


def _compute(
    logits: Float[Tensor, "row vocab"],
    clean_logits: Float[Tensor, "row vocab"],  # noqa: ARG001  # one signature for all metrics
    target: Int[Tensor, " row"],
    foil: Int[Tensor, " row"],
) -> Float[Tensor, " row"]:
    pair = logits.gather(1, target[:, None]) - logits.gather(1, foil[:, None])
    return pair[:, 0]


logit_difference = Metric(name="logit-difference", compute=_compute, unit="logits")
