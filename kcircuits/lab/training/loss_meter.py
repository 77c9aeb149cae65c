"""Counts loss and tokens of a training, by a hook on the model's forward pass or as it is told.

The Trainer logs a mean over steps, at times that its user chooses. What ``train.jsonl`` holds is
the mean over tokens, so it is taken where it arises: transformers models are given their labels
and give their loss, either the mean over the batch's predicted tokens or their sum divided by
``num_items_in_batch`` (which spans all batches of an accumulated step).
"""

import time
from collections.abc import Mapping
from typing import Any

import torch

from kcircuits.lab.training.processes import is_distributed
from kcircuits.lab.training.step import Trained
from kcircuits.lab.training.undisturbed import device_of

_IGNORED = -100


class LossMeter:
    """What was trained since it was last read. Sums stay on the model's device until then.

    Attributes:
        lr: Learning rate of the last step; set from outside.
        is_whole: False where some training since the last reading is known to be missing.
    """

    def __init__(self) -> None:
        self.lr: float | None = None
        self._handle: Any = None
        self._device = torch.device("cpu")
        self._started: float | None = None
        self.reset()

    @property
    def is_running(self) -> bool:
        """Whether training time passes."""
        return self._started is not None

    def reset(self) -> None:
        """Forgets what was counted."""
        self.is_whole = True
        self._sums: torch.Tensor | None = None  # of loss, predicted tokens, tokens read
        self._seconds = 0.0
        if self._started is not None:
            self._started = time.perf_counter()

    def attach(self, model: Any) -> None:
        """Counts each forward pass in training mode from now on."""
        self.detach()
        self._device = device_of(model)
        self._handle = model.register_forward_hook(self._hook, with_kwargs=True)

    def detach(self) -> None:
        """Removes the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def count(self, cross_entropy: Any, n_predicted: Any, n_tokens: Any) -> None:
        """Adds a batch; numbers, or tensors of one.

        Args:
            cross_entropy: Summed over the predicted tokens, in nats.
            n_predicted: Tokens that were predicted.
            n_tokens: Tokens that were read.
        """
        counted = _stacked([cross_entropy, n_predicted, n_tokens])
        self._sums = counted if self._sums is None else self._sums.to(counted.device) + counted

    def start(self) -> None:
        """Training time passes from now on."""
        if self._started is None:
            self._started = time.perf_counter()

    def pause(self) -> None:
        """Training time does not pass."""
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._started = None

    def gather(self) -> None:
        """Moves what all processes have counted to the main one; each has to call it."""
        if not is_distributed():
            return
        device = "cpu" if torch.distributed.get_backend() == "gloo" else self._device
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        if self._sums is not None:
            sums += self._sums.to(device)
        torch.distributed.all_reduce(sums)
        self._sums = sums.cpu() if torch.distributed.get_rank() == 0 else None

    def read(self) -> Trained:
        """What was trained since the last reset; a loss of None where the model gave none."""
        if not self.is_whole:
            return Trained(lr=self.lr)
        loss_sum, n_predicted, n_tokens = self._totals()
        return Trained(
            loss=loss_sum / n_predicted if n_predicted else None,
            lr=self.lr,
            tokens=int(n_tokens),
            seconds=self._seconds,
        )

    def state(self) -> dict[str, Any]:
        """What a resumed training has to be told; JSON."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return {
            "sums": self._totals(),
            "seconds": self._seconds + running,
            "lr": self.lr,
            "is_whole": self.is_whole,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self._sums = torch.tensor(state["sums"], dtype=torch.float64)
        self._seconds, self.lr = state["seconds"], state["lr"]
        self.is_whole = state["is_whole"]

    def _totals(self) -> list[float]:
        return [0.0] * 3 if self._sums is None else self._sums.tolist()

    def _hook(
        self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        if not module.training:
            return
        ids, mask = kwargs.get("input_ids", args[0] if args else None), kwargs.get("attention_mask")
        n_tokens = 0 if ids is None else ids.numel()
        if mask is not None and mask.dim() == 2:
            n_tokens = mask.sum()
        self.count(*_loss_of(kwargs, output), n_tokens)


def _loss_of(kwargs: Mapping[str, Any], output: Any) -> tuple[Any, Any]:
    """Summed cross-entropy of a batch and its number of predicted tokens; zeros where not known."""
    labels = kwargs.get("shift_labels")
    if labels is None and kwargs.get("labels") is not None:
        labels = kwargs["labels"][..., 1:]
    loss = output[0] if isinstance(output, tuple) else getattr(output, "loss", None)
    if labels is None or loss is None:
        return 0, 0
    n_predicted = (labels != _IGNORED).sum()
    n_divided_by = kwargs.get("num_items_in_batch")
    if n_divided_by is None:
        n_divided_by = n_predicted
    return loss.detach().double() * torch.as_tensor(n_divided_by).flatten()[0], n_predicted


def _stacked(numbers: list[Any]) -> torch.Tensor:
    device = next((x.device for x in numbers if torch.is_tensor(x)), "cpu")
    return torch.stack(
        [torch.as_tensor(x, dtype=torch.float64, device=device).detach() for x in numbers]
    )
