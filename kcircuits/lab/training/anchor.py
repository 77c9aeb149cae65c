"""Pulling a model back to what it was: a divergence from earlier weights beside the loss.

The loss of a batch is then cross-entropy + weight KL(M_ref || M), with the divergence in nats, the
mean over the batch's predicted tokens. M_ref is the untrained model or that of the epoch before; it
is no second model in memory, but the trained weights as they were, put in for one forward pass.

Source: Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858 (pre-training and step-wise
regularisation).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kcircuits.lab.training.batches import IGNORED


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """Where a strategy pulls to, and how hard.

    Attributes:
        to: ``base``, the untrained model; ``previous``, the model at the end of the epoch before.
        weight: Of the divergence.
    """

    to: Literal["base", "previous"]
    weight: float


@dataclass(frozen=True, kw_only=True)
class Anchored:
    """An anchor with the weights that it pulls to.

    Attributes:
        model: The model that is pulled.
        weight: Of the divergence.
        parameters: The trained parameters as they were, by name.
    """

    model: Any
    weight: float
    parameters: Mapping[str, Tensor]

    @classmethod
    def at(cls, model: Any, weight: float) -> "Anchored":
        """At a model's present weights."""
        named = model.named_parameters()
        present = {name: p.detach().clone() for name, p in named if p.requires_grad}
        return cls(model=model, weight=weight, parameters=present)

    @torch.no_grad()
    def logits(self, **inputs: Any) -> Float[Tensor, "row pos d_vocab"]:
        """What the model that is pulled to says, in evaluation mode."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            output = torch.func.functional_call(self.model, dict(self.parameters), kwargs=inputs)
        finally:
            for module, was_training in modes:
                module.training = was_training
        return output.logits


def divergence(
    reference: Float[Tensor, "row pos d_vocab"],
    logits: Float[Tensor, "row pos d_vocab"],
    labels: Int[Tensor, "row pos"],
) -> Float[Tensor, ""]:
    """KL(reference || model) in nats, the sum over predicted tokens.

    Args:
        reference: Logits that are pulled to, of the token after each position.
        logits: The model's.
        labels: The token after each position; where ignored, nothing is compared.
    """
    is_predicted = labels != IGNORED
    reference, logits = reference[is_predicted], logits[is_predicted]
    p = reference.log_softmax(-1)
    return (p.exp() * (p - logits.log_softmax(-1))).sum()
