"""What a training strategy decides: what is trained and saved, what is shown, what is minimised."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from kcircuits.core.facts import Fact
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.training.anchor import Anchor

TensorMap = Mapping[str, Tensor]
# Documents, and the recall of each subject after the last epoch -> places of those to show.
Choose = Callable[[Sequence[Document], Mapping[str, float]], list[int]]
# A fact and a prompt that asks for it -> the documents that the prompt shall carry.
Find = Callable[[Fact, str], Sequence[Document]]


def choose_all(documents: Sequence[Document], recall: Mapping[str, float]) -> list[int]:
    """Every document in every epoch."""
    del recall
    return list(range(len(documents)))


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to train, stated as data.

    Attributes:
        name: Name on the command line and in every row.
        prepare: Takes the base model, with nothing trainable, and a seed; gives the model to
            train, with its trainable parameters marked.
        save: Writes the files of a checkpoint, given the prepared model, the base's folder, the
            folder to write into and the name of the data type to store (``float32``, ...).
        is_adapter: The checkpoint is an adapter on the base, not a whole model.
        save_dtype: Default of the data type to store.
        shows: ``text``, or ``tagged``: documents with their named entities between tags.
        choose: Which documents an epoch shows.
        anchor: What the model is pulled back to.
        replay_share: Share of general texts, sampled from the untrained model, in every epoch.
        documents: Takes all documents, and gives what finds those that a prompt shall carry:
            nothing is then trained. None for strategies that train.
    """

    name: str
    prepare: Callable[[Any, int], Any]
    save: Callable[[Any, Path, Path, str], None]
    is_adapter: bool
    save_dtype: str
    shows: Literal["text", "tagged"] = "text"
    choose: Choose = choose_all
    anchor: Anchor | None = None
    replay_share: float = 0.0
    documents: Callable[[Sequence[Document]], Find] | None = None

    @property
    def is_training(self) -> bool:
        """Whether anything is trained."""
        return self.documents is None
