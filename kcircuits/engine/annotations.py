"""Tensor types for the annotations of modules that answer without torch.

The registries of methods and metrics are read by verbs that must not import torch (``run`` on a
finished run, ``--help``). Type checkers see the true types; at run time they are ``Any``, for
which jaxtyping still checks number type and shape.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from kcircuits.engine.attribution import Question
    from kcircuits.engine.tokens import Reads, TokenRows
    from kcircuits.models.weights import TransformerWeights
else:
    Question = Reads = Tensor = TokenRows = TransformerWeights = Any

__all__ = ["Question", "Reads", "Tensor", "TokenRows", "TransformerWeights"]
