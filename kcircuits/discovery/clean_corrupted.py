"""The mean of two gradients: at the clean and at the corrupt (ablated) embeddings."""

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

    return path_scores(weights, rows, question, (0.0, 1.0))


clean_corrupted = Method(
    name="clean-corrupted",
    score=_score,
    n_steps=lambda _: 2,
    source="Hanna, Pezzelle, Belinkov 2024, arXiv 2403.17806 (their library's clean-corrupted)",
)
