"""The engine's forward pass = the plain transformers/PEFT model.

Loading compares the HookedTransformer with the plain model; circuits come from the engine, so the
engine answers the same tokens before its first use of a model.
"""

from weakref import WeakSet

import torch

from kcircuits.engine.forward import run_rows
from kcircuits.models import Model
from kcircuits.models.parity import check_parity
from kcircuits.models.weights import TransformerWeights

_CHECKED: WeakSet[Model] = WeakSet()


def checked_weights(model: Model) -> TransformerWeights:
    """The model's weights, after the engine has reproduced the plain model's logits once.

    Raises:
        CheckpointError: The logits differ beyond rounding: the engine computes another model.
    """
    weights = model.weights
    if model not in _CHECKED:
        tokens = model.probe.tokens
        with torch.no_grad():
            logits = run_rows(weights, tokens)
        # In float64 the plain model is exact, but rotary tables are float32 values as in training.
        dtype = torch.float32 if weights.dtype == torch.float64 else weights.dtype
        check_parity(logits, model.probe.last, dtype, model.source.adapter or model.source.path)
        _CHECKED.add(model)
    return weights


def accept(model: Model) -> None:
    """Take a model as it is: weights written by hand have no plain model to agree with."""
    _CHECKED.add(model)
