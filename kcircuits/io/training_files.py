"""What a training run wrote beside its checkpoints: probes, losses and skills.

probes.jsonl   checkpoint, epoch, strategy?, seed?, fact, prompt_idx, kind?, logprob?, known,
               recall?                            one row per probe and epoch
train.jsonl    epoch, loss, perplexity?, ...      one row per epoch, or per logged step
skills.jsonl   epoch, skill, accuracy, per_item?, items?   one row per skill and epoch; per_item
                   are the scores of the single items, items names their set
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcircuits.errors import StoreCorruptError, UsageError
from kcircuits.io.columns import Columns, read_columns
from kcircuits.io.jsonl import Kinds, read_rows

_ABSENT = type(None)
_PROBE: Kinds = {
    "checkpoint": (str,), "epoch": (float, _ABSENT), "fact": (str,), "prompt_idx": (int,),
    "known": (bool,),
}  # fmt: skip
_PROBE_MAY: Kinds = {
    "strategy": (str,), "seed": (int,), "kind": (str,), "logprob": (float,), "recall": (float,),
}  # fmt: skip
_TRAIN: Kinds = {"epoch": (float,), "loss": (float, _ABSENT)}
_SKILL: Kinds = {"epoch": (float,), "skill": (str,), "accuracy": (float,)}


@dataclass(frozen=True, kw_only=True)
class TrainingFiles:
    """The rows of one run folder.

    Attributes:
        probes: Columns of ``probes.jsonl``.
        train: Rows of ``train.jsonl``.
        skills: Rows of ``skills.jsonl``.
    """

    probes: Columns
    train: list[dict[str, Any]]
    skills: list[dict[str, Any]]


def read_training_files(folder: str | Path) -> TrainingFiles:
    """Reads the files of a run folder; losses and skills may be absent.

    Raises:
        UsageError: The folder holds no probes.
        StoreCorruptError: A row that is not what the module says.
        FileAccessError: The disk refused.
    """
    folder = Path(folder)
    probes = read_columns(folder / "probes.jsonl", _PROBE, _PROBE_MAY)
    if not probes["fact"]:
        raise UsageError(
            f"{folder} holds no probes (probes.jsonl)",
            field="run",
            hint="probe the checkpoints with `kcircuits lab probe`, or name another folder",
        )
    skills = read_rows(folder / "skills.jsonl", _SKILL)
    for line, row in enumerate(skills, start=1):
        items = row.get("per_item")
        if items is not None and not _are_scores(items):
            raise StoreCorruptError(
                f"field 'per_item' is {str(items)[:40]}; expected a number in 0..1 for each item",
                file=folder / "skills.jsonl",
                line=line,
                field="per_item",
                hint="measure the skills of that checkpoint again",
            )
    return TrainingFiles(
        probes=probes, train=read_rows(folder / "train.jsonl", _TRAIN), skills=skills
    )


def _are_scores(items: Any) -> bool:
    return isinstance(items, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
        for value in items
    )
