"""A callback that probes, saves and records the epochs of any transformers Trainer.

TRL's trainers and Axolotl's are Trainers too. What it does at a moment is ``TrainingObserver``'s
doing; here is only when: before the first step, after each epoch (or part of one, or number of
steps), and at the end. The Trainer's own checkpoints stay what a killed training resumes from;
what was recorded after the one that it resumes from is dropped and recorded again. ``lab train``
records by this callback too, and by it alone.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kcircuits.errors import StoreCorruptError, UsageError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.facts import load_facts
from kcircuits.lab.training.loss_meter import LossMeter
from kcircuits.lab.training.observer import TrainingObserver
from kcircuits.lab.training.processes import on_main, require_one_device
from kcircuits.lab.training.watch import Watch

logger = logging.getLogger(__name__)

_NO_LOSS = (
    "the model was not given its labels, or part of the epoch was trained before a resume that "
    "nothing was kept of; train.jsonl holds null"
)
_N_DIGITS = 6  # of an epoch: enough to tell a million steps apart, and free of rounding noise


class ProbeCallback(TrainerCallback):
    """Give it to a Trainer: ``Trainer(..., callbacks=[ProbeCallback("facts.jsonl", "out")])``.

    The trained weights and the optimizer's state are the same with and without it, bit for bit.
    Of several processes the main one probes and writes, and the others wait.

    Args:
        facts: A facts file; its probe prompts (else evaluation prompts) are asked.
        out: The folder to write into; see ``kcircuits.lab.training.recorder``.
        run: Name of the run; default the folder's.
        tokenizer: Default the Trainer's ``processing_class``.
        every_epochs: Record after this many epochs; may be fractional.
        every_steps: Record after this many optimiser steps instead.
        meter: Told of each batch by whoever computes the loss; default counts what the model gives.
        settings: Any other field of ``Watch``: ``base``, ``base_model``, ``strategy``, ``seed``
            (default the Trainer's), ``skills``, ``stop``, ``overwrite``.

    Raises:
        UsageError: A setting that cannot be meant.
        FactsError: The facts file breaks a rule. Whether it fits the tokenizer is checked when
            training begins, before the first step.
    """

    def __init__(
        self,
        facts: str | Path,
        out: str | Path,
        *,
        run: str | None = None,
        tokenizer: Any = None,
        every_epochs: float = 1,
        every_steps: int | None = None,
        meter: LossMeter | None = None,
        **settings: Any,
    ) -> None:
        self._facts, self._out = Path(facts).absolute(), Path(out).absolute()
        self._run = self._out.name if run is None else run
        self._tokenizer, self._settings = tokenizer, settings
        self._every_epochs, self._every_steps = every_epochs, every_steps
        for field, value in (("every_epochs", every_epochs), ("every_steps", every_steps)):
            if value is not None and not value > 0:
                raise UsageError(f"{field} is {value}; expected more than 0", field=field)
        watch = Watch(facts=self._facts, out=self._out, run=self._run, **settings)
        self._folder = watch.folder
        load_facts(self._facts)
        self._is_told = meter is not None
        self._meter = LossMeter() if meter is None else meter
        self._observer: TrainingObserver | None = None
        self._last_step = 0
        self._last_epoch = 0.0
        self._is_over = False

    @property
    def observer(self) -> TrainingObserver:
        """What has been observed so far: ``series``, ``manifest``, ``seconds``; main process only.

        Raises:
            UsageError: Training has not begun, or this is not the main process.
        """
        if self._observer is None:
            raise UsageError(
                "there is no observer: training has not begun, or in another process",
                field="observer",
                hint="call trainer.train() first, and ask in the main process",
            )
        return self._observer

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Records epoch 0, or drops what a resumed training computes again."""
        require_one_device(args.n_gpu)
        tokenizer = processing_class if self._tokenizer is None else self._tokenizer
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        after = _epoch(state) or None

        def begin() -> tuple[bool, int, float]:
            settings = {"seed": args.seed, **self._settings}
            self._observer = TrainingObserver(
                self._facts, self._out, run=self._run, tokenizer=tokenizer, **settings
            )
            self._observer.begin(model, after=after)
            last = self._observer.series[-1]
            return self._observer.should_stop, last["step"], last["epoch"]

        self._meter.detach()
        self._meter.pause()
        self._meter.reset()
        self._is_over, self._last_step, self._last_epoch = on_main(begin)
        if state.global_step > self._last_step and state.is_world_process_zero:
            self._restore_meter(state.global_step)
        if self._is_over:
            logger.warning("the stop function ended this training before; nothing is recorded")
            control.should_training_stop = True
        if not self._is_told:
            self._meter.attach(model)

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Lets training time pass."""
        self._meter.start()

    def on_pre_optimizer_step(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
        """Notes the learning rate with which the step is taken."""
        if optimizer is not None:
            self._meter.lr = float(optimizer.param_groups[0]["lr"])

    def on_step_end(
        self,
        _: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **__: Any,
    ) -> None:
        """Records where a number of steps, or a part of an epoch, is over."""
        if self._is_due(state):
            self._record(state, control, model)

    def on_epoch_end(
        self,
        _: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **__: Any,
    ) -> None:
        """Records where that is due, and always what training ends with."""
        self._meter.pause()
        is_last = state.global_step >= state.max_steps or control.should_training_stop
        if self._is_due(state) or is_last:
            self._record(state, control, model)

    def on_save(
        self, _: TrainingArguments, state: TrainerState, *__: TrainerControl, **___: Any
    ) -> None:
        """Keeps what was counted, for a training that resumes from the checkpoint just saved."""
        if state.global_step > self._last_step:
            self._meter.gather()
            if state.is_world_process_zero:
                text = json.dumps(self._meter.state())
                write_atomic(self._meter_file(state.global_step), text + "\n")

    def on_train_end(
        self, _: TrainingArguments, state: TrainerState, *__: TrainerControl, **___: Any
    ) -> None:
        """Removes the hook, and what only a killed training would need."""
        self._meter.detach()
        if state.is_world_process_zero:
            shutil.rmtree(self._folder.state, ignore_errors=True)

    def _is_due(self, state: TrainerState) -> bool:
        if self._every_steps is not None:
            return state.global_step % self._every_steps == 0
        parts = [
            int(epoch / self._every_epochs + 1e-6) for epoch in (self._last_epoch, _epoch(state))
        ]
        return parts[1] > parts[0]

    def _record(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        if self._is_over or _epoch(state) == self._last_epoch:
            return
        is_running = self._meter.is_running
        self._meter.pause()
        self._meter.gather()

        def record() -> bool:
            trained = self._meter.read()
            if trained.loss is None and trained.tokens != 0:
                logger.warning("no loss for epoch %g: %s", _epoch(state), _NO_LOSS)
            self.observer.epoch(
                _epoch(state),
                model,
                step=state.global_step,
                loss=trained.loss,
                lr=trained.lr,
                tokens=trained.tokens,
                seconds=trained.seconds,
            )
            return self.observer.should_stop

        self._is_over = on_main(record)
        control.should_training_stop |= self._is_over
        self._last_step, self._last_epoch = state.global_step, _epoch(state)
        self._meter.reset()
        if is_running:
            self._meter.start()

    def _meter_file(self, step: int) -> Path:
        return self._folder.state / f"step{step}.json"

    def _restore_meter(self, step: int) -> None:
        file = self._meter_file(step)
        if not file.is_file():
            self._meter.is_whole = False
            return
        try:
            self._meter.restore(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as cause:
            raise StoreCorruptError(
                "what was counted before the checkpoint cannot be read",
                file=file,
                hint="delete that file: the loss of this epoch will be null",
            ) from cause


def _epoch(state: TrainerState) -> float:
    return round(float(state.epoch or 0), _N_DIGITS)
