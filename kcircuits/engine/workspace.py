"""Memory that is used again: touching fresh pages costs as much as the arithmetic on them."""

import math

import torch
from torch import Tensor


class Workspace:
    """Buffers by name, each as large as its largest use; not shared between threads."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of that shape, with whatever its last use left in it.

        It is valid until the same name is taken again.

        Args:
            name: What it is for.
            shape: Its shape.
            like: Gives dtype and device.
        """
        n_values = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < n_values or not _alike(buffer, like):
            buffer = self._buffers[name] = like.new_empty(n_values)
        return buffer[:n_values].view(shape)


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.device(a.device) == torch.device(b.device)
