"""EAP with integrated gradients over activations, one group of senders after the other.

For the input, each attention layer and each MLP in turn, the group's output goes from its ablated
to its clean value on the grid k/n, k = 1..n, at clean inputs; gradients at all receivers are
averaged over all n (1 + 2 L) points. That is 1 + 2 L times the cost of integrating over inputs.
"""

from collections.abc import Mapping
from typing import Any

from kcircuits.discovery.eap_ig_inputs import check_steps
from kcircuits.discovery.method import Method
from kcircuits.engine.annotations import Question, Tensor, TokenRows, TransformerWeights


def _score(
    weights: TransformerWeights,
    rows: TokenRows,
    question: Question,
    params: Mapping[str, Any],
) -> Tensor:
    from kcircuits.engine.attribution import activation_scores

    return activation_scores(weights, rows, question, params["ig_steps"])


eap_ig_activations = Method(
    name="eap-ig-activations",
    score=_score,
    defaults={"ig_steps": 5},
    check=check_steps,
    n_steps=lambda params: params["ig_steps"],
    source="Hanna, Pezzelle, Belinkov 2024, arXiv 2403.17806 (their library's activations variant)",
)
