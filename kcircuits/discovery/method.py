"""What an attribution method is.

A method's file imports the engine inside its score function: the registry of methods answers the
command line, which must not wait for torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kcircuits.core.batch import PromptBatch
from kcircuits.core.scores import EdgeScores
from kcircuits.engine.annotations import Question, Tensor, TokenRows, TransformerWeights

Score = Callable[[TransformerWeights, TokenRows, Question, Mapping[str, Any]], Tensor]
# (model, prompts, number of edges, params, bytes of memory, told the share done and how it goes)
# -> a row per fact and fold. ``params`` are the method's own, the metric and the ablation.
Train = Callable[
    [Any, PromptBatch, int, Mapping[str, Any], int, Callable[[float, str], object]], EdgeScores
]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to find circuits, stated as data: it scores prompts, or is trained for a size.

    Attributes:
        name: Name in the registry.
        score: (weights, rows, question, params) -> scores at the question's level; None for a
            method that is trained.
        train: Finds edges for a wanted number of them; None for a method that scores.
        defaults: Parameters and their defaults; no others are accepted.
        check: Raises UsageError for parameter values that cannot be meant.
        n_steps: Points per prompt that run side by side, for the memory plan.
        needs_clean_gradient: Looks at the clean run alone, so a metric whose gradient vanishes
            there cannot be used.
        has_levels: Besides edges also scores edges by role and neurons.
        source: Where the method comes from.
    """

    name: str
    score: Score | None = None
    train: Train | None = None
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    check: Callable[[Mapping[str, Any]], None] = lambda _: None
    n_steps: Callable[[Mapping[str, Any]], int] = lambda _: 1
    needs_clean_gradient: bool = False
    has_levels: bool = True
    source: str
