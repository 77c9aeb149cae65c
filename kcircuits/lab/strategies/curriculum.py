"""LoRA that leaves out, after each epoch, the documents of subjects that are learned.

A subject is learned when the mean recall over its probes is at least 0.6; one that is forgotten
again comes back.

Source: Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858 (curriculum learning).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kcircuits.analysis.dynamics.series import is_learned
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.strategies.lora import LORA


def choose_unlearned(documents: Sequence[Document], recall: Mapping[str, float]) -> list[int]:
    """Documents about subjects that are not learned; subjects without probes are not."""
    return [i for i, each in enumerate(documents) if not is_learned(recall.get(each.subject, 0.0))]


CURRICULUM = replace(LORA, name="curriculum", choose=choose_unlearned)
