"""One step of continual pre-training: what a batch costs, and what is told of it.

The loss is the token-mean cross-entropy, as in the seed study (Mousavi, Alghisi, Riccardi 2026,
arXiv:2601.03858, section 3), and beside it what pulls the model to an anchor. Sums and counts are
kept apart, since a batch may be spread over several processes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kcircuits.lab.training.anchor import Anchored, divergence
from kcircuits.lab.training.batches import IGNORED, collate
from kcircuits.lab.training.undisturbed import device_of


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimiser step, for a progress bar: where training is, its loss, its tokens."""

    epoch: int
    n_epochs: int
    step: int
    n_steps: int
    loss: float
    n_tokens: int


Progress = Callable[[Step], None]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What was trained since the moment before; None where it is not known.

    Attributes:
        loss: Mean cross-entropy in nats per predicted token, each under the weights of its step.
        lr: Learning rate of the last step.
        tokens: Tokens read, without padding.
        seconds: Time of training, without that of probing.
    """

    loss: float | None = None
    lr: float | None = None
    tokens: int | None = None
    seconds: float | None = None


class BatchLoss(NamedTuple):
    """What a batch costs, in nats, summed over its predicted tokens.

    Attributes:
        cross_entropy: Of its documents.
        total: What is minimised: that, and what pulls the model to an anchor.
        n_predicted: Tokens that are predicted.
        n_tokens: Tokens that are read.
    """

    cross_entropy: Tensor
    total: Tensor
    n_predicted: Tensor
    n_tokens: Tensor


def batch_losses(
    model: Any,
    batch: Mapping[str, Tensor],
    precision: str,
    anchored: Anchored | None = None,
) -> BatchLoss:
    """The cost of a batch that ``batches.collate`` made, on the model's device.

    Args:
        model: The model, or a wrapper around it that spreads gradients over processes.
        batch: Token ids, attention mask and labels.
        precision: ``bfloat16`` for autocast, else the model's own.
        anchored: What the model is pulled to.
    """
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")} | {"use_cache": False}
    labels = batch["labels"][:, 1:]
    with _autocast(precision, labels.device):
        logits = _wide(model(**inputs).logits[:, :-1])
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    total = loss
    if anchored is not None:
        with _autocast(precision, labels.device):
            reference = _wide(anchored.logits(**inputs)[:, :-1])
        total = loss + anchored.weight * divergence(reference, logits, labels)
    n_predicted, n_tokens = ((each != IGNORED).sum() for each in (labels, batch["labels"]))
    return BatchLoss(loss, total, n_predicted, n_tokens)


def mean_loss(model: Any, rows: Sequence[Sequence[int]], precision: str) -> Tensor:
    """Mean cross-entropy, in nats per predicted token, of documents."""
    batch = {name: tensor.to(device_of(model)) for name, tensor in collate(rows).items()}
    found = batch_losses(model, batch, precision)
    return found.cross_entropy / found.n_predicted


def train_step(
    model: Any, optimizer: torch.optim.Optimizer, rows: Sequence[Sequence[int]], precision: str
) -> float:
    """One optimiser step outside of any training run; gives the mean cross-entropy before it."""
    loss = mean_loss(model, rows, precision)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def choose_precision(model: Any, rows: Sequence[Sequence[int]]) -> str:
    """``bfloat16`` where one step of autocast is faster than one of float32 on this machine.

    Each is timed after a warm-up, forward and backward; no weight changes.
    """
    seconds: dict[str, float] = {}
    model.train()
    for precision in ("float32", "bfloat16"):
        for _ in range(2):
            started = _clock(device_of(model))
            mean_loss(model, rows, precision).backward()
            seconds[precision] = _clock(device_of(model)) - started
    model.zero_grad(set_to_none=True)
    return min(seconds, key=lambda name: seconds[name])


def _clock(device: torch.device) -> float:
    """Seconds of the device that works; on a CPU what else runs on the machine does not count."""
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
