"""Exact edge patching: every edge ablated by itself. About half a forward pass per edge."""

from collections.abc import Mapping
from typing import Any

from kcircuits.discovery.method import Method
from kcircuits.engine.annotations import Question, Tensor, TokenRows, TransformerWeights


def _score(
    weights: TransformerWeights,
    rows: TokenRows,
    question: Question,
    params: Mapping[str, Any],  # noqa: ARG001  # one signature for all methods
) -> Tensor:
    from kcircuits.engine.exact import exact_scores

    return exact_scores(weights, rows, question)


exact = Method(
    name="exact",
    score=_score,
    has_levels=False,
    source="Conmy et al. 2023, arXiv 2304.14997 (activation patching of single edges)",
)
