"""The weights that are trained, and what a checkpoint of another data type makes of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def as_saved(model: Any, dtype: str) -> Iterator[None]:
    """Inside, the trainable weights are what a checkpoint of this data type gives when loaded."""
    parameters = trainable(model).values()
    stored = getattr(torch, dtype)
    kept = [p.detach().clone() for p in parameters if stored != p.dtype]
    round_weights(model, dtype)
    try:
        yield
    finally:
        if kept:
            with torch.no_grad():
                for p, original in zip(parameters, kept, strict=True):
                    p.copy_(original)


def round_weights(model: Any, dtype: str) -> None:
    """Rounds the trainable weights to a data type; they keep their own."""
    with torch.no_grad():
        for p in trainable(model).values():
            p.copy_(p.to(getattr(torch, dtype)))
