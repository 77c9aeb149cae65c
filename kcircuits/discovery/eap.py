"""Edge attribution patching: the gradient at the clean run alone."""

from collections.abc import Mapping
from typing import Any

from kcircuits.discovery.method import Method
from kcircuits.engine.annotations import Tensor, TokenRows, TransformerWeights
from kcircuits.engine.metrics import Metric


def _score(
    weights: TransformerWeights,
    rows: TokenRows,
    metric: Metric,
    params: Mapping[str, Any],  # noqa: ARG001  # one signature for all methods
) -> Tensor:
    from kcircuits.engine.attribution import edge_scores

    return edge_scores(weights, rows, metric, (1.0,))


eap = Method(
    name="eap",
    score=_score,
    needs_clean_gradient=True,
    source="Syed, Rager, Conmy 2023, arXiv 2310.10348",
)
