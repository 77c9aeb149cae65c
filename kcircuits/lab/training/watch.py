"""What a training is watched for: the settings of an observer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kcircuits.errors import UsageError
from kcircuits.io.manifest import is_name
from kcircuits.lab.training.recorder import Row, Stop
from kcircuits.lab.training.run_folder import RunFolder
from kcircuits.lab.training.saving import Saver

Skills = Callable[[Any, Any], Iterable[Row]]
"""Takes model and tokenizer; gives rows with ``skill``, ``n`` and ``accuracy``."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What to watch, apart from the model.

    Attributes:
        facts: A facts file; its probe prompts (else evaluation prompts) are asked.
        out: The folder to write into.
        run: Name of the run.
        base: Folder of the base model where an adapter is trained; default what the adapter names.
        base_model: The base's name in the manifest; default its folder's, or the model's.
        strategy: Name in the rows; default ``lora`` for an adapter, else ``full``.
        seed: Of the training, in the rows.
        skills: Called with model and tokenizer at every moment, in evaluation mode and without
            gradients; gives rows with ``skill``, ``n`` and ``accuracy``.
        questions: Open questions to ask for each fact at every moment, at most; 0 asks none.
        stop: Called with the rows so far (``checkpoint, epoch, step, loss, perplexity, known,
            skills``) after every moment but epoch 0; true where training shall end.
        overwrite: Whether a run of the same name and facts in the folder may be begun anew.
        saver: How checkpoints are saved; default as the model is in memory.
        request: What else determines the run: a folder of another request is refused.
        decided: What was decided when the run began, kept beside the request.
    """

    facts: Path
    out: Path
    run: str
    base: Path | None = None
    base_model: str | None = None
    strategy: str | None = None
    seed: int = 0
    skills: Skills | None = None
    questions: int = 0
    stop: Stop | None = None
    overwrite: bool = False
    saver: Saver | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    decided: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_name(self.run):
            raise UsageError(
                f"run {self.run!r} cannot name a folder",
                field="run",
                hint="use letters, digits, '.', '_', '+' and '-', a letter or digit first",
            )
        if self.questions < 0:
            raise UsageError(
                f"questions is {self.questions}; expected 0 or more for each fact",
                field="questions",
            )

    @property
    def folder(self) -> RunFolder:
        """Where the files lie."""
        return RunFolder(root=self.out, run=self.run)
