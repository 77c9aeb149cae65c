"""Edge attribution patching: the gradient at the clean run alone."""

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
    from kcircuits.engine.attribution import path_scores

    return path_scores(weights, rows, question, (1.0,))


eap = Method(
    name="eap",
    score=_score,
    needs_clean_gradient=True,
    source="Syed, Rager, Conmy 2023, arXiv 2310.10348",
)
