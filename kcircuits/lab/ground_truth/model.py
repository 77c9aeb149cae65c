"""A model that is its weights alone, for ``kcircuits.attribute`` and its kin."""

import hashlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from kcircuits.core.manifest import Checkpoint
from kcircuits.core.topology import Topology
from kcircuits.engine.parity import accept
from kcircuits.models import Model
from kcircuits.models.weights import TransformerWeights


@final
class WeightsModel(Model):
    """What attribution and evaluation ask of a model, without a checkpoint behind it.

    There is no HookedTransformer, no tokenizer (prompts come as token ids) and no plain
    transformers model to agree with.

    Args:
        weights: The model.
        name: Names it in messages.
    """

    weights: TransformerWeights = None  # type: ignore[assignment]  # a plain attribute here
    topology: Topology = None  # type: ignore[assignment]

    def __init__(self, weights: TransformerWeights, name: str = "weights") -> None:
        values = {
            "weights": weights,
            "topology": weights.topology,
            "hooked": None,
            "tokenizer": None,
            "content_hash": _digest(weights),
            "is_verified": True,
            "dtype": weights.dtype,
            "device": weights.device,
            "source": Checkpoint(id=name, path=Path(name)),
            "probe": None,
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)
        accept(self)


def _digest(weights: TransformerWeights) -> str:
    """sha256 over all numbers, in the order of the fields."""
    digest = hashlib.sha256()
    _update(digest, weights)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(str((value.dtype, tuple(value.shape))).encode())
        digest.update(value.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    elif is_dataclass(value):
        for field in fields(value):
            digest.update(field.name.encode())
            _update(digest, getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            _update(digest, item)
    else:
        digest.update(str(getattr(value, "__name__", value)).encode())
