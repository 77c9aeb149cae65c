"""What a training strategy decides: which weights are trained, and how they are saved."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

TensorMap = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to train.

    Attributes:
        name: Name on the command line and in every row.
        prepare: Takes the base model, with nothing trainable, and a seed; gives the model to
            train, with its trainable parameters marked.
        save: Writes the files of a checkpoint, given the prepared model, the base's folder, the
            folder to write into and the name of the data type to store (``float32``, ...).
        is_adapter: The checkpoint is an adapter on the base, not a whole model.
        save_dtype: Default of the data type to store.
    """

    name: str
    prepare: Callable[[Any, int], Any]
    save: Callable[[Any, Path, Path, str], None]
    is_adapter: bool
    save_dtype: str
