"""GIM: edge attribution whose backward pass accounts for interactions between factors.

Norm scales are constants, the softmax has the Jacobian diag(p) - p p' with p at temperature 2, and
products pass an equal part of their gradient to each factor: half to gate and up and to values, a
quarter to queries and to keys, whose product is itself a factor of pattern times values. The
Jacobian has no factor 1 / temperature, as in the authors' code.
"""

from collections.abc import Mapping
from typing import Any

from kcircuits.discovery.method import Method
from kcircuits.engine.annotations import Question, Tensor, TokenRows, TransformerWeights

TEMPERATURE = 2.0


def _score(
    weights: TransformerWeights,
    rows: TokenRows,
    question: Question,
    params: Mapping[str, Any],  # noqa: ARG001  # one signature for all methods
) -> Tensor:
    from kcircuits.engine.attribution import path_scores
    from kcircuits.engine.layers import BackwardRules

    rules = BackwardRules(
        freeze_norms=True,
        halve_products=True,
        halve_attention=True,
        softmax_temperature=TEMPERATURE,
    )
    return path_scores(weights, rows, question, (1.0,), rules)


gim = Method(
    name="gim",
    score=_score,
    needs_clean_gradient=True,
    source="Edin et al. 2025, arXiv 2505.17630",
)
