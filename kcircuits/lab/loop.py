"""One epoch of continual pre-training: plain AdamW on the token-mean cross-entropy.

The learning rate is constant, there is no weight decay and no clipping of gradients. As in the
seed study (Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858, section 3) but for the batch size.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from kcircuits.errors import UsageError
from kcircuits.lab.anchor import Anchored, divergence
from kcircuits.lab.batches import epoch_batches, pad
from kcircuits.lab.spec import TrainSpec


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


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def make_optimizer(model: Any, lr: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters: betas .9 and .999, no weight decay."""
    return torch.optim.AdamW(trainable(model).values(), lr=lr, weight_decay=0.0, fused=True)


class BatchLoss(NamedTuple):
    """What a batch costs, in nats per predicted token.

    Attributes:
        cross_entropy: Of its documents.
        total: What is minimised: that, and what pulls the model to an anchor.
    """

    cross_entropy: torch.Tensor
    total: torch.Tensor


def batch_loss(model: Any, rows: Sequence[Sequence[int]], precision: str) -> torch.Tensor:
    """Mean cross-entropy, in nats per predicted token, of a batch of documents."""
    return batch_losses(model, rows, precision).cross_entropy


def batch_losses(
    model: Any,
    rows: Sequence[Sequence[int]],
    precision: str,
    anchored: Anchored | None = None,
) -> BatchLoss:
    """Cross-entropy of a batch, and with it what pulls the model to an anchor."""
    ids, mask, labels = pad(rows)
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    labels = labels[:, 1:]
    with _autocast(precision):
        logits = _wide(model(**inputs).logits[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    if anchored is None:
        return BatchLoss(loss, loss)
    with _autocast(precision):
        reference = _wide(anchored.logits(model, **inputs)[:, :-1])
    return BatchLoss(loss, loss + anchored.weight * divergence(reference, logits, labels))


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def train_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Sequence[int]],
    precision: str,
    anchored: Anchored | None = None,
) -> float:
    """One optimiser step; gives the cross-entropy before it."""
    loss = batch_losses(model, rows, precision, anchored)
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    optimizer.step()
    return loss.cross_entropy.item()


def train_epoch(
    model: Any,
    optimizer: torch.optim.Optimizer,
    documents: Sequence[Sequence[int]],
    spec: TrainSpec,
    epoch: int,
    *,
    precision: str,
    anchored: Anchored | None = None,
    progress: Progress | None = None,
) -> Trained:
    """All documents once.

    The loss is the mean cross-entropy over the epoch's predicted tokens, each under the weights
    before its step.

    Raises:
        UsageError: The loss is no longer a number.
    """
    lengths = [len(row) for row in documents]
    batches = epoch_batches(lengths, spec.batch_size, seed=spec.seed, epoch=epoch)
    started, total, n_predicted = time.perf_counter(), 0.0, 0
    model.train()
    for i, batch in enumerate(batches, start=1):
        rows = [documents[row] for row in batch]
        loss = train_step(model, optimizer, rows, precision, anchored)
        if not math.isfinite(loss):
            raise UsageError(
                f"training diverged: the loss is {loss} in epoch {epoch}, step {i}",
                field="lr",
                hint="lower the learning rate",
            )
        n_here = sum(len(row) - 1 for row in rows)
        total, n_predicted = total + loss * n_here, n_predicted + n_here
        if progress is not None:
            progress(
                Step(
                    epoch=epoch,
                    n_epochs=spec.n_epochs,
                    step=i,
                    n_steps=len(batches),
                    loss=loss,
                    n_tokens=n_here + len(rows),
                )
            )
    return Trained(
        loss=total / n_predicted,
        lr=spec.lr,
        tokens=sum(lengths),
        seconds=time.perf_counter() - started,
    )


def choose_precision(model: Any, rows: Sequence[Sequence[int]]) -> str:
    """``bfloat16`` where one step of autocast is faster than one of float32 on this machine.

    Each is timed after a warm-up, forward and backward; no weight changes.
    """
    seconds: dict[str, float] = {}
    model.train()
    for precision in ("float32", "bfloat16"):
        for _ in range(2):
            started = time.process_time()  # what else runs on the machine does not count
            batch_loss(model, rows, precision).backward()
            seconds[precision] = time.process_time() - started
    model.zero_grad(set_to_none=True)
    return min(seconds, key=lambda name: seconds[name])


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


def _autocast(precision: str) -> AbstractContextManager[object]:
    if precision == "bfloat16":
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()
