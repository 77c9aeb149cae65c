"""What an attribution method is.

A method's file imports the engine inside its score function: the registry of methods answers the
command line, which must not wait for torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kcircuits.engine.annotations import Tensor, TokenRows, TransformerWeights
from kcircuits.engine.metrics import Metric

Score = Callable[[TransformerWeights, TokenRows, Metric, Mapping[str, Any]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Method:
    """An attribution method, stated as data.

    Attributes:
        name: Name in the registry.
        score: (weights, rows, metric, params) -> [prompt, n_forward, n_backward].
        defaults: Parameters and their defaults; no others are accepted.
        check: Raises UsageError for parameter values that cannot be meant.
        n_steps: Points per prompt for the given parameters, for the memory plan.
        needs_clean_gradient: Looks at the clean run alone, so a metric whose gradient vanishes
            there cannot be used.
        source: Where the method comes from.
    """

    name: str
    score: Score
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    check: Callable[[Mapping[str, Any]], None] = lambda _: None
    n_steps: Callable[[Mapping[str, Any]], int] = lambda _: 1
    needs_clean_gradient: bool = False
    source: str
