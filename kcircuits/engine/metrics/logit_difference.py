"""The field's default: how much more the model favours the target than the foil.

For single tokens it is the logit of the target minus that of the foil. For answers of several
tokens, of any two lengths, it is log p(target) - log p(foil), each summed over its own positions;
for single tokens the two are the same number, since both are read off one distribution.
"""

from jaxtyping import Float

from kcircuits.engine.annotations import Reads, Tensor
from kcircuits.engine.metrics.metric import Metric


def _compute(
    logits: Float[Tensor, "read vocab"],
    clean_logits: Float[Tensor, "read vocab"],  # noqa: ARG001  # one signature for all metrics
    reads: Reads,
) -> Float[Tensor, " read"]:
    is_pair = reads.other >= 0
    against = logits.gather(1, reads.other.clamp(min=0)[:, None])[:, 0]
    if not bool(is_pair.all()):
        against = against.where(is_pair, logits.logsumexp(-1))
    return reads.sign * (logits.gather(1, reads.token[:, None])[:, 0] - against)


logit_difference = Metric(name="logit-difference", compute=_compute, unit="logits", with_foil=True)
