"""What a metric is."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float

from kcircuits.engine.annotations import Reads, Tensor, TokenRows

MetricFunction = Callable[[Tensor, Tensor, Reads], Tensor]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number per prompt: the sum of what is read of the logits at its answer's positions.

    Attributes:
        name: Name in the registry.
        compute: (logits [read, vocab], clean logits [read, vocab], reads) -> values [read].
        unit: Unit of the values.
        with_foil: Compares the target with the foil; otherwise only the target is read.
        has_clean_gradient: The gradient at the clean run is not identically zero, so that
            methods which look there alone can use the metric.
    """

    name: str
    compute: MetricFunction
    unit: str
    with_foil: bool = False
    has_clean_gradient: bool = True
    is_higher_better: bool = True

    def by_prompt(
        self,
        logits: Float[Tensor, "read vocab"],
        clean_logits: Float[Tensor, "read vocab"],
        rows: TokenRows,
    ) -> Float[Tensor, " prompt"]:
        """The metric of every prompt of a chunk."""
        values = self.compute(logits, clean_logits, rows.reads)
        return values.new_zeros(rows.n_prompts).index_add(0, rows.reads.prompt, values)
