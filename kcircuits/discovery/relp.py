"""RelP: edge attribution with a backward pass that follows relevance instead of the gradient.

Norm scales are constants (query, key and post-norms count as norms here), an activation is a
constant times its input, a gated product passes half of its gradient to each factor; attention
patterns keep their gradient, as in the authors' default.
"""

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
    from kcircuits.engine.layers import BackwardRules

    rules = BackwardRules(freeze_norms=True, linear_activations=True, halve_products=True)
    return path_scores(weights, rows, question, (1.0,), rules)


relp = Method(
    name="relp",
    score=_score,
    needs_clean_gradient=True,
    source="Rezaei Jafari, Eberle, Khakzar, Nanda 2025, arXiv 2508.21258",
)
