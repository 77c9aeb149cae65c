"""The errors that users see, and the exit code of each.

    KCircuitsError
    ├── UsageError            2   an argument or option that cannot be meant
    ├── InputError            3   a manifest or facts file
    │   ├── ManifestError
    │   └── FactsError
    ├── CheckpointError       4   weights, adapter, config or tokenizer of a checkpoint
    │   └── NonFiniteError        a score or metric came out as NaN or infinite
    ├── StoreCorruptError     5   a committed file that no longer verifies
    ├── StoreBusyError        6   another process writes the same store
    ├── FileAccessError       7   the disk said no
    ├── PartialError          8   finished in part; the counts are in the message
    ├── IncomparableError     9   epochs (or circuits) that cannot be compared
    └── DoctorError          10   the doctor found a problem, or a control failed

Exit code 0 is success, 1 means "differences found" (only with ``--exit-code``), 70 a bug of ours,
130 an interruption. Each message names the value, what was expected and the remedy.
"""

from typing import ClassVar

EXIT_OK = 0
EXIT_DIFFERENT = 1
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class KCircuitsError(Exception):
    """Base of all errors meant for users; never raised itself.

    Args:
        message: What is wrong: the value, and what was expected instead.
        hint: The remedy, as an imperative clause or a command to run.
        file: The file at fault, if one is.
        field: The field, tensor or option at fault, if one is.
        line: The line in ``file``, counted from 1.
    """

    exit_code: ClassVar[int]
    code: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        file: object = None,
        field: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.file = None if file is None else str(file)
        self.field = field
        self.line = line

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        text = f"{place}: {self.message}" if place else self.message
        return f"{text}\n  remedy: {self.hint}" if self.hint else text

    def to_json(self) -> dict[str, dict[str, str | int | None]]:
        """The error as the command line prints it under ``--json``."""
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "file": self.file,
                "field": self.field,
                "line": self.line,
                "hint": self.hint,
            }
        }


class UsageError(KCircuitsError):
    """An argument or option that cannot be meant."""

    exit_code = 2
    code = "usage"


class InputError(KCircuitsError):
    """A file that the user wrote cannot be understood."""

    exit_code = 3
    code = "input"


class ManifestError(InputError):
    """A checkpoints manifest breaks its rules."""

    code = "manifest"


class FactsError(InputError):
    """A facts file, a fact or a prompt breaks its rules."""

    code = "facts"


class CheckpointError(KCircuitsError):
    """A checkpoint is not, or not surely, the model that was asked for."""

    exit_code = 4
    code = "checkpoint"


class NonFiniteError(CheckpointError):
    """A score or metric is NaN or infinite; names the fact and the component."""

    code = "non-finite"


class StoreCorruptError(KCircuitsError):
    """A committed file of the results store no longer verifies."""

    exit_code = 5
    code = "store-corrupt"


class StoreBusyError(KCircuitsError):
    """Another process holds the lock of the results store."""

    exit_code = 6
    code = "store-busy"


class FileAccessError(KCircuitsError):
    """The operating system refused to read or write a file."""

    exit_code = 7
    code = "io"


class PartialError(KCircuitsError):
    """Work finished in part; the message counts what is missing."""

    exit_code = 8
    code = "partial"


class IncomparableError(KCircuitsError):
    """Two epochs or circuits have no common ground for a comparison."""

    exit_code = 9
    code = "incomparable"


class DoctorError(KCircuitsError):
    """Nothing that was asked for went wrong, but what was examined is not well.

    A code of its own: a script must tell a control that failed from one that could not be run.
    """

    exit_code = 10
    code = "doctor"
