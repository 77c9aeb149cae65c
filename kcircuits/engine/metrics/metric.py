"""What a metric is."""

from collections.abc import Callable
from dataclasses import dataclass

from kcircuits.engine.annotations import Tensor

MetricFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number per prompt, read off the logits at its answer position.

    Attributes:
        name: Name in the registry.
        compute: (logits [row, vocab], clean logits [row, vocab], target [row], foil [row]) ->
            values [row].
        unit: Unit of the values.
        has_clean_gradient: The gradient at the clean run is not identically zero, so that
            methods which look there alone can use the metric.
    """

    name: str
    compute: MetricFunction
    unit: str
    has_clean_gradient: bool = True
    is_higher_better: bool = True
