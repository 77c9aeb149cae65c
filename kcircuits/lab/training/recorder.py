"""One moment of training, probed and written down: the one way in which every loop records it.

A run lives in one folder::

    checkpoints_manifest.yaml     valid after every moment, with the sha256 of each checkpoint
    training.json                 what was asked, so that another run is not mixed in
    checkpoints/ep0, ep1, ...     whole models or adapters, epoch 0 the untrained model
    runs/<run>/probes.jsonl       a row per moment and prompt, on the weights as saved, and one per
                                  open question where such are asked
    runs/<run>/train.jsonl        a row per moment but the first
    runs/<run>/skills.jsonl       a row per moment and skill, where skills are measured

A moment counts when it is in the manifest, which is written last: what a killed process wrote of
one that is not is dropped before anything else is written. Training does not notice: see
``kcircuits.lab.training.undisturbed``.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcircuits.core.batch import PromptBatch
from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.errors import NonFiniteError, StoreBusyError, UsageError
from kcircuits.evaluation import known_facts
from kcircuits.io.atomic import make_folder
from kcircuits.io.checkpoint_files import content_hash
from kcircuits.io.jsonl import append_rows, read_rows
from kcircuits.io.lock import writer_lock
from kcircuits.io.manifest import SCHEMA_VERSION, write_manifest
from kcircuits.lab.probing.probes import probe_model
from kcircuits.lab.training.run_folder import (
    RunFolder,
    checkpoint_id,
    recorded,
    rewind,
    save_checkpoint,
)
from kcircuits.lab.training.saving import Saver, is_identity
from kcircuits.lab.training.step import Trained
from kcircuits.lab.training.undisturbed import undisturbed

logger = logging.getLogger(__name__)

# What a cloze probe does not have: an answer in words.
_CLOZE = {"recall": None, "f1": None}
_NAMES = {"logprob": "log-probability", "recall": "recall"}

Row = Mapping[str, Any]
Skills = Callable[[Any], Iterable[Row]]
"""Takes the model; gives rows with ``skill``, ``n`` and ``accuracy``."""
Questions = Callable[[Any], Iterable[Row]]
"""Takes the model; gives rows of open questions (``open_questions.ask_open_questions``)."""
Stop = Callable[[Sequence[Row]], bool]
"""Takes the rows of ``Recorder.series``; says whether training shall end."""


@dataclass(frozen=True, kw_only=True)
class RunLabels:
    """What a run is called in its rows and in its manifest."""

    strategy: str
    seed: int
    facts: Path
    base_model: str


class Recorder:
    """Writes the moments of one run.

    Args:
        folder: Where.
        labels: What the run is called.
        batch: The facts as token ids.
        saver: How the weights are saved.
        skills: What else to measure, or None.
        questions: Asks open questions beside the probes, or None.

    Attributes:
        series: A row per moment: ``checkpoint, epoch, step, loss, perplexity, known`` (share of
            facts) and ``skills`` (accuracy by name).
        seconds: Time spent here since the recorder was made.
    """

    def __init__(
        self,
        folder: RunFolder,
        labels: RunLabels,
        batch: PromptBatch,
        saver: Saver,
        skills: Skills | None = None,
        questions: Questions | None = None,
    ) -> None:
        make_folder(folder.root)
        self.folder = folder
        self.seconds = 0.0
        self._labels, self._batch, self._saver = labels, batch, saver
        self._skills, self._questions = skills, questions
        self.rewind(math.inf)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The moments that are recorded."""
        return self._checkpoints

    def rewind(self, epoch: float) -> None:
        """Forgets what was recorded after an epoch, and what a killed process left behind."""
        with self._lock():
            kept = [c for c in recorded(self.folder) if c.epoch is not None and c.epoch <= epoch]
            rewind(self.folder, kept)
        self._checkpoints = tuple(kept)
        self._is_clean = True
        self.series = _series(self.folder, kept)

    def record(
        self, model: Any, epoch: float, *, step: int | None = None, trained: Trained | None = None
    ) -> None:
        """Probes the model, measures skills, saves it, and writes all of that down.

        Raises:
            UsageError: The loss is not a number, or this epoch does not come after the last one.
            NonFiniteError: A probe's answer is not a number.
            StoreBusyError: Another process writes into this folder.
        """
        started = time.perf_counter()
        self._check(epoch, trained)
        if not self._is_clean:
            self.rewind(math.inf)
        name = checkpoint_id(epoch, step)
        with self._lock(), undisturbed(model):
            if recorded(self.folder) != self._checkpoints:
                raise StoreBusyError(
                    "another process has recorded into this folder meanwhile",
                    file=self.folder.manifest,
                    hint="let each training run have a folder of its own",
                )
            self._is_clean = False
            self._write(model, name, epoch, step, trained)
            self._is_clean = True
        self.seconds += (took := time.perf_counter() - started)
        logger.info("recorded %s in %.1f s", name, took)

    def _check(self, epoch: float, trained: Trained | None) -> None:
        last = max((c.epoch or 0.0 for c in self._checkpoints), default=-1.0)
        if not epoch > last:
            raise UsageError(
                f"epoch {epoch:g} does not come after epoch {last:g}, which is recorded",
                field="epoch",
                hint="count upwards; to go on after an earlier epoch: begin(model, after=EPOCH)",
            )
        loss = None if trained is None else trained.loss
        if loss is not None and not math.isfinite(loss):
            raise UsageError(
                f"training diverged: the loss is {loss} in epoch {epoch:g}",
                field="lr",
                hint="lower the learning rate",
            )

    def _write(
        self, model: Any, name: str, epoch: float, step: int | None, trained: Trained | None
    ) -> None:
        folder, head = self.folder, {"checkpoint": name, "epoch": epoch}
        place = folder.checkpoint(name)
        started = time.perf_counter()
        with self._saver.as_saved(model):
            probes: list[Row] = [_CLOZE | row for row in probe_model(model, self._batch)]
            probes += [] if self._questions is None else self._questions(model)
            skills = [] if self._skills is None else list(self._skills(model))
            probing = time.perf_counter() - started
            save_checkpoint(lambda files: self._saver.save(model, files), place)
        run = {"strategy": self._labels.strategy, "seed": self._labels.seed, "kind": "paraphrase"}
        append_rows(folder.probes, [{**head, **run, **row} for row in _finite(probes, name)])
        append_rows(folder.skills, [head | _skill(row) for row in skills])
        losses = None if trained is None else _loss_row(epoch, step, trained, probing)
        append_rows(folder.losses, [] if losses is None else [losses])
        base = self._saver.base
        path, adapter = (place, None) if base is None else (base, place)
        is_untrained = trained is None or trained.lr == 0
        checkpoint = Checkpoint(
            id=name,
            path=path,
            adapter=adapter,
            epoch=epoch,
            step=step,
            sha256=content_hash(path, adapter),
            is_identity=adapter is not None and is_untrained and is_identity(model),
        )
        checkpoints = (*self._checkpoints, checkpoint)
        write_manifest(self._manifest(checkpoints), folder.manifest)
        self._checkpoints = recorded(folder)
        self.series.append(_moment(checkpoint, probes, losses, skills))

    def _manifest(self, checkpoints: tuple[Checkpoint, ...]) -> Manifest:
        return Manifest(
            schema_version=SCHEMA_VERSION,
            run=self.folder.run,
            base_model=self._labels.base_model,
            facts=self._labels.facts,
            checkpoints=checkpoints,
        )

    def _lock(self) -> Any:
        return writer_lock(self.folder.root / ".recording.lock")


def _loss_row(epoch: float, step: int | None, trained: Trained, probing: float) -> dict[str, Any]:
    loss = trained.loss
    is_small = loss is not None and loss < math.log(1e300)
    return {
        "epoch": epoch,
        "step": step,
        "loss": loss,
        "perplexity": math.exp(loss) if loss is not None and is_small else None,
        "lr": trained.lr,
        "tokens": trained.tokens,
        "seconds": None if trained.seconds is None else round(trained.seconds, 3),
        "probing_seconds": round(probing, 3),
    }


def _finite(probes: Sequence[Row], name: str) -> Sequence[Row]:
    for row in probes:
        number = "logprob" if row["recall"] is None else "recall"
        if not math.isfinite(row[number]):
            raise NonFiniteError(
                f"{name}: the {_NAMES[number]} of fact {row['fact']}, prompt {row['prompt_idx']}, "
                f"is {row[number]}",
                field=number,
                hint="the training run diverged: lower the learning rate",
            )
    return probes


def _skill(row: Row) -> dict[str, Any]:
    accuracy = row.get("accuracy")
    is_share = isinstance(accuracy, int | float) and 0 <= accuracy <= 1
    if not (isinstance(row.get("skill"), str) and isinstance(row.get("n"), int) and is_share):
        raise UsageError(
            f"a row of skills is {dict(row)!r}; expected skill (a name), n (a count) and accuracy "
            "(in 0..1)",
            field="skills",
        )
    return dict(row)


def _moment(
    checkpoint: Checkpoint, probes: Sequence[Row], losses: Row | None, skills: Sequence[Row]
) -> dict[str, Any]:
    known = list(known_facts(probes).values())
    return {
        "checkpoint": checkpoint.id,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "loss": (losses or {}).get("loss"),
        "perplexity": (losses or {}).get("perplexity"),
        "known": sum(known) / len(known) if known else None,
        "skills": {row["skill"]: row["accuracy"] for row in skills},
    }


def _series(folder: RunFolder, checkpoints: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """The series of what is on disk."""
    losses = {row["epoch"]: row for row in read_rows(folder.losses)}
    rows: dict[str, tuple[list[Row], list[Row]]] = {c.id: ([], []) for c in checkpoints}
    for kind, path in enumerate((folder.probes, folder.skills)):
        for row in read_rows(path):
            rows[row["checkpoint"]][kind].append(row)
    return [_moment(c, rows[c.id][0], losses.get(c.epoch), rows[c.id][1]) for c in checkpoints]
