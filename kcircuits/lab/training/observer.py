"""Watches the training of somebody else's loop: probes, skills, checkpoints, and when to stop.

For transformers' Trainer there is ``kcircuits.lab.training.callback``, which calls what is here;
any other loop calls it itself::

    observer = kc.TrainingObserver("facts.jsonl", "out", run="mine", tokenizer=tokenizer)
    observer.begin(model)  # epoch 0
    for epoch in range(1, 11):
        ...
        observer.epoch(epoch, model, step=step, loss=loss, lr=lr, tokens=n, seconds=s)
        if observer.should_stop:
            break

With several processes, the main one alone calls it, on the model inside the wrapper, and the
others wait. What is written where: ``kcircuits.lab.training.recorder``.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kcircuits.core.manifest import Manifest
from kcircuits.errors import UsageError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.facts import load_facts
from kcircuits.io.manifest import load_manifest
from kcircuits.lab.probing.open_questions import probes_by_questions
from kcircuits.lab.probing.probes import require_room
from kcircuits.lab.training.recorder import Recorder, Row, RunLabels
from kcircuits.lab.training.run_folder import asked_before, recorded
from kcircuits.lab.training.saving import saver_of_model
from kcircuits.lab.training.step import Trained
from kcircuits.lab.training.watch import Watch
from kcircuits.models.prompts import tokenize_facts


class TrainingObserver:
    """Probes, saves and records a model at the moments of its training.

    Training goes on as if nothing had happened: mode, hooks, gradients and random states are left
    as they were, and the trained weights are the same bit for bit.

    Args:
        facts: See ``Watch``.
        out: See ``Watch``.
        run: See ``Watch``.
        tokenizer: The model's transformers tokenizer.
        settings: Any other field of ``Watch``.

    Raises:
        UsageError: No tokenizer, or a name that cannot be one.
        FactsError: The facts file breaks a rule, or does not fit the tokenizer.
    """

    def __init__(
        self, facts: str | Path, out: str | Path, *, run: str, tokenizer: Any, **settings: Any
    ) -> None:
        self.watch = Watch(
            facts=Path(facts).absolute(), out=Path(out).absolute(), run=run, **settings
        )
        loaded = load_facts(self.watch.facts)
        self._batch = tokenize_facts(tokenizer, loaded)
        self._questions = None
        if self.watch.questions:
            self._questions = probes_by_questions(tokenizer, loaded, self.watch.questions)
        told = "".join(fact.content_hash for fact in loaded)
        self._facts_hash = hashlib.sha256(told.encode()).hexdigest()
        self._tokenizer = tokenizer
        self._recorder: Recorder | None = None
        self.should_stop = False

    @property
    def series(self) -> Sequence[Row]:
        """One row per moment so far, as the stop function sees them."""
        return () if self._recorder is None else tuple(self._recorder.series)

    @property
    def seconds(self) -> float:
        """Time spent on probing and saving since the start."""
        return 0.0 if self._recorder is None else self._recorder.seconds

    @property
    def manifest(self) -> Manifest:
        """The run so far, as it is on disk."""
        return load_manifest(self.watch.folder.manifest)

    def begin(self, model: Any, *, after: float | None = None) -> None:
        """Before the first step: records epoch 0, or goes on after an epoch that was recorded.

        Args:
            model: transformers or PEFT model.
            after: Epochs of training that the model has behind it, where training is resumed;
                what was recorded after them is dropped. None for an untrained model.

        Raises:
            UsageError: Another run is in the folder, or later epochs of this one though training
                begins, or the model is of a kind that cannot be saved as it is.
            CheckpointError: The base in the folder is not the one in memory.
            FactsError: A prompt does not fit into the model.
        """
        watch = self.watch
        saver = watch.saver or saver_of_model(model, self._tokenizer, watch.base)
        require_room(model, self._batch)
        strategy = watch.strategy or ("full" if saver.base is None else "lora")
        request = self._request(strategy)
        asked_before(watch.folder, request)
        self._require_place(after)
        text = json.dumps({"request": request, **watch.decided}, indent=2, sort_keys=True)
        write_atomic(watch.folder.request, text + "\n")
        labels = RunLabels(
            strategy=strategy,
            seed=watch.seed,
            facts=watch.facts,
            base_model=watch.base_model or _base_name(model, saver.base) or watch.run,
        )
        skills = watch.skills
        measure = None if skills is None else lambda live: skills(live, self._tokenizer)
        self._recorder = Recorder(
            watch.folder, labels, self._batch, saver, measure, self._questions
        )
        if after is not None:
            self._recorder.rewind(after)
            self.should_stop = self._judge()
        else:
            self.should_stop = False
            self._recorder.rewind(-1)
            self._recorder.record(model, 0, step=0)

    def epoch(
        self,
        epoch: float,
        model: Any,
        *,
        step: int | None = None,
        loss: float | None = None,
        lr: float | None = None,
        tokens: int | None = None,
        seconds: float | None = None,
    ) -> Row:
        """After an epoch, or at any moment within: probes, saves, records; sets ``should_stop``.

        Args:
            epoch: Epochs of training so far; may be fractional.
            model: The model.
            step: Optimiser steps so far.
            loss: Mean cross-entropy per token since the moment before, in nats.
            lr: Learning rate of the last step.
            tokens: Tokens read since the moment before; 0 where nothing was shown.
            seconds: Time of training since the moment before.

        Returns:
            The moment's row of ``series``.

        Raises:
            UsageError: The loss is not a number, or the epoch was recorded already.
            NonFiniteError: A probe's answer is not a number.
            StoreBusyError: Another process writes into this folder.
        """
        if self._recorder is None:
            raise UsageError(
                "epoch() came before begin()", field="epoch", hint="call begin(model) first"
            )
        told = Trained(loss=loss, lr=lr, tokens=tokens, seconds=seconds)
        self._recorder.record(model, epoch, step=step, trained=None if tokens == 0 else told)
        self.should_stop = self._judge()
        return self.series[-1]

    def _request(self, strategy: str) -> dict[str, Any]:
        watch = self.watch
        head = {"recorder": "observer", "run": watch.run, "facts": self._facts_hash}
        head |= {"questions": watch.questions, "strategy": strategy, "seed": watch.seed}
        return head | dict(watch.request)

    def _judge(self) -> bool:
        is_past_start = len(self.series) > 1
        return is_past_start and self.watch.stop is not None and bool(self.watch.stop(self.series))

    def _require_place(self, after: float | None) -> None:
        """UsageError where beginning here would lose epochs, or leave out the untrained model."""
        epochs = [c.epoch or 0.0 for c in recorded(self.watch.folder)]
        if after is not None and 0.0 not in epochs:
            raise UsageError(
                f"training goes on after epoch {after:g}, but the folder holds no epoch 0",
                file=self.watch.out,
                field="out",
                hint="name the folder of the training's beginning, or train from the start",
            )
        if after is None and max(epochs, default=0.0) > 0 and not self.watch.overwrite:
            raise UsageError(
                f"training begins at epoch 0, but the folder holds epochs up to {max(epochs):g}",
                file=self.watch.out,
                field="out",
                hint="resume (Trainer: resume_from_checkpoint=True; own loop: begin(model, "
                "after=EPOCH)), choose another folder, or say overwrite=True",
            )


def observe(
    model: Any,
    epoch: float,
    *,
    facts: str | Path,
    out: str | Path,
    run: str,
    tokenizer: Any,
    step: int | None = None,
    loss: float | None = None,
    lr: float | None = None,
    tokens: int | None = None,
    seconds: float | None = None,
    **settings: Any,
) -> bool:
    """Observes one moment in one call: probes, saves and records a model at an epoch.

    An epoch above 0 that the folder holds already is recorded anew, and those after it are
    dropped: a loop that was killed and goes on from a state of its own just repeats its calls.

    Args:
        model: transformers or PEFT model.
        epoch: Epochs of training so far; 0 is the untrained model and comes first.
        facts: See ``Watch``.
        out: See ``Watch``.
        run: See ``Watch``.
        tokenizer: The model's transformers tokenizer.
        step: See ``TrainingObserver.epoch``; so are loss, lr, tokens and seconds.
        loss: Likewise.
        lr: Likewise.
        tokens: Likewise.
        seconds: Likewise.
        settings: Any other field of ``Watch``.

    Returns:
        Whether the stop function says that training shall end; False where there is none.

    Raises:
        KCircuitsError: See ``TrainingObserver.begin`` and ``TrainingObserver.epoch``.
    """
    observer = TrainingObserver(facts, out, run=run, tokenizer=tokenizer, **settings)
    if epoch <= 0:
        observer.begin(model)
        return False
    before = [c.epoch or 0.0 for c in recorded(observer.watch.folder) if (c.epoch or 0) < epoch]
    observer.begin(model, after=max(before, default=epoch))
    observer.epoch(epoch, model, step=step, loss=loss, lr=lr, tokens=tokens, seconds=seconds)
    return observer.should_stop


def _base_name(model: Any, base: Path | None) -> str | None:
    if base is not None:
        return base.name
    return Path(getattr(model.config, "_name_or_path", "") or "").name or None
