"""transformers' Trainer for continual pre-training: epochs chosen one by one, and an anchor.

Plain AdamW at a constant rate, without weight decay or clipping of gradients, as in the seed study
(Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858, section 3) but for the batch size. What differs
from the Trainer's own ways is here, by the means that it offers for that (methods to override, and
callbacks):

- the rows, and so the number of steps, change from epoch to epoch, and one may show nothing;
- the order of batches is a function of seed and epoch, and so is what dropout draws;
- of several processes each takes its share of every batch, and the mean is over all tokens of all;
- the loss has what pulls the model to an anchor beside the cross-entropy;
- a killed run goes on after a whole epoch.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from kcircuits.errors import UsageError
from kcircuits.lab.training.anchor import Anchor, Anchored
from kcircuits.lab.training.batches import EpochStream, Shown
from kcircuits.lab.training.loss_meter import LossMeter
from kcircuits.lab.training.processes import is_main_process, require_one_device
from kcircuits.lab.training.spec import TrainSpec
from kcircuits.lab.training.step import Progress, Step, batch_losses
from kcircuits.lab.training.trackers import step_log

logger = logging.getLogger(__name__)

# The others wait while the main process probes and saves; of a large model that takes long.
_PATIENCE_S = 6 * 3600


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a training shows, how it steps, and where it begins.

    Attributes:
        spec: Rate, batch size, seed and number of epochs.
        shown: Gives the token rows of an epoch.
        n_most: Rows that an epoch has at most.
        precision: ``float32`` or ``bfloat16`` (autocast).
        anchor: What the model is pulled to; ``base`` is the model as the Trainer gets it.
        epoch: The last epoch that was trained before; 0 for none.
        step: Optimiser steps that were taken before.
    """

    spec: TrainSpec
    shown: Shown
    n_most: int
    precision: str = "float32"
    anchor: Anchor | None = None
    epoch: int = 0
    step: int = 0


def training_arguments(
    spec: TrainSpec, output: Path, *, name: str, n_before: int = 0, report_to: Sequence[str] = ()
) -> TrainingArguments:
    """The Trainer's arguments; making them joins the processes that train together.

    Args:
        spec: How to train.
        output: Where trackers may write.
        name: What trackers call the run.
        n_before: Epochs that were trained before.
        report_to: Names of trackers.

    Raises:
        UsageError: One process has several GPUs.
    """
    args = TrainingArguments(
        output_dir=str(output),
        run_name=name,
        per_device_train_batch_size=spec.batch_size,
        num_train_epochs=spec.n_epochs - n_before,
        learning_rate=spec.lr,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        weight_decay=0.0,
        max_grad_norm=0.0,
        seed=spec.seed % 2**32,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to=list(report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        ddp_timeout=_PATIENCE_S,
    )
    # Autocast is in the loss, whatever accelerate was configured to: a run's precision is its own.
    args.mixed_precision = "no"
    logger.info("training on %s", args.device)  # asking for it joins the processes
    require_one_device(args.n_gpu)
    return args


class ContinualTrainer(Trainer):
    """A Trainer of a course; its steps are told to a meter, a progress bar and trackers.

    Args:
        model: The model, with its trainable parameters marked.
        args: Of ``training_arguments``.
        course: What to train on, and how.
        meter: Told of every batch.
        progress: Called after every step in the main process.
        callbacks: Called after the epoch's number and count of steps are set right.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        course: Course,
        *,
        meter: LossMeter,
        progress: Progress | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.course, self.meter, self.progress = course, meter, progress
        spec, place = course.spec, (args.process_index, args.world_size)
        self.stream = EpochStream(course.shown, course.n_most, spec.batch_size, spec.seed, place)
        self.anchored: Anchored | None = None
        self.counted: Any = torch.zeros(3)
        super().__init__(
            model=model,
            args=args,
            train_dataset=self.stream,
            callbacks=[_EpochByEpoch(self), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        self.anchor_here()

    def get_train_dataloader(self) -> DataLoader:
        """The stream of batches, which is divided among the processes already."""
        return DataLoader(self.stream, batch_size=None, pin_memory=self.args.device.type == "cuda")

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The mean over the predicted tokens of all processes.

        Gradients are averaged over processes, so each one's sum is multiplied by their number.
        """
        del return_outputs, num_items_in_batch
        found = batch_losses(model, inputs, self.course.precision, self.anchored)
        cross_entropy = found.cross_entropy.detach().double()
        mine = torch.stack([cross_entropy, found.n_predicted, found.n_tokens])
        self.meter.count(*mine)
        self.counted = self.accelerator.reduce(mine, "sum")
        return found.total * (self.args.world_size / self.counted[1])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Leaves out the Trainer's closing summary, whose samples are batches here."""
        if "train_runtime" not in logs:
            super().log(logs, start_time)

    def _get_grad_norm(self, *_: Any, **__: Any) -> None:
        """Takes no norm of the gradients: nobody asks for it, and it is a sixteenth of a step."""

    def anchor_here(self) -> None:
        """Pulls the model to its present weights, if the course has an anchor."""
        anchor = self.course.anchor
        self.anchored = None if anchor is None else Anchored.at(self.model, anchor.weight)


class _EpochByEpoch(TrainerCallback):
    """Keeps the count of epochs and steps, and tells of each step.

    The Trainer takes all epochs to have as many steps as the longest, and the first to be its own.
    """

    def __init__(self, trainer: ContinualTrainer) -> None:
        self._trainer, self._course = trainer, trainer.course
        self._epoch, self._first_step = self._course.epoch, self._course.step
        self._began = 0.0

    def on_train_begin(
        self, _: TrainingArguments, state: TrainerState, *__: TrainerControl, **___: Any
    ) -> None:
        """Goes on where a killed run stopped."""
        state.epoch, state.global_step = float(self._course.epoch), self._course.step
        state.max_steps += self._course.step

    def on_epoch_begin(
        self, _: TrainingArguments, state: TrainerState, *__: TrainerControl, **___: Any
    ) -> None:
        """Sets the epoch's order, its random state and its anchor."""
        self._epoch += 1
        self._first_step = state.global_step
        trainer, anchor = self._trainer, self._course.anchor
        trainer.stream.epoch = self._epoch
        numbers = [self._course.spec.seed, self._epoch, trainer.args.process_index]
        set_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
        if anchor is not None and anchor.to == "previous":
            trainer.anchor_here()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Takes the time."""
        self._began = time.perf_counter()

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, *__: TrainerControl, **___: Any
    ) -> None:
        """Tells of the step.

        Raises:
            UsageError: The loss is no longer a number.
        """
        trainer = self._trainer
        cross_entropy, n_predicted, n_tokens = trainer.counted.tolist()
        loss, step = cross_entropy / n_predicted, state.global_step - self._first_step
        if not math.isfinite(loss):
            raise UsageError(
                f"training diverged: the loss is {loss} in epoch {self._epoch}, step {step}",
                field="lr",
                hint="lower the learning rate",
            )
        n_steps, spec = trainer.stream.n_steps, self._course.spec
        state.epoch = self._epoch - 1 + step / n_steps
        if trainer.args.report_to:
            took = time.perf_counter() - self._began
            trainer.log(step_log(loss, spec.lr, n_tokens / took))
        if trainer.progress is not None and is_main_process():
            trainer.progress(
                Step(
                    epoch=self._epoch,
                    n_epochs=spec.n_epochs,
                    step=step,
                    n_steps=n_steps,
                    loss=loss,
                    n_tokens=int(n_tokens),
                )
            )

    def on_epoch_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> None:
        """An epoch is whole, however few its steps; one without any does not end training."""
        state.epoch = float(self._epoch)
        if not self._trainer.stream.n_steps:
            control.should_training_stop = False
