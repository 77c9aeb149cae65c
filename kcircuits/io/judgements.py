"""What circuits did on a checkpoint's weights, prompt by prompt: one sealed file per checkpoint.

Facts and circuits go by keys, hashes of all that they depend on, so that a later call with other
epochs, strata or draws finds what is there and adds what is not.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kcircuits.core.keys import digest
from kcircuits.errors import StoreCorruptError
from kcircuits.io.atomic import write_atomic
from kcircuits.io.sealed import read_sealed, sealed

FOLDER = "transfer"  # of a run
_SCHEMA = "kcircuits.judgements/1"
_REMEDY = "delete that file and repeat the command; the other checkpoints' files are kept"
# Of the checkpoint in the name, for people; the digits after it tell files apart.
_SHOWN, _NAME_DIGITS = 12, 20


@dataclass(frozen=True, kw_only=True)
class CircuitJudgement:
    """One circuit on each evaluation prompt of its fact.

    Attributes:
        metric: Metric of the circuit.
        target_rank: Rank of the target in the circuit's logits, 1 is best.
    """

    metric: tuple[float, ...]
    target_rank: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class FactJudgement:
    """The model and circuits on each evaluation prompt of a fact.

    Attributes:
        clean: Metric of the full model.
        empty: Metric with every edge ablated.
        is_gated: The gap between the two is too small to divide by.
        circuits: Circuits by their keys.
    """

    clean: tuple[float, ...]
    empty: tuple[float, ...]
    is_gated: bool
    circuits: Mapping[str, CircuitJudgement]


@dataclass(frozen=True, kw_only=True)
class JudgementFile:
    """The judgements of one checkpoint under one metric and ablation.

    Attributes:
        folder: Where such files lie.
        checkpoint: Content hash of the checkpoint.
        settings: All else that the numbers depend on, apart from fact and circuit.
    """

    folder: Path
    checkpoint: str
    settings: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The file, which need not exist."""
        return self.folder / f"{self.checkpoint[:_SHOWN]}-{digest(self._head)[:_NAME_DIGITS]}.json"

    def read(self) -> dict[str, FactJudgement]:
        """Judgements by the keys of facts; none where there is no file.

        Raises:
            StoreCorruptError: The file was changed, or is of another version.
            FileAccessError: The disk refused.
        """
        try:
            content = read_sealed(self.path, hint=_REMEDY, missing=FileNotFoundError)
        except FileNotFoundError:
            return {}
        if {name: content.get(name) for name in self._head} != self._head:
            raise StoreCorruptError("written by another version", file=self.path, hint=_REMEDY)
        return {key: _fact(entry) for key, entry in content["facts"].items()}

    def write(self, facts: Mapping[str, FactJudgement]) -> None:
        """Replaces the file's content.

        Raises:
            FileAccessError: The disk refused; the file is as before.
        """
        entries = {key: asdict(fact) for key, fact in facts.items()}
        write_atomic(self.path, sealed({**self._head, "facts": entries}))

    @property
    def _head(self) -> dict[str, Any]:
        return {
            "schema": _SCHEMA,
            "checkpoint": self.checkpoint,
            "settings": dict(self.settings),
        }


def corrupt_judgements(folder: Path) -> list[StoreCorruptError]:
    """Reads every file of judgements in a run folder; what does not verify, as errors."""
    problems: list[StoreCorruptError] = []
    for file in sorted((folder / FOLDER).glob("*.json")):
        try:
            read_sealed(file, hint=_REMEDY, missing=FileNotFoundError)
        except StoreCorruptError as error:
            problems.append(error)
    return problems


def _fact(entry: Mapping[str, Any]) -> FactJudgement:
    return FactJudgement(
        clean=tuple(entry["clean"]),
        empty=tuple(entry["empty"]),
        is_gated=entry["is_gated"],
        circuits={
            key: CircuitJudgement(
                metric=tuple(one["metric"]), target_rank=tuple(one["target_rank"])
            )
            for key, one in entry["circuits"].items()
        },
    )
